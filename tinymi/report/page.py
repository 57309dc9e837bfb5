"""A lesson as one HTML page: self-contained, without a network, for a browser, a phone, paper or a screen reader.

The template (page.html, items.html) escapes whatever it is given; this module turns items into the plain values
that the template places. Pictures are real tables with coloured cells, so that every value is text; curves are
drawn as SVG, with their values in a table beside them. The one script of the page serves what can be pointed at,
picked and slid (page.js says how); the page's content security policy allows that script, by its hash, and nothing
else. Without the script all is there but for these.

Curves are drawn here and not by a chart library: those that fit the page's size draw on a canvas, which can
neither be read aloud nor printed sharply nor follow the reader's colour scheme, and those that write SVG from
Python bring fixed colours and scripts of their own.
"""

import base64
import functools
import hashlib
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinymi.report.items import (
    Attention,
    Bars,
    Cell,
    Check,
    Document,
    Finding,
    Heatmap,
    Item,
    Lines,
    Section,
    Step,
    Table,
    default_format,
    excerpt,
    is_text,
    lines_table,
    scale_stops,
    show,
    show_column,
    strengths,
)
from tinymi.report.terminal import head_name, shape_lines
from tinymi.report.tokens import SPACE, Token, show_text, show_token

if TYPE_CHECKING:
    from tinymi.site import Built

LEVELS = 10  # steps of the colour scales
ATTENTION_BYTES = 600_000  # what attention patterns may take of a page; more layers than that are left out
_HERE = Path(__file__).parent
_PAPER, _PLUS, _MINUS, _AMOUNT = (
    ("#ffffff", "#15181d"),
    ("#f0745e", "#a4352b"),
    ("#6fa8f2", "#2b5fae"),
    ("#f2a93b", "#8a5700"),
)
_BASE32 = "0123456789abcdefghijklmnopqrstuv"


NAVIGATION = "<!-- links of a site stand here -->"


def page(document: Document) -> str:
    """The whole page."""
    checks = [item for item in document.items if isinstance(item, Check)]
    findings = [item for item in document.items if isinstance(item, Finding)]
    sections = [(number, item.title) for number, item in enumerate(document.items) if isinstance(item, Section)]
    return _fill(
        "page.html",
        document=document,
        sections=sections,
        checks_passed=sum(check.passed for check in checks),
        checks_total=len(checks),
        findings_established=sum(finding.established for finding in findings),
        findings_total=len(findings),
        views=[view(item, number) for number, item in enumerate(document.items)],
        style=style(),
        navigation=NAVIGATION,
        script=_script(),
        script_hash=base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
    )


def index_page(built: Sequence["Built"], model: str | None) -> str:
    """The page that a site begins with: every lesson, what it is about, and how it ended."""
    from tinymi import __version__

    model = "the default model, SmolLM2-135M-Instruct" if model is None else model
    return _fill("index.html", built=built, model=model, style=style(), version=__version__)


def navigation(before: tuple[str, str] | None, after: tuple[str, str] | None) -> str:
    """What takes the place of NAVIGATION: links to (file's stem, title) before and after, and to the index."""
    return _fill("navigation.html", before=before, after=after).strip()


def fragment(item: Item) -> str:
    """One item with its style, for display in a notebook."""
    script = _script() if isinstance(item, (Attention, Heatmap, Lines, Step)) else ""
    return _fill("fragment.html", view=view(item, id(item)), style=style(), script=script)


def _fill(template: str, **values: Any) -> str:
    return str(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(text=show_text, rich=_rich, token=_token, paragraphs=_paragraphs, sentence=_sentence)
    return environment


@functools.cache
def style() -> str:
    """The style sheet, with the colour scales for light and dark written out as classes."""
    light, dark = (_scale(scheme) for scheme in (0, 1))
    text = (_HERE / "page.css").read_text("utf-8")
    return f"{text}\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


@functools.cache
def _script() -> str:
    return (_HERE / "page.js").read_text("utf-8")


def _scale(scheme: int) -> str:
    """Classes p0..p10, n0..n10, a0..a10: positive, negative and one-sided, pale enough for the text on them."""
    rules = []
    for letter, strong in (("p", _PLUS), ("n", _MINUS), ("a", _AMOUNT)):
        for level in range(LEVELS + 1):
            rules.append(
                f".tinymi .{letter}{level}{{background:{_mix(_PAPER[scheme], strong[scheme], level / LEVELS)}}}"
            )
    return "\n".join(rules)


def _mix(start: str, end: str, share: float) -> str:
    pairs = ((int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


# --- text -----------------------------------------------------------------------------------------------------


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _rich(text: str) -> Any:
    """Prose on one line: escaped, with `backticks` as code and web addresses as links."""
    escaped = html.escape(show_text(str(text)))
    coded = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escaped)
    return _markup(re.sub(r"https?://[\w./%~?=#+-]*[\w/]", r'<a href="\g<0>">\g<0></a>', coded))


def _paragraphs(text: str) -> list[str]:
    return [" ".join(block.split()) for block in text.strip().split("\n\n")]


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "?", "!")) else ".")


