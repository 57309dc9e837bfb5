"""The exceptions and warnings that tinymi raises on purpose: one small family, one line each.

Each message names the thing, what is wrong with it, the value, what would be valid, and what to do. Anything else that
escapes from tinymi is a bug. Names and values come from strangers' files and prompts, so control characters in them are
spelled out.
"""

import difflib
import re
from collections.abc import Iterable

from tinymi.text import show_text

_LONGEST = 1500


def one_line(text: str) -> str:
    """A message as one line without control characters, its middle left out where it is very long."""
    line = show_text(re.sub(r"\s*\n\s*", " ", text))
    return line if len(line) <= _LONGEST else f"{line[:1000]} ... {line[-400:]}"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Part of a message: a question with the name that is nearest to a mistyped word, or "" where none is near."""
    nearest = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {nearest[0]}? " if nearest else ""


class TinymiError(Exception):
    """The base of the family: `except tinymi.TinymiError` catches every error that tinymi explains."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class SourceError(TinymiError):
    """A checkpoint cannot be found, fetched, converted or read."""


class ConfigError(TinymiError, ValueError):
    """A config.json is broken, or asks for something whose effect is not implemented."""


class WeightsError(TinymiError):
    """A tensor is missing, has the wrong shape or type, or its file is damaged."""


class TinymiWarning(UserWarning):
    """The base of what tinymi warns of, one line each: the model loads, but there is something to know."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ConfigWarning(TinymiWarning):
    """A config.json has fields that are not known here and were passed over."""


class WeightsWarning(TinymiWarning):
    """A tensor holds NaN or infinite numbers, or the file contradicts its config.json in what is tied."""


class MemoryShortageError(TinymiError, MemoryError):
    """The model or the run needs more memory than is available."""


class MemoryWarning(TinymiWarning):
    """The model or the run needs much memory, and this system does not say how much is available."""


class TokenizerError(TinymiError):
    """A tokenizer.json is missing, broken, or belongs to another model."""


class HookError(TinymiError, ValueError):
    """A hook names no point of this run, never fires, or returns something that does not fit its place."""


class NotCachedError(HookError, KeyError):
    """A cache is asked for a value that the run did not keep."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class SweepError(TinymiError):
    """A worker died or does not answer, or a file of finished tasks belongs to another sweep."""


class InputError(TinymiError, ValueError):
    """A prompt, token ids, a position, a layer or an option is not what the model can take."""
