"""The page: well-formed, self-contained, nothing foreign in its markup, every number on it as text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from tests.report_samples import HOSTILE, document, pattern, samples
from tinymi.report import items
from tinymi.report.items import Document
from tinymi.report.page import ATTENTION_BYTES, LEVELS, encode_pattern, fragment, page, style, ticks
from tinymi.report.tokens import Token, show_token

import numpy as np
import pytest

VOID = {"meta", "link", "br", "input", "hr", "img"}


class Reader(HTMLParser):
    """Reads a page, insisting that tags close in order; keeps elements with attributes, text and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.raw.get(self.open[-1] if self.open else "", self.words)).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def of(*said: items.Item) -> Reader:
    return Reader(page(Document("T", (), "", {}, {}, said, "0")))


def test_foreign_text_never_becomes_markup_or_a_control_character() -> None:
    text = page(document())
    reader = Reader(text)
    assert "alert(1)" not in " ".join(script for script in reader.raw["script"] if not script.startswith("{"))
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    text.encode("utf-8")
    for token in HOSTILE:
        assert show_token(token) in "".join(reader.words).replace("\n", " "), token


def test_the_policy_allows_this_script_and_no_network() -> None:
    reader = Reader(page(document()))
    policy = next(meta["content"] for meta in reader.all("meta") if meta.get("http-equiv"))
    assert policy is not None
    scripts = [script for script in reader.raw["script"] if not script.lstrip().startswith("{")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert f"script-src 'sha256-{hashes[0]}'" in policy
    assert len(hashes) == 1
    assert policy.startswith("default-src 'none'")
    loads = [attributes.get(name) for tag, attributes in reader.elements for name in ("src", "href") if tag != "a"]
    assert {address for address in loads if address} == {"data:,"}
    assert "url(" not in style()
    assert "@import" not in style()


def test_ids_are_unique_labels_point_somewhere_and_headings_descend() -> None:
    reader = Reader(page(document(items.Section("two"), items.Section("three"))))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [label["for"] for label in reader.all("label")] + [
        str(a["href"])[1:] for a in reader.all("a") if str(a["href"])[0] == "#"
    ]
    assert targets
    assert set(targets) <= set(ids)
    headings = [tag for tag, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}


def test_tables_are_tables() -> None:
    table = items.make_table(["layer", "token"], [[0, Token(" Paris")], [1, "01e5"]], "A caption", {})
    reader = of(
        table, items.Bars(("a",), {"": (0.25,)}, "bars"), items.make_heatmap([[0.5]], None, None, None, caption="map")
    )
    assert len(reader.all("table")) == len(reader.all("caption")) == 3
    assert {th["scope"] for th in reader.all("th")} == {"col", "row"}
    assert "A caption layer token 0 ␣ Paris 1 01e5" in reader.text


def test_every_number_is_text() -> None:
    values = np.random.default_rng(3).normal(size=(4, 5))
    reader = of(
        items.make_heatmap(values, None, None, None, format=".4f"),
        items.Bars(tuple("abcd"), {"x": items.numbers(values[:, 0]), "y": items.numbers(values[:, 1])}, "", ".5f"),
        items.Lines((0.0, 1.0), {"curve": items.numbers(values[0, 2:4])}, "", format=".6f"),
        items.Check("identity", 2.5e-7, 1e-5),
    )
    wanted = [f"{value:.4f}" for value in values.ravel()] + [f"{value:.5f}" for value in values[:, :2].ravel()]
    for number in [*wanted, f"{values[0, 2]:.6f}", "2.5e-07", "1e-05"]:
        assert number in reader.text.split() or f"{number}," in reader.text.split(), number


def test_bars_start_at_the_axis_and_keep_their_proportions() -> None:
    styles = [str(bar["style"]) for bar in of(items.Bars(("a", "b"), {"": (3.0, -1.0)})).all("i")]
    places = [tuple(float(number) for number in re.findall(r"[\d.]+", text)) for text in styles]
    assert places == [(25.0, 75.0), (0.0, 25.0)]


def test_sign_and_verdict_are_words_too() -> None:
    reader = of(
        items.Check("a", 1.0, 0.1),
        items.Check("b", 0.0, 0.1),
        items.Finding("c", True, "e", "k"),
        items.Finding("d", False, "e", "k"),
    )
    for words in ("Check FAILED a", "Check passed b", "Finding c", "Not established d", "1 of 2 checks passed"):
        assert words in reader.text


def test_heatmap_cells_name_their_place_and_exact_value() -> None:
    heatmap = items.make_heatmap([[0.123456789, -2.0]], [7], ["x", "y"], None, row_axis="layer", column_axis="head")
    cells = of(heatmap).all("td")
    assert [cell["title"] for cell in cells] == ["layer 7, head x: 0.123457", "layer 7, head y: -2"]
    assert [cell["class"] for cell in cells] == ["p1", f"n{LEVELS}"]


def test_a_cell_of_words_names_what_it_says_and_what_colours_it() -> None:
    about = {"row_axis": "layer", "column_axis": "at", "center": None, "color": "probability"}
    heatmap = items.make_heatmap([[0.25]], [7], [Token(" is")], [[Token(" Paris")]], **about)
    reader = of(heatmap)
    assert [cell["title"] for cell in reader.all("td")] == ["layer 7, at ␣is: ␣Paris (probability 0.25)"]


def test_every_heatmap_has_its_scale() -> None:
    two_sided, one_sided = (
        of(items.make_heatmap([[-2.0, 4.0]], None, None, None, center=center, format=".1f")) for center in (0.0, None)
    )
    marks = [
        next(css for tag, css in found.elements if tag == "p" and css.get("class") == "scale")
        for found in (two_sided, one_sided)
    ]
    assert marks
    assert "scale -4.0 0.0 4.0" in two_sided.text
    assert "scale -2.0 4.0" in one_sided.text
    ends = [
        [
            css["class"]
            for tag, css in found.elements
            if tag == "span" and re.fullmatch(r"[pna]\d+", css.get("class") or "")
        ]
        for found in (two_sided, one_sided)
    ]
    assert ends == [[f"n{LEVELS}", "p0", f"p{LEVELS}"], ["a0", f"a{LEVELS}"]]


@pytest.mark.parametrize(
    ("row", "column", "deep"), [("layer", "head", "row"), ("head", "layer", "column"), ("query", "key", None)]
)
def test_an_axis_of_depth_has_a_slider(row: str, column: str, deep: str | None) -> None:
    reader = of(items.make_heatmap(np.ones((3, 4)), None, None, None, row_axis=row, column_axis=column))
    found = [attributes.get("data-axis") for attributes in reader.all("div") if attributes.get("class") == "depth"]
    assert found == ([deep] if deep else [])
    assert [slider["max"] for slider in reader.all("input")] == ({"row": ["2"], "column": ["3"]}.get(deep or "", []))


def test_a_step_draws_its_matmul_and_says_it() -> None:
    step = next(item for item in samples() if isinstance(item, items.Step))
    reader = of(step)
    assert "matmul [pos 6, d_model 576] @ [d_model 576, n_heads*d_head 576], for each of 9 heads" in reader.text
    assert "multiply-adds 1,990,656" in reader.text
    boxes = [str(box["class"]) for box in reader.all("i") if "style" in box]
    assert boxes == ["rows-inner", "inner-columns", "rows-columns"]
    sides = [[int(n) for n in re.findall(r"\d+", str(box["style"]))] for box in reader.all("i") if "style" in box]
    assert sides[0][1] == sides[2][1] < sides[0][0] == sides[1][1], "pos, d_model: equal axes have equal sides"
    assert str(reader.all("td")[1]["title"]).endswith("number 1: -1234.5")


def test_patterns_survive_their_packing() -> None:
    one = pattern(1, 9)[0]
    text = encode_pattern(one)
    values = [int(text[at : at + 2], 32) / 1000 for at in range(0, len(text), 2)]
    np.testing.assert_allclose(values, one[np.tril_indices(9)], atol=5.1e-4)


def test_the_picker_holds_every_head_and_starts_at_the_one_asked_for() -> None:
    reader = of(items.make_attention("abc", {4: pattern(3, 3), 6: pattern(3, 3)}, "", [(6, 2)]))
    payload = json.loads(next(script for script in reader.raw["script"] if script.startswith("{")))
    assert payload["layers"] == [4, 6]
    assert [len(heads) for heads in payload["patterns"]] == [3, 3]
    assert [option["value"] for option in reader.all("option") if "selected" in option] == ["2"]
    assert "layer 6, head 2" in reader.text


def test_the_picker_offers_as_many_heads_as_there_are_whatever_the_prompts_length() -> None:
    for n_heads, n_pos in ((5, 2), (2, 6)):
        reader = of(items.make_attention("abcdef"[:n_pos], {0: pattern(n_heads, n_pos)}, "", None))
        assert [option["value"] for option in reader.all("option")] == [str(head) for head in range(n_heads)]


def test_a_large_page_stays_under_a_megabyte_and_says_what_it_left_out() -> None:
    patterns = {layer: np.tile(np.eye(80), (16, 1, 1)) for layer in range(30)}
    text = page(Document("T", (), "", {}, {}, (items.make_attention(["x"] * 80, patterns, "", [(29, 3)]),), "0"))
    assert ATTENTION_BYTES / 2 < len(text) < 1_000_000
    assert "layers are left out" in text
    assert '"layers": [0, ' in text


@pytest.mark.parametrize("item", samples(), ids=lambda item: item.kind)
def test_each_item_stands_alone_in_a_notebook(item: items.Item) -> None:
    reader = Reader(fragment(item))
    assert reader.elements[0] == ("div", {"class": "tinymi"})
    assert item._repr_html_().count("<style>") == 1


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.2, 7.9), (1e-9, 2e-9), (5.0, 5.0), (0.0, 0.0), (-1e6, 1e6)])
def test_ticks_are_round_and_enclose(ends: tuple[float, float]) -> None:
    made = ticks(*ends)
    assert made[0] <= ends[0] + 1e-12
    assert made[-1] >= ends[1] - 1e-12
    assert 2 <= len(made) <= 9
    assert np.ptp(np.diff(made)) <= 1e-9 * max(abs(made[0]), abs(made[-1]))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize(("scheme", "ink"), [(0, "#1b1e24"), (1, "#e9ebee")])
def test_text_on_every_colour_of_the_scales_has_contrast(scheme: int, ink: str) -> None:
    assert f"--ink:{ink}" in style()
    rules = re.findall(r"\.[pna]\d+\{background:(#\w{6})\}", style())
    half = len(rules) // 2
    assert half == 3 * (LEVELS + 1)
    for colour in rules[scheme * half : (scheme + 1) * half]:
        light, dark = sorted((_luminance(colour), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour
