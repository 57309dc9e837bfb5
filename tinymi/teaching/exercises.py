"""Exercises: the answer that a lesson computes, and whether a reader's is right, close or wrong."""

import difflib
import math
import re
from typing import Any, NamedTuple

from tinymi.errors import InputError
from tinymi.teaching.cells import Question
from tinymi.teaching.report import items
from tinymi.text import SPACE

CLOSE = 10  # times the tolerance
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(\.\d*)?(?:e[+-]?\d+)?%?", re.IGNORECASE)
_LONGEST = 6  # words that can be compared with a reader's; a longer answer is a sentence
_FILLERS = {"a", "an", "the", "layer", "layers", "head", "heads", "token", "position", "neuron", "it", "is"}


class Verdict(NamedTuple):
    """What to say about a reader's answer."""

    grade: str  # "right", "close", "wrong"; "open" where the answer is a sentence, which only its reader can compare
    text: str


def make_exercise(name: str, asked: Question, value: Any, tolerance: float | None, code: str) -> items.Exercise:
    """name: "7.2". tolerance: relative; None is 0.01 for a float and 0 for an int. code: what computes the answer."""
    value = items.plain(value)
    number = float(value) if isinstance(value, int | float) else None
    share = (0.01 if isinstance(value, float) else 0.0) if tolerance is None else tolerance
    shown = f"{value:.4g}" if isinstance(value, float) else items.show(value)
    within = abs(number or 0.0) * share
    return items.Exercise(asked.text, shown, asked.hint, asked.minutes, asked.difficulty, number, within, code, name)


def judge(exercise: items.Exercise, given: str) -> Verdict:
    """A reader's answer. Raises InputError for one that is no number, or no head, where one is asked for."""
    if exercise.value is None:
        return _judge_text(exercise, given)
    number, decimals = _number(exercise, given)
    error = abs(number - exercise.value)
    # Lessons print rounded numbers, so a reader who gives two decimals or more may have copied one.
    copied = decimals >= 2 and number != 0 and number == round(exercise.value, decimals)
    if error <= exercise.tolerance or copied:
        return Verdict("right", _stop(f"The answer is {exercise.answer}"))
    shown = f"{given} (read as {number:.10g})" if set(given) & set("%,") else given
    if error <= CLOSE * exercise.tolerance:
        return Verdict("close", f"{shown} is {error:.2g} away, and at most {exercise.tolerance:.2g} counts as right.")
    if abs(number + exercise.value) <= exercise.tolerance:
        return Verdict("wrong", "The size is right, the sign is not.")
    within = f"not within {exercise.tolerance:.2g} of" if exercise.tolerance else "not"
    return Verdict("wrong", f"{shown} is {within} the answer.")


def _number(exercise: items.Exercise, given: str) -> tuple[float, int]:
    """The number that a text gives, and to how many decimals: 77%, 1,234, -0.5."""
    text = given.strip().replace("\N{MINUS SIGN}", "-")
    match = _NUMBER.fullmatch(text)
    try:
        number = float(text.rstrip("%").replace(",", ""))
    except ValueError:
        match = None
    if match is None or not math.isfinite(number):
        raise _no_number(exercise, given, "0.5")
    percent = 2 if text.endswith("%") else 0
    return number / 10**percent, len(match[1] or ".") - 1 + percent


def _no_number(exercise: items.Exercise, given: str, example: str) -> InputError:
    return InputError(f"answer {given!r}: exercise {exercise.name} asks for a number; give one, such as {example}")


def _judge_text(exercise: items.Exercise, given: str) -> Verdict:
    """Words are compared without case, spaces, quotes and fillers. What follows a colon is the reason."""
    expected, words = _words(exercise.answer.partition(":")[0]), _words(given)
    if len(expected) > _LONGEST:
        return Verdict("open", _stop(f"Compare yours with this: {exercise.answer}"))
    shape = _shape(" ".join(expected))
    if shape in ("0", "0.0") and shape not in map(_shape, words):
        raise _no_number(exercise, given, "5" if shape == "0" else "5.2")
    if words and words == expected:
        return Verdict("right", _stop(f"The answer is {exercise.answer}"))
    if words and _resemble(words, expected):
        return Verdict("close", f"{given} is nearly the answer.")
    return Verdict("wrong", f"{given} is not the answer.")


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _words(text: str) -> list[str]:
    plain = re.sub(rf"[{SPACE}\s\"'`,;()\[\]]+", " ", text.casefold())
    words = [word.rstrip(".!?").removeprefix("+") for word in plain.split()]
    return [word for word in words if word not in _FILLERS] or words


def _shape(word: str) -> str:
    """0.0 of a head such as 23.4, 0 of a layer: numbers that are compared as words."""
    return re.sub(r"\d+", "0", word.lstrip("+-"))


def _resemble(words: list[str], expected: list[str]) -> bool:
    """The one's words are among the other's, or a word is misspelled. Numbers are never nearly the same."""
    if set(words) <= set(expected) or set(expected) <= set(words):
        return True
    one, other = " ".join(words), " ".join(expected)
    return not re.search(r"\d", one + other) and difflib.SequenceMatcher(None, one, other).ratio() >= 0.8
