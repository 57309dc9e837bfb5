"""Tokens and other foreign text, made visible: every string gets a look of its own and none can do harm.

A tokenizer's pieces hold spaces, newlines, half characters and anything else that a prompt may hold: terminal
escape sequences, right-to-left overrides, invisible letters. Printed raw they vanish, break a table or drive
the terminal. `show_token` writes each so that two different tokens never look the same.
"""

import re
import unicodedata

SPACE = "␣"
EMPTY = "(no text)"  # a real space never comes out of show_token, so no token can look like this
_NAMED = {" ": SPACE, "\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\"}
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that are drawn as nothing
_MAX_MARKS = 2  # combining marks on one letter; a longer pile would spill over its neighbours
_UNSAFE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


class Token(str):
    """A piece of text as the tokenizer cut it; tables, bars and pictures show it through `show_token`."""

    __slots__ = ()


def show_token(text: str) -> str:
    """`text` on one line with everything in it visible; two different texts never give the same result.

    A space becomes ``␣``, a newline ``\\n``, a tab ``\\t``, a backslash ``\\\\``. Control and format characters
    (terminal escapes, bidi controls, zero-width characters), other spaces, unpaired surrogates, the
    replacement character of a half-decoded token, and combining marks without a letter to sit on become their
    code point, as in ``\\x1b`` or ``\\u202e``.
    """
    if not text:
        return EMPTY
    composed = unicodedata.is_normalized("NFC", text)
    shown: list[str] = []
    marks_left = 0  # how many combining marks the letter before this character may still carry
    for char in text:
        category = unicodedata.category(char)
        if category[0] == "M" and composed and marks_left:
            marks_left -= 1
            shown.append(char)
            continue
        marks_left = _MAX_MARKS if category[0] == "L" else 0
        shown.append(_NAMED.get(char) or (_code_point(char) if _is_hidden(char, category) else char))
    return "".join(shown)


def show_text(text: str) -> str:
    """Prose with any control, bidi or surrogate character replaced by its code point; newlines are kept."""
    return _UNSAFE.sub(lambda match: _code_point(match.group()), text)


def _is_hidden(char: str, category: str) -> bool:
    return category[0] in "CMZ" or char in _BLANK_LETTERS or char in ("\ufffd", SPACE)


def _code_point(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
