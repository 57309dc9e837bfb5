"""The exceptions that tinymi raises on purpose: one small family, one line each.

Each message names the thing, what is wrong with it, the value found, what would be valid, and what to do
next. Anything else that escapes from tinymi is a bug. Names and values come from files and prompts of strangers:
whatever would break the line or drive a terminal is spelled out.
"""

import re

from tinymi.report.tokens import show_text

_LONGEST = 1500


def one_line(text: str) -> str:
    """A message as one line without control characters, its middle left out where it is very long."""
    line = show_text(re.sub(r"\s*\n\s*", " ", text))
    return line if len(line) <= _LONGEST else f"{line[:1000]} ... {line[-400:]}"


class TinymiError(Exception):
    """The base of the family: `except tinymi.TinymiError` catches every error that tinymi explains."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
