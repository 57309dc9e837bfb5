"""Tokens made visible: nothing vanishes, nothing does harm, and no two tokens look the same."""

import unicodedata

from tinymi.text import show_text, show_token

import pytest
from hypothesis import given
from hypothesis import strategies as st

SHOWN = [
    (" Paris", "␣Paris"),
    ("\n\n", r"\n\n"),
    ("\t", r"\t"),
    (r"\n", r"\\n"),  # a backslash and an n are not a newline
    ("␣", r"\u2423"),  # the mark itself is not a space
    ("", "(no text)"),
    ("(no text)", "(no␣text)"),
    ("\x1b[31m", r"\x1b[31m"),
    ("\u202eabc", r"\u202eabc"),
    ("\ud800", r"\ud800"),
    ("\ufffd", r"\ufffd"),
    ("\u200b", r"\u200b"),
    ("\xa0", r"\xa0"),
    ("\u0301", r"\u0301"),  # a combining accent with no letter under it
    ("e\u0301", r"e\u0301"),  # not the same as é
    ("é", "é"),
    ("日本", "日本"),
    ("\U000e0041", r"\U000e0041"),
]


@pytest.mark.parametrize(("token", "shown"), SHOWN)
def test_each_kind_of_token_has_its_look(token: str, shown: str) -> None:
    assert show_token(token) == shown


@given(st.text(st.characters() | st.sampled_from(" \n\\␣ntxu0\u0301(\ud800"), max_size=8))
def test_a_shown_token_holds_nothing_hidden(token: str) -> None:
    shown = show_token(token)
    assert shown == "(no text)" or all(unicodedata.category(char)[0] not in "CZ" for char in shown)
    assert shown


@given(*[st.text(st.sampled_from(" \n\\␣ntx1b\x1b(\u0301eé"), max_size=6)] * 2)
def test_different_tokens_look_different(one: str, other: str) -> None:
    assert (show_token(one) == show_token(other)) == (one == other)


def test_prose_keeps_its_lines_and_loses_its_controls() -> None:
    assert show_text("a line\nand \x1b[2J\x9b\u202e\ud800é") == "a line\nand \\x1b[2J\\x9b\\u202e\\ud800é"
