"""Items in a terminal: never too wide, never an escape that is not ours, readable without colour and Unicode."""

import io
import re

from tests.teaching.report_samples import document, pattern, samples
from tinymi.teaching.report import items, terminal
from tinymi.teaching.report.terminal import Screen, render
from tinymi.text import Token

import numpy as np
import pytest
import wcwidth

SGR = re.compile(r"\x1b\[[0-9;]*m")
SHOWN = [item for item in samples() if not isinstance(item, items.Code)]  # code is left out


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_no_line_is_wider_than_the_screen(width: int, unicode: bool, number: int) -> None:
    for line in render(SHOWN[number], Screen(width, unicode=unicode)).split("\n"):
        assert wcwidth.wcswidth(line) <= width, line
        assert wcwidth.wcswidth(line) >= 0, "a control character is left in the line"
        assert unicode or line.isascii(), line


@pytest.mark.parametrize("item", SHOWN, ids=lambda item: item.kind)
def test_colour_adds_nothing_but_colour(item: items.Item) -> None:
    plain, coloured = (render(item, Screen(80, color=color)) for color in (False, True))
    assert "\x1b" not in plain
    assert SGR.sub("", coloured) == plain


def test_numbers_that_look_alike_stay_text_and_columns_line_up() -> None:
    rows: list[list[items.Cell]] = [["01e5", 1, 0.5], ["1,000", 100, 12.25], [Token(" x"), None, float("nan")]]
    text = render(items.make_table(["token", "count", "p"], rows, "", {"p": "+.2f"}), Screen())
    lines = text.split("\n")
    assert [line.split() for line in lines[2:]] == [
        ["01e5", "1", "+0.50"],
        ["1,000", "100", "+12.25"],
        ["␣x", "–", "+nan"],
    ]
    assert len({len(line) for line in lines[2:4]}) == 1  # numbers end in the same column


def test_a_wide_table_is_split_and_loses_nothing() -> None:
    values = np.arange(60, dtype=float).reshape(2, 30) + 0.125
    table = items.make_table([f"c{n}" for n in range(30)], values, "", {f"c{n}": ".3f" for n in range(30)})
    text = render(table, Screen(80))
    assert all(f"{value:.3f}" in text for value in values.ravel())
    assert len(re.findall(r"\bc0\b", text)) > 1, "each block repeats the first column"


def test_bars_grow_with_their_values_and_to_the_side_of_their_sign() -> None:
    text = render(items.Bars(("a", "b", "c"), {"": (4.0, 2.0, -4.0)}), Screen())
    sides = [line.split("│") for line in text.split("\n")]
    counts = [(left.count("█"), right.count("█")) for left, right in sides]
    assert counts[0][0] == counts[1][0] == 0 == counts[2][1]
    assert counts[0][1] == pytest.approx(2 * counts[1][1], abs=1)
    assert counts[2][0] == pytest.approx(counts[0][1], abs=1)
    assert len({line.index("│") for line in text.split("\n")}) == 1, "one axis"


def test_a_wide_heatmap_tells_sign_and_size_without_colour_or_unicode() -> None:
    values = np.zeros((1, 200))
    values[0, :3] = [1.0, -1.0, 0.5]
    last = render(items.make_heatmap(values, None, None, None), Screen(unicode=False)).split("\n")[1]
    assert last.split()[1:4] == ["+#", "-#", "+*"]


def test_a_heatmap_drops_digits_rather_than_columns() -> None:
    values = np.linspace(-1, 1, 18).reshape(2, 9)
    lines = render(items.make_heatmap(values, None, None, None, row_axis="layer", column_axis="head"), Screen()).split(
        "\n"
    )
    assert len(lines) == 3
    assert lines[1].split()[-1] == "-0.06"


def test_a_heatmap_of_words_says_what_its_colours_mean() -> None:
    words = [["a", "b"], ["c", "d"]]
    picture = items.make_heatmap([[0.0, 0.5], [1.0, 0.25]], None, None, words, center=None, color="probability")
    lines = render(picture, Screen()).split("\n")
    assert lines[-1] == "(probability:  0.000  ░0.250  ▒0.500  ▓0.750  █1.000)"
    assert lines[2].split() == ["1", "█c", "░d"]


@pytest.mark.parametrize("color", [True, False])
def test_a_shade_stands_before_a_token_whatever_it_is_and_behind_a_number(color: bool) -> None:
    words = [[Token("-"), Token("+"), "a"]]
    texts, numbers = (
        SGR.sub("", render(items.make_heatmap([[1.0, 1.0, -1.0]], None, None, texts), Screen(color=color)))
        for texts in (words, None)
    )
    assert texts.split("\n")[1].split() == ["0", "█-", "█+", "█a"]
    assert numbers.split("\n")[1].split() == ["0", "1.000█", "1.000█", "-1.000█"]


def test_a_number_that_rounds_to_zero_has_no_minus_sign() -> None:
    text = render(
        items.make_table(["a", "b"], [[-0.001, -0.001], [-0.006, 0.0]], "", {"a": ".2f", "b": "+.1%"}), Screen()
    )
    assert [line.split() for line in text.split("\n")[2:]] == [["0.00", "-0.1%"], ["-0.01", "+0.0%"]]


def test_prose_is_markdown_without_its_signs() -> None:
    line = "A *b* and **c** in `d*e*` [f](https://g.h)\nor https://i.j. END->S2 2*3*4"
    text = f"{line}\n\n- one\n- two\n  and more\n\n    x @ W\n      y"
    assert render(items.Prose(text), Screen()).split("\n") == [
        "A b and c in `d*e*` f (https://g.h) or https://i.j. END->S2 2*3*4",
        "",
        "- one",
        "- two and more",
        "",
        "    x @ W",
        "      y",
    ]
    assert render(items.Prose("*a* **b**"), Screen(color=True)) == "\x1b[3ma\x1b[23m \x1b[1mb\x1b[22m"
    narrow = render(items.Prose("word " * 10 + "END->S2"), Screen(56)).split("\n")
    assert narrow[-1] == "END->S2", "not broken at its hyphen"
    assert render(items.Section("2. A title"), Screen()).split("\n")[0] == "2. A title"


def test_colours_differ_by_sign_and_by_kind() -> None:
    def colours(center: float | None) -> list[str]:
        picture = render(items.make_heatmap([[-1.0, 1.0]], None, None, None, center=center), Screen(color=True))
        return re.findall(r"48;5;(\d+)", picture)

    assert colours(0.0) == [str(terminal.MINUS[-1]), str(terminal.PLUS[-1])]
    assert colours(None) == [str(terminal.AMOUNT[-1])]
    for values, code in (((1.0, 2.0), terminal.BAR_AMOUNT), ((1.0, -2.0), terminal.BAR_PLUS)):
        assert f"\x1b[{code}m█" in render(items.Bars(("a", "b"), {"": values}), Screen(color=True))


def test_a_step_says_what_ran_and_what_came_of_it() -> None:
    step = next(item for item in samples() if isinstance(item, items.Step))
    lines = render(step, Screen()).split("\n")
    assert lines.index("  q = x @ W") < lines.index("  result: [batch 1, pos 6, 1]; multiply-adds: 1,990,656")
    text = " ".join(" ".join(lines).split())
    assert (
        "[pos 6, d_model 576] @ [d_model 576, n_heads*d_head 576], for each of 9 heads result: [batch 1, pos 6, 1]"
        in text
    )
    assert lines[-1].split()[-5:] == ["0.250", "-1234.500", "–", "0.000", "..."]


def test_attention_shows_the_head_asked_for() -> None:
    patterns = {2: pattern(2, 3), 5: pattern(2, 3, 1)}
    text = render(items.make_attention(["a", "b", "c"], patterns, "", [(5, 1)]), Screen())
    assert "layer 5, head 1" in text
    shown = [int(number) for number in re.findall(r"\d+", text.split("\n")[4])[1:4]]
    assert shown == [round(100 * share) for share in patterns[5][1, 2]]


def test_the_head_shown_by_default_is_the_one_that_looks_away() -> None:
    sink = np.zeros((2, 5, 5))
    sink[:, :, 0] = 1
    sink[1, 2:, 0], sink[1, 2:, 1] = 0, 1
    assert items.make_attention("abcde", {0: sink[:1], 7: sink}, "", None).shown == ((7, 1),)


def test_screen_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    def screen(encoding: str = "utf-8", **environment: str) -> Screen:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Screen.of(Terminal(io.BytesIO(), encoding=encoding))

    assert screen(COLUMNS="70") == Screen(70, color=True, unicode=True)
    assert screen(COLUMNS="20").width == terminal.MIN_WIDTH
    assert screen(NO_COLOR="1").color is False
    assert screen(NO_COLOR="1", FORCE_COLOR="1").color is True
    assert screen("ascii").unicode is False
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert Screen.of(file).color is False
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Screen.of(file).color is True


def test_every_kind_of_item_has_a_sample() -> None:
    assert {type(item).__name__ for item in document().items} == {kind.__name__ for kind in items.Item.__subclasses__()}