def _token(text: str) -> Any:
    """A visible token; its marks for spaces and controls are dimmer than its letters."""
    shown = html.escape(show_token(text))
    return _markup(
        re.sub(rf"{SPACE}+|(?:\\(?:[nrt]|x\w\w|u\w{{4}}|U\w{{8}}))+", r'<span class="mark">\g<0></span>', shown)
    )


# --- items as values for the template ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell: its text (a Token stays one), whether it is a number, and how it is coloured or drawn."""

    text: Any
    number: bool = False
    css: str = ""
    title: str = ""
    bar: tuple[float, float] | None = None  # left edge and length in percent of the cell


def view(item: Item, number: int) -> dict[str, Any]:
    """What the template needs to place `item`; `number` makes its ids unique on the page."""
    base: dict[str, Any] = {"kind": item.kind, "item": item, "id": f"item-{number}"}
    match item:
        case Step():
            return base | _step(item)
        case Table():
            return base | {"rows": _table_rows(item)}
        case Bars():
            return base | _bars(item)
        case Heatmap():
            return base | _heatmap(item)
        case Attention():
            return base | _attention(item)
        case Lines():
            return base | _lines(item)
    return base


def _cell(cell: Cell, text: str) -> TableCell:
    return TableCell(cell if isinstance(cell, Token) else text, isinstance(cell, (int, float)) or cell is None)


def _table_rows(item: Table) -> list[list[TableCell]]:
    columns = [
        [TableCell(cell if isinstance(cell, Token) else text, not is_text(column)) for cell, text in zip(column, texts)]
        for column, texts in (
            (column, show_column(column, spec)) for column, spec in zip(zip(*item.rows), item.formats)
        )
    ]
    return [list(row) for row in zip(*columns)]


