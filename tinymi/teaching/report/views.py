"""Items as the plain values that a template places: what is drawn where, in which colour, and what it tells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinymi.teaching.report import drawing, python_code
from tinymi.teaching.report.drawing import LEVELS, level
from tinymi.teaching.report.items import (
    Attention,
    Bars,
    Cell,
    Code,
    Exercise,
    Graph,
    Headline,
    Heatmap,
    Highlight,
    Item,
    Lines,
    Prose,
    Step,
    Table,
    default_format,
    excerpt,
    head_name,
    head_picture,
    is_text,
    lines_table,
    numbers,
    scale_stops,
    shape_lines,
    show,
    show_column,
    strengths,
)
from tinymi.teaching.report.links import Links, inline
from tinymi.text import Token, show_text, show_token

import numpy as np

ATTENTION_BYTES = 600_000  # what attention patterns may take of a page; more layers than that are left out
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def markup(text: str) -> Any:
    """HTML that is escaped already."""
    from markupsafe import Markup

    return Markup(text)


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell: its text (a Token stays one), whether it is a number, and how it is coloured or drawn."""

    text: Any
    number: bool = False
    css: str = ""
    title: str = ""
    bar: tuple[float, float] | None = None  # left edge and length in percent of the cell


def view(item: Item, number: int | str, writer: Links) -> dict[str, Any]:
    """What the template needs to place `item`; `number` makes its ids unique on the page."""
    base: dict[str, Any] = {"kind": item.kind, "item": item, "id": f"item-{number}"}
    match item:
        case Prose():
            return base | {"html": markup(writer.prose(item.text))}
        case Headline():
            return base | {"html": markup(inline(item.text))}
        case Code():
            return base | {"lines": python_code.lines_of(show_text(item.text))}
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
        case Highlight():
            return base | _highlight(item)
        case Graph():
            return base | {"drawing": drawing.graph(item), "nodes": _nodes(item)}
        case Lines():
            return base | {"chart": drawing.chart(item), "table": view(lines_table(item), 0, writer)}
        case Exercise():
            return base | {"lines": python_code.lines_of(show_text(item.code))}
    return base


def poster(headline: Headline, items: Sequence[Item]) -> dict[str, Any]:
    """The answer and its picture in small; `below` is the id of the picture with all its numbers."""
    picture = headline.picture
    below = next((f"item-{number}" for number, item in enumerate(items) if item is picture), "")
    base = {"text": headline.text, "below": below, "caption": getattr(picture, "caption", "")}
    base |= dict.fromkeys(("drawing", "is_circuit", "scale", "chart", "item", "view"))
    match picture:
        case Attention(shown=(head, *_)):
            pattern = head_picture(picture, *head)
            caption = f"{picture.caption} ({pattern.caption})" if picture.caption else pattern.caption
            return base | {"drawing": drawing.heatmap(pattern), "caption": caption, "scale": _scale_of(pattern)}
        case Heatmap():
            return base | {"drawing": drawing.heatmap(picture), "scale": _scale_of(picture)}
        case Bars():
            return base | {"drawing": drawing.bars(picture)}
        case Graph():
            return base | {"drawing": drawing.graph(picture), "is_circuit": True}
        case Lines():
            return base | {"chart": drawing.chart(picture), "item": picture}
    return base | ({"view": view(picture, "answer", Links(None))} if picture else {})


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


def _heatmap(item: Heatmap) -> dict[str, Any]:
    """The grid and its scale of colours."""
    return {
        "rows": _heat_rows(item),
        "corner": " \\ ".join(name for name in (item.row_axis, item.column_axis) if name),
        "scale": _scale_of(item),
        "upright": _stand_upright(item.column_labels),
    }


def _stand_upright(heads: Sequence[Cell]) -> bool:
    """Whether the tokens at the head of a grid would make its columns wide."""
    return any(isinstance(head, Token) for head in heads) and sum(len(show(head)) for head in heads) > 36


def _scale_of(item: Heatmap) -> list[tuple[str, str]]:
    """(colour's class, value where it stands) from one end of the scale to the other; most have no value."""
    stops = scale_stops(item)
    spec = item.format or default_format([value for _, value in stops])
    (_, low), *_, (_, high) = stops
    steps = range(LEVELS + 1) if item.center is None else range(-LEVELS, LEVELS + 1)
    texts = {steps[0]: show(low, spec), steps[-1]: show(high, spec)}
    texts |= {} if item.center is None else {0: show(item.center, spec)}
    return [(level(step / LEVELS, item.center is not None), texts.get(step, "")) for step in steps]


def _heat_rows(item: Heatmap) -> list[tuple[TableCell, list[TableCell]]]:
    spec = item.format or default_format([value for row in item.values for value in row])
    rows = []
    all_words = item.texts or [None] * len(item.values)
    for label, row, parts, words in zip(item.row_labels, item.values, strengths(item), all_words):
        texts = words or [show(value, spec, "") for value in row]
        cells = [
            TableCell(
                text,
                words is None,
                level(part, item.center is not None),
                _place(item, label, column, value, text if words else None),
            )
            for text, value, part, column in zip(texts, row, parts, item.column_labels)
        ]
        rows.append((_cell(label, show(label)), cells))
    return rows


def _place(item: Heatmap, row: Cell, column: Cell, value: float | None, says: Cell = None) -> str:
    """What a cell tells when it is pointed at: where it is, what it says where that is no number, its exact value."""
    exact = "no value" if value is None else f"{value:.6g}"
    if says is not None:
        exact = f"{show(says)} ({item.color or 'value'} {exact})"
    return f"{item.row_axis or 'row'} {show(row)}, {item.column_axis or 'column'} {show(column)}: {exact}"


def _highlight(item: Highlight) -> dict[str, Any]:
    """Each text as (label, its pieces, its largest value); a piece has its colour, its look and what it tells."""
    values = [value for row in item.rows for _, value in row]
    spec = item.format or default_format(values)
    two_sided = min((value for value in values if value is not None), default=0.0) < 0
    top = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    rows = []
    for number, row in enumerate(item.rows):
        pieces = [
            TableCell(
                show_token(token) if "  " in token else show_text(token).replace("\n", "\\n "),
                css="" if value is None else level(value / top, two_sided),
                title=f"{show_token(token)}: {show(value, spec, 'no value')}",
            )
            for token, value in row
        ]
        peak = max(row, key=lambda pair: abs(pair[1] or 0.0), default=("", None))
        label = _cell(item.labels[number], show(item.labels[number])) if item.labels else None
        rows.append((label, pieces, f"{show_token(peak[0])} {show(peak[1], spec)}"))
    return {"rows": rows}


def _nodes(item: Graph) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Each node of a circuit with what it is and what it reads from, the last layer first."""
    nodes = sorted(item.nodes, key=lambda node: -node[1])
    return [
        (name, meaning, [(start, f"{weight:+.2f}") for start, end, weight in item.edges if end == name])
        for name, _, meaning in nodes
    ]


# --- steps of a run ---------------------------------------------------------------------------------------------


def _step(item: Step) -> dict[str, Any]:
    """The shapes in words and as boxes, the excerpt as a grid of one row, and the other excerpts for the script."""
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
        "lines": python_code.lines_of(show_text(item.code)),
        "payload": _excerpts(item) if item.numbers.ndim > 1 else None,
    }


def _excerpts(item: Step) -> dict[str, Any]:
    """All excerpts of a step: its axes, and the numbers at every place as they are shown."""
    texts = " ".join(show(value, ".3f") for value in numbers(item.numbers.ravel()))
    return {"axes": [choice.axis for choice in item.where], "shape": item.numbers.shape, "numbers": texts}


def picks(items: Sequence[Item]) -> list[tuple[str, list[str], int]]:
    """The choices that the page's steps share: (axis, its places, the first one); the longest list of each axis."""
    choices = [choice for item in items if isinstance(item, Step) for choice in item.where]
    longest = {choice.axis: choice for choice in sorted(choices, key=lambda choice: len(choice.places))}
    return [
        (axis, [choice.name(number) for number in range(len(choice.places))], choice.first)
        for axis, choice in longest.items()
        if len(choice.places) > 1
    ]


def _box(rows: tuple[str, int], columns: tuple[str, int]) -> dict[str, Any]:
    """A matrix as a rectangle: its sides, in pixels, grow with the logarithm of its axes."""
    (tall, height), (wide, width) = rows, columns
    names = {"rows": f"{tall} {height:,}", "columns": f"{wide} {width:,}"}
    return names | {"height": 10 + round(11 * math.log2(height)), "width": 10 + round(11 * math.log2(width))}


# --- attention --------------------------------------------------------------------------------------------------


def _attention(item: Attention) -> dict[str, Any]:
    layers = _layers_that_fit(item)
    layer, head = item.shown[0] if item.shown else (layers[0], 0)
    shares = half_thousandths(item.patterns[layer][head])
    rows = [
        [TableCell(f"{(share + 10) // 20}", True, f"a{(share + 100) // 200}") for share in row[: query + 1]]
        for query, row in enumerate(shares.tolist())
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
        "upright": _stand_upright(item.tokens),
    }


def _layers_that_fit(item: Attention) -> list[int]:
    """The layers whose patterns go into the page: all, or evenly spread ones when all would be too much."""
    layers = list(item.patterns)
    n_pos, n_heads = len(item.tokens), max(len(pattern) for pattern in item.patterns.values())
    most = max(1, ATTENTION_BYTES // max(1, n_heads * n_pos * (n_pos + 1)))
    step = math.ceil(len(layers) / most)
    shown = {layer for layer, _ in item.shown}
    return [layer for number, layer in enumerate(layers) if number % step == 0 or layer in shown]


def half_thousandths(pattern: Any) -> Any:
    """Shares of attention in units of 1/2000, rounded down: percent and thousandths, rounded once, follow from them."""
    return np.floor(2000 * np.asarray(pattern, dtype=float)).clip(0, 2000).astype(int)


def encode_pattern(pattern: Any) -> str:
    """The lower triangle [query, key <= query] row by row, in half thousandths, two base-64 digits each."""
    shares = half_thousandths(pattern)[np.tri(len(pattern), dtype=bool)].tolist()
    return "".join(_PAIRS[share] for share in shares)
