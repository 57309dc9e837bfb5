"""The exceptions that tinymi raises on purpose: one small family, one line each.

Each message names the thing, what is wrong with it, the value found, what would be valid, and what to do
next. Anything else that escapes from tinymi is a bug.
"""


class TinymiError(Exception):
    """The base of the family: `except tinymi.TinymiError` catches every error that tinymi explains."""


class SourceError(TinymiError):
    """A checkpoint cannot be found, fetched, converted or read from where it lies."""


class ConfigError(TinymiError, ValueError):
    """A config.json is broken, or asks for something whose effect is not implemented."""


class WeightsError(TinymiError):
    """A tensor is missing, has the wrong shape or type, or its file is damaged."""


class WeightsWarning(UserWarning):
    """A tensor holds NaN or infinite numbers: the model loads, and what it computes will hold them too."""


class MemoryShortageError(TinymiError, MemoryError):
    """What is asked for needs more memory than there is."""


class TokenizerError(TinymiError):
    """A tokenizer.json is missing, broken, or belongs to another model."""


class HookError(TinymiError, ValueError):
    """A hook names no point of this run, never fires, or returns something that cannot take its place."""


class NotCachedError(HookError, KeyError):
    """A cache is asked for a value that the run did not keep."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class SweepError(TinymiError):
    """Workers died or do not answer, or a file of finished tasks belongs to another sweep."""


class InputError(TinymiError, ValueError):
    """A prompt, token ids, a position, a layer or an option is not what the model can take."""