def _bars(item: Bars) -> dict[str, Any]:
    values = [value for column in item.series.values() for value in column if value is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    spec = item.format or default_format(values)
    digits = max((len(show(value, spec)) for value in values), default=1)
    rows = []
    for label, *row in zip(item.labels, *item.series.values()):
        cells = [
            TableCell(
                show(value, spec),
                True,
                "amount" if low == 0 else "negative" if (value or 0.0) < 0 else "positive",
                bar=None if value is None else (100 * (min(value, 0.0) - low) / span, 100 * abs(value) / span),
            )
            for value in row
        ]
        rows.append((_cell(label, show(label)), cells))
    return {"rows": rows, "axis": 100 * -low / span, "names": list(item.series), "digits": digits}


def _step(item: Step) -> dict[str, Any]:
    """The shapes in words and as boxes, the excerpt as a grid of one row."""
    boxes = []
    if item.factors:
        (rows, inner), (_, columns) = item.factors
        boxes = [
            (_box(one, other), *names)
            for one, other, *names in (
                (rows, inner, "rows", "inner"),
                (inner, columns, "inner", "columns"),
                (rows, columns, "rows", "columns"),
            )
        ]
    lines = [line.rpartition(": ")[::2] for line in shape_lines(item)]
    return {
        "rows": _heat_rows(excerpt(item)),
        "boxes": boxes,
        "shapes": [(name or "matmul", text) for name, text in lines],
    }


def _box(rows: tuple[str, int], columns: tuple[str, int]) -> dict[str, Any]:
    """A matrix as a rectangle: its sides, in pixels, grow with the logarithm of its axes."""
    (tall, height), (wide, width) = rows, columns
    names = {"rows": f"{tall} {height:,}", "columns": f"{wide} {width:,}"}
    return names | {"height": 10 + round(11 * math.log2(height)), "width": 10 + round(11 * math.log2(width))}


def _heatmap(item: Heatmap) -> dict[str, Any]:
    """The grid; its scale of colours; which of its axes is depth, for the slider."""
    axes = {"row": (item.row_axis, item.row_labels), "column": (item.column_axis, item.column_labels)}
    deep = [name for name, (axis, labels) in axes.items() if axis in ("layer", "layers") and len(labels) > 1]
    labels = axes[deep[0]][1] if deep else ()
    return {
        "rows": _heat_rows(item),
        "corner": _corner(item),
        "scale": _scale_of(item),
        "upright": any(isinstance(name, Token) and len(name) > 3 for name in item.column_labels),
        "deep": deep[0] if deep else "",
        "depths": len(labels),
    }


def _scale_of(item: Heatmap) -> list[tuple[str, str]]:
    """(colour's class, value where it stands) from one end of the scale to the other; most have no value."""
    stops = scale_stops(item)
    spec = item.format or default_format([value for _, value in stops])
    (_, low), *_, (_, high) = stops
    steps = range(LEVELS + 1) if item.center is None else range(-LEVELS, LEVELS + 1)
    texts = {steps[0]: show(low, spec), steps[-1]: show(high, spec)}
    texts |= {} if item.center is None else {0: show(item.center, spec)}
    return [(_level(step / LEVELS, item.center is not None), texts.get(step, "")) for step in steps]


def _corner(item: Heatmap) -> str:
    return " \\ ".join(name for name in (item.row_axis, item.column_axis) if name)


def _heat_rows(item: Heatmap) -> list[tuple[TableCell, list[TableCell]]]:
    spec = item.format or default_format([value for row in item.values for value in row])
    rows = []
    all_words = item.texts or [None] * len(item.values)
    parts_of_all = strengths(item)
    for label, row, parts, words in zip(item.row_labels, item.values, parts_of_all, all_words):
        texts = words or [show(value, spec, "") for value in row]
        cells = [
            TableCell(
                text,
                words is None,
                _level(part, item.center is not None),
                _place(item, label, column, value, text if words else None),
            )
            for text, value, part, column in zip(texts, row, parts, item.column_labels)
        ]
        rows.append((_cell(label, show(label)), cells))
    return rows


def _level(strength: float | None, two_sided: bool) -> str:
    if strength is None:
        return ""
    letter = ("n" if strength < 0 else "p") if two_sided else "a"
    return f"{letter}{round(abs(strength) * LEVELS)}"


def _place(item: Heatmap, row: Cell, column: Cell, value: float | None, says: Cell = None) -> str:
    """What a cell tells when it is pointed at: where it is, what it says where that is no number, its exact value."""
    exact = "no value" if value is None else f"{value:.6g}"
    if says is not None:
        exact = f"{show(says)} ({item.color or 'value'} {exact})"
    return f"{item.row_axis or 'row'} {show(row)}, {item.column_axis or 'column'} {show(column)}: {exact}"


# --- attention --------------------------------------------------------------------------------------------------


def _attention(item: Attention) -> dict[str, Any]:
    layers = _layers_that_fit(item)
    layer, head = item.shown[0] if item.shown else (layers[0], 0)
    pattern = item.patterns[layer][head]
    rows = [
        [TableCell(f"{100 * pattern[q, k]:.0f}", True, _level(float(pattern[q, k]), False)) for k in range(q + 1)]
        for q in range(len(item.tokens))
    ]
    payload = {
        "layers": layers,
        "tokens": [show_token(token) for token in item.tokens],
        "patterns": [[encode_pattern(one) for one in item.patterns[number]] for number in layers],
    }
    return {
        "rows": rows,
        "payload": payload,
        "start": (layers.index(layer), head),
        "n_heads": len(item.patterns[layer]),
        "shown": [
            (layers.index(one), other, head_name(item, one, other)) for one, other in item.shown if one in layers
        ],
        "layers": layers,
        "left_out": len(item.patterns) - len(layers),
        "shown_name": head_name(item, layer, head),
    }


def _layers_that_fit(item: Attention) -> list[int]:
    """The layers whose patterns go into the page: all, or evenly spread ones when all would be too much."""
    layers = list(item.patterns)
    n_pos, n_heads = len(item.tokens), max(len(pattern) for pattern in item.patterns.values())
    most = max(1, ATTENTION_BYTES // max(1, n_heads * n_pos * (n_pos + 1)))
    step = math.ceil(len(layers) / most)
    wanted = {layer for layer, _ in item.shown}
    return [layer for number, layer in enumerate(layers) if number % step == 0 or layer in wanted]


def encode_pattern(pattern: Any) -> str:
    """The lower triangle [query, key <= query] row by row, in thousandths, two base-32 digits each."""
    n_pos = len(pattern)
    values = [round(1000 * float(pattern[query, key])) for query in range(n_pos) for key in range(query + 1)]
    return "".join(_BASE32[value >> 5] + _BASE32[value & 31] for value in values)


# --- curves -----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 310, 52, 16, 28, 44


def _lines(item: Lines) -> dict[str, Any]:
    known = [value for column in item.series.values() for value in column if value is not None]
    x_ticks, y_ticks = (
        ticks(min(item.x, default=0), max(item.x, default=1)),
        ticks(min(known, default=0), max(known, default=1)),
    )

    def across(x: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]), 1)

    def up(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 1)

    spec = item.format or default_format(known)
    curves = [
        {
            "name": name or item.y_label or "y",
            "points": [
                (across(x), up(y), f"{name} {item.x_label} {x:g}: {show(y, spec)}".strip())
                for x, y in zip(item.x, column)
                if y is not None
            ],
        }
        for name, column in item.series.items()
    ]
    return {
        "curves": curves,
        "x_ticks": [(across(x), f"{x:g}") for x in x_ticks],
        "y_ticks": [(up(y), f"{y:g}") for y in y_ticks],
        "xs": [across(x) for x in item.x],
        "frame": {
            "width": _WIDTH,
            "height": _HEIGHT,
            "left": _LEFT,
            "right": _WIDTH - _RIGHT,
            "top": _TOP,
            "bottom": _HEIGHT - _BOTTOM,
        },
        "table": view(lines_table(item), 0),
    }


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers at equal steps that enclose low..high."""
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]
