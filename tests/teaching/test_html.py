"""The page: well-formed, self-contained, nothing foreign in its markup, every number on it as text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import combinations

from tests.teaching.report_samples import HOSTILE, document, pattern, samples
from tinymi.teaching.report import items
from tinymi.teaching.report.drawing import LEVELS, bars, graph, ticks
from tinymi.teaching.report.html import fragment, notebook_head, page, style
from tinymi.teaching.report.items import Document
from tinymi.teaching.report.links import Link, Place, references
from tinymi.teaching.report.views import ATTENTION_BYTES, encode_pattern
from tinymi.text import Token, show_token

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


def of(*said: items.Item, place: Place | None = None, intro: tuple[tuple[str, str], ...] = ()) -> Reader:
    return Reader(page(Document("T", intro, "", {}, {}, said, "0"), place))


def links(reader: Reader, css: str | None = None) -> list[str]:
    return [str(a["href"]) for a in reader.all("a") if css is None or a.get("class") == css]


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


def test_a_caption_that_begins_with_a_name_keeps_its_small_letter() -> None:
    captions = [
        "blocks.0.hook_resid_pre in two runs",
        "W_E: mean 0.1",
        "'import numpy as': nats",
        "how far it moves",
        "a: b",
    ]
    reader = of(*(items.Bars(("a",), {"": (0.25,)}, caption) for caption in captions))
    classes = [attributes.get("class") for name, attributes in reader.elements if name == "span"]
    assert [css for css in classes if css == "as-is"] == ["as-is"] * 3


@pytest.mark.parametrize("n_series", [1, 2])
def test_a_bars_label_is_whole_in_the_picture_of_the_answer(n_series: int) -> None:
    labels = ("WWW", "32 principal components") if n_series == 1 else ("WWW",)
    drawing = bars(items.Bars(labels, {str(n): (0.5,) * len(labels) for n in range(n_series)}, ""))
    names = [(x, text) for x, _, text, css in drawing.texts if css == "end"]
    assert [text for _, text in names] == list(labels)
    for x, text in names:
        assert x > (10.5 if text == "WWW" else 6.6) * len(text)  # the width of W, and of a usual letter, in 11 px


def test_ids_are_unique_labels_point_somewhere_and_headings_descend() -> None:
    reader = Reader(page(document(items.Section("two"), items.Section("three"))))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [label["for"] for label in reader.all("label") if "for" in label] + [
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
    for words in ("Check FAILED a", "Check passed b", "Finding c", "Not established d", "1 of 2 passed"):
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


def test_a_step_draws_its_matmul_and_says_it() -> None:
    step = next(item for item in samples() if isinstance(item, items.Step))
    reader = of(step)
    assert "matmul [pos 6, d_model 576] @ [d_model 576, n_heads*d_head 576], for each of 9 heads" in reader.text
    assert "multiply-adds 1,990,656" in reader.text
    boxes = [str(box["class"]) for box in reader.all("i") if "style" in box]
    assert boxes == ["rows-inner", "inner-columns", "rows-columns"]
    sides = [[int(n) for n in re.findall(r"\d+", str(box["style"]))] for box in reader.all("i") if "style" in box]
    assert sides[0][1] == sides[2][1] < sides[0][0] == sides[1][1], "pos, d_model: equal axes have equal sides"


def test_what_the_script_picks_from_is_what_a_step_shows() -> None:
    step = items.Step("q", "m", "", (), "", (), 0, *items.make_choices(WHERE, np.arange(12).reshape(2, 3, 2)), True)
    reader = of(step)
    payload = json.loads(next(script for script in reader.raw["script"] if script.startswith("{")))
    assert (payload["axes"], payload["shape"]) == (["position", "head"], [2, 3, 2])
    assert payload["numbers"].split() == [f"{n}.000" for n in range(12)]
    assert [select["data-axis"] for select in reader.all("select")] == ["position", "head"]
    assert [option["value"] for option in reader.all("option") if "selected" in option] == ["1", "2"]
    assert "position 1 ␣b, head 2 10.000 11.000 …" in reader.text
    with pytest.raises(ValueError, match=r"shape \(2, 2\); \[position 2, head 3, some numbers\]"):
        items.make_choices(WHERE, np.zeros((2, 2)))


WHERE = {"position": ([Token("a"), Token(" b")], -1), "head": (range(3), 2)}


def test_patterns_are_rounded_once() -> None:
    one = pattern(1, 9)[0]
    one[8, :4] = [0.2346, 0.3445, 0.006, 0.0049]
    text = encode_pattern(one)
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
    halves = [64 * digits.index(text[at]) + digits.index(text[at + 1]) for at in range(0, len(text), 2)]
    exact = one[np.tril_indices(9)]
    np.testing.assert_array_equal([(half + 10) // 20 for half in halves], np.floor(100 * exact + 0.5))  # percent
    np.testing.assert_array_equal([(half + 1) // 2 for half in halves], np.floor(1000 * exact + 0.5))
    cells = [text for text in of(items.make_attention("a" * 9, one[None], "", None)).words if text.isdecimal()]
    assert cells[-10:-6] == ["23", "34", "1", "0"]


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


# --- what a page links to, and how it is built up -----------------------------------------------------------------

SITE = Place({"07": Link("07_x.html", "Who <moves> it?"), "quick start": Link("00_quick_start.html", "What?")})


def test_the_answer_and_its_picture_come_first_and_once() -> None:
    bars = items.Bars(("a", "b"), {"": (3.0, -1.0)}, "the bars")
    said = (items.Section("s"), items.Prose("text"), items.Code("x = 1"), bars, items.Headline("Head b.", bars))
    reader = of(*said, items.Code("lesson.finish()"))
    assert reader.text.count("Head b.") == 1
    places = [reader.text.index(words) for words in ("T Head b.", "See it computed", "text", "x = 1")]
    assert places == sorted(places)
    assert "lesson.finish" not in reader.text, "code that shows nothing closes no page"
    target = next(str(a["href"]) for a in reader.all("a"))
    assert target[1:] in [div.get("id") for div in reader.all("div")]
    lengths = [rect["width"] for rect in reader.all("rect") if rect["class"] in ("positive", "negative")]
    assert float(str(lengths[0])) == pytest.approx(3 * float(str(lengths[1])), rel=0.01)


@pytest.mark.parametrize("picture", [item for item in samples() if item.kind not in ("section", "check", "code")])
def test_every_picture_can_stand_beside_the_answer(picture: items.Item) -> None:
    assert "The answer" in of(picture, items.Headline("The answer", picture)).text


def test_code_is_shown_as_it_is_and_folded_where_it_sets_up() -> None:
    code = 'def f(x):\n    """<b>"""\n    return f"{x}" + 1.5  # why\n\n%magic ('
    for source in (code, code.rpartition("\n")[0]):
        reader = of(items.Code(source), items.Prose("end"))
        assert source in "".join(reader.words)
    parts = {str(i["class"]) for i in reader.all("i")}
    assert parts == {"k", "d", "s", "n", "c"}
    assert not of(items.Code("x = 1"), items.Prose("end")).all("summary")[1:]
    assert "Code: 1 lines" in of(items.Code("x = 1", folded=True), items.Prose("end")).text


def test_prose_is_markdown() -> None:
    text = "A *b* **c** `d*e*` [f](https://g.h/i) 2*3*4 <j>\n\n- k\n- l\n  m\n\n1. n\n\n    o\n      p"
    reader = of(items.Prose(text + "\n\n[q](javascript:r) END->S2"))
    tags = [tag for tag, _ in reader.elements]
    assert [tags.count(tag) for tag in ("em", "strong", "code", "ul", "ol", "li")] == [1, 1, 1, 1, 1, 3]
    assert "A b c d*e* f 2*3*4 <j> k l m n o p [q](javascript:r) END->S2" in reader.text
    assert "https://g.h/i" in links(reader)
    assert "END->S2" in reader.words, "not broken at its sign"
    assert "o\n  p" in reader.words


def test_words_are_explained_once_a_section_and_at_the_end() -> None:
    prose = items.Prose("The residual stream, the Residual Streams, `residual stream`, a residual streamer.")
    reader = of(items.Section("1"), prose, items.Section("2"), prose)
    assert links(reader, "term") == ["#word-residual-stream"] * 2
    assert [div.get("id") for div in reader.all("div") if "word" in str(div.get("id"))] == ["word-residual-stream"]
    assert "The d_model numbers at each position" in reader.text


def test_lessons_and_papers_are_links() -> None:
    intro = (("Needs", "quick start, tour"), ("Paper", "A et al. 2022, Title, https://arxiv.org/abs/1; B 2023"))
    reader = of(items.Prose("See lesson 7, and lessons 07 and 12."), place=SITE, intro=intro)
    assert links(reader).count("07_x.html") == 2
    assert "00_quick_start.html" in links(reader)
    assert "A et al. 2022, Title ; B 2023" in reader.text
    assert "https://arxiv.org/abs/1" in links(reader)
    assert "07_x.html" not in links(of(items.Prose("See lesson 7.")))
    assert references("C 2024") == "C 2024"


def test_an_exercise_hides_its_hints_and_its_answer() -> None:
    exercise = items.Exercise("Why?", "because", "think\nthink again", 5, "easy", code="x = 1", name="7.2")
    reader = of(exercise)
    assert "Exercise 7.2 (easy, 5 minutes) Why? Hint think Hint think again Answer because x = 1" in reader.text
    assert len(reader.all("details")) == 4


def test_a_shaded_text_names_its_values() -> None:
    reader = of(items.make_highlight([([" a", "\n"], [0.5, 2.0])], ["unit 3"], "fires", ".2f"))
    pieces = [(span["class"], span["title"]) for span in reader.all("span") if "title" in span]
    assert pieces == [("piece a2", "␣a: 0.50"), ("piece a10", r"\n: 2.00")]
    assert r"unit 3 a \n highest: \n 2.00" in reader.text


def test_a_circuit_is_drawn_from_the_bottom_up_and_told() -> None:
    nodes = (("in", 0, "reads"), ("3.1", 3, "moves it"), ("out", 9, ""))
    reader = of(items.Graph(nodes, (("in", "3.1", 1.0), ("3.1", "out", -0.5), ("in", "out", 0.1)), "c"))
    tops = {name: float(str(box["y"])) for (name, *_), box in zip(nodes, reader.all("rect"))}
    assert tops["out"] < tops["3.1"] < tops["in"]
    widths = [float(str(path["stroke-width"])) for path in reader.all("path") if "edge" in str(path["class"])]
    assert widths == [6.0, 3.5, 1.5]
    assert "out ; reads from 3.1 (-0.50), in (+0.10)" in reader.text


def test_the_weights_of_arrows_into_one_box_stand_apart() -> None:
    nodes = tuple((name, layer, "quite a word") for name, layer in (("a", 0), ("b", 0), ("x", 1), ("y", 1)))
    edges = tuple((start, end, 1.0) for start in "ab" for end in "xy")
    weights = [(x, y) for x, y, _, css in graph(items.Graph(nodes, edges)).texts if css.endswith("weight")]
    assert len(weights) == 4
    assert all(abs(x - x1) > 30 or abs(y - y1) > 11 for (x, y), (x1, y1) in combinations(weights, 2))


def test_an_arrow_that_passes_a_layer_passes_its_boxes() -> None:
    nodes = (("in", 0, ""), ("a", 1, "wide " * 5), ("out", 2, ""))
    reader = of(items.Graph(nodes, (("in", "a", 1.0), ("in", "out", 1.0))))
    box = {name: float(str(reader.all("rect")[1][name])) for name in ("x", "width")}
    passing = re.search(r" ([\d.]+) [\d.]+V", str(reader.all("path")[2]["d"]))
    assert passing
    assert not box["x"] - 5 < float(passing[1]) < box["x"] + box["width"] + 5


@pytest.mark.parametrize("item", samples(), ids=lambda item: item.kind)
def test_each_item_stands_alone_in_a_notebook(item: items.Item) -> None:
    reader = Reader(fragment(item))
    assert reader.elements[0] == ("div", {"class": "tinymi"})
    assert "<style" not in fragment(item), "it is sent once"
    assert not links(reader, "term"), "there is no list of words to lead to"


def test_a_notebook_gets_style_and_script_at_its_start() -> None:
    head = Reader(notebook_head())
    assert ".tinymi.tinymi.tinymi .heat" in "".join(head.raw["style"]), "stronger than the notebook's own"
    assert "globalThis.tinymi" in "".join(head.raw["script"])


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
    rules = re.findall(r"\.[pna]\d+\{background:(#\w{6});fill:\1\}", style())
    half = len(rules) // 2
    assert half == 3 * (LEVELS + 1)
    for colour in rules[scheme * half : (scheme + 1) * half]:
        light, dark = sorted((_luminance(colour), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour
