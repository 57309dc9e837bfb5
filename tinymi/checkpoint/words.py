"""How byte-level BPE cuts a text into words, in plain Python and exactly as the `tokenizers` library does.

A split rule asks of each character whether it is a letter, a number or a space. So the text is first written in marks,
one ASCII character for each of its own: A for letters, 0 for numbers, a tab for spaces, ! for the rest. The rule then
needs no tables of Unicode: [A-Za-z] is all of its letters.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import partial

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"


def _words(number: str) -> str:
    """The rule of LLaMA 3 and Qwen, which differ in how many digits stay together."""
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


GPT2 = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # the one that ByteLevel has built in
LLAMA3 = _words(r"\p{N}{1,3}")
QWEN = _words(r"\p{N}")
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def _ranges(text: str) -> list[tuple[str, str]]:
    """The first and the last character of each range of code points."""
    ends = [part.split("-") for part in text.split()]
    return [(chr(int(pair[0], 16)), chr(int(pair[-1], 16))) for pair in ends]


# The library knows the letters and numbers of Unicode 16, and Python 3.11 those of Unicode 14. Added since then:
_NEW_LETTERS = _ranges(
    "1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D4A-10D65 10D6F-10D85 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E "
    "11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D "
    "16D40-16D6C 18CFF 1B132 1B155 1DF25-1DF2A 1E030-1E06D 1E4D0-1E4EB 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"
)
_NEW_NUMBERS = _ranges(
    "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1D2C0-1D2D3 1E4F0-1E4F9 "
    "1E5F1-1E5FA"
)
_DIGITS_ONLY = _ranges("11DE0-11DE9 16FF4-16FF6")  # of Unicode 17: numbers for its Digits, not for its regexes
# It composes as Unicode 10 does. These characters are newer, or parts of newer ones: they stay as they are.
_NOT_COMPOSED = _ranges(
    "7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AEB 1DF6-1DFA A82C 105C9 105D2 105DA 105E4 10D24-10D27 "
    "10D69-10D6D 10EAB-10EAC 10EFA-10EFF 10F46-10F50 10F82-10F85 11070 1133B 11380-113D3 1145E 11839-1183A 11930-11943 "
    "119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97 11F41-11F42 1611E-1612F 16D63-16D6A 16FF0-16FF1 1E08F 1E130-1E136 "
    "1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3-1E6F5"
)
_COMPOSED = re.compile("[^" + "".join(f"{first}-{last}" for first, last in _NOT_COMPOSED) + "]+")


def composed(text: str) -> str:
    """Unicode's composed form, NFC: the letter e and an accent become é."""
    return _COMPOSED.sub(lambda run: unicodedata.normalize("NFC", run[0]), text)


class _Marks(dict[int, str]):
    """The mark of each character, for str.translate, found when it is first asked for."""

    def __missing__(self, code: int) -> str:
        self[code] = mark = _mark(chr(code))
        return mark


def _mark(character: str) -> str:
    kind = unicodedata.category(character)[0]
    if character.isascii():
        return character
    if character in SPACES:
        return "\t"
    if kind == "L" or _is_in(character, _NEW_LETTERS):
        return "S" if character == "ſ" else "A"  # where case does not matter, 'ſ is 's
    if kind == "N" or _is_in(character, _NEW_NUMBERS):
        return "0"
    return "\x80" if _is_in(character, _DIGITS_ONLY) else "!"


def _is_in(character: str, ranges: list[tuple[str, str]]) -> bool:
    return any(first <= character <= last for first, last in ranges)


_MARKS = _Marks()
Split = Callable[[str], list[str]]  # a text into its words, of which it consists without gap


def split_by(rule: str) -> Split:
    """By a regular expression of letters, numbers, spaces and ASCII that matches every character."""

    def in_marks(found: re.Match[str]) -> str:
        marks = found[0].replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9")
        return marks if marks.startswith("[") else f"[{marks}]"

    return partial(_split, re.compile(re.sub(r"\[.*?\]|\\p\{.\}", in_marks, rule), re.ASCII))


def split_digits(individual: bool) -> Split:
    """Numbers apart from all else, each digit by itself or not."""
    return partial(_split, re.compile(rf"[0-9\x80]{'' if individual else '+'}|[^0-9\x80]+"))


def begin_with_space(text: str) -> list[str]:
    return [text if text.startswith(" ") else f" {text}"]


def _split(rule: re.Pattern[str], text: str) -> list[str]:
    return [text[match.start() : match.end()] for match in rule.finditer(text.translate(_MARKS))]
