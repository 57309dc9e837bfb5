"""What a lesson can say, as plain frozen data, and how numbers in it are written.

An item holds ordinary Python values (tuples, str, int, float, None), so it can be compared, written as JSON
and shown by any writer. The `make_*` functions take what a lesson has in its hands (NumPy arrays, lists) and
say at once when shapes and labels do not fit.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinymi.text import Token, show_text, show_token

import numpy as np

_SIGN = re.compile(r"^(?:.?[<>=^])?[-+ ]?")  # of a format specification; "z" behind it: a zero has no minus sign

Cell = str | int | float | None
"""What may stand in a table: text, a number, nothing (None), or a `Token` (a str shown by `show_token`)."""


@dataclass(frozen=True, slots=True)
class Item:
    """Anything a lesson says."""

    kind: ClassVar[str] = ""

    def _ipython_display_(self) -> None:
        """Nothing: a notebook has shown the item when the lesson said it, before it is the value of a cell."""


@dataclass(frozen=True, slots=True)
class Section(Item):
    """A heading."""

    kind: ClassVar[str] = "section"
    title: str


@dataclass(frozen=True, slots=True)
class Prose(Item):
    """Paragraphs, separated by blank lines, in a little Markdown.

    `code`, *emphasis*, **strong**, [text](address), "- " lists, and blocks indented by four spaces, which keep their
    line breaks.
    """

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True, slots=True)
class Headline(Item):
    """The answer to the lesson's question in one sentence, and the picture that shows it: first on the page."""

    kind: ClassVar[str] = "headline"
    text: str
    picture: Item | None = None


@dataclass(frozen=True, slots=True)
class Code(Item):
    """The code of one cell. The terminal leaves it out; the page shows it, folded where it only sets up."""

    kind: ClassVar[str] = "code"
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Preformatted(Item):
    """Text whose line breaks and columns matter: a formula, a drawing."""

    kind: ClassVar[str] = "preformatted"
    text: str
    caption: str = ""


Axes = tuple[tuple[str, int], ...]
"""The axes of an array by name and size: (("pos", 6), ("d_model", 576))."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An axis along which the reader can pick: a position, a head, a layer."""

    axis: str
    places: tuple[Cell, ...]
    first: int  # the number of the place that is shown first

    def name(self, number: int) -> str:
        """What a place is called; two tokens may be alike, so theirs begins with its number."""
        place = self.places[number]
        return f"{number} {show_token(place)}" if isinstance(place, Token) else show(place)


@dataclass(frozen=True, slots=True)
class Step(Item):
    """One step of a run: the code, the shapes (of a matmul's two factors, where there is one), some of its numbers."""

    kind: ClassVar[str] = "step"
    name: str
    meaning: str  # one plain sentence
    code: str
    factors: tuple[Axes, ...]  # none, or the two of a matmul
    times: str  # "for each of 9 heads": how often that matmul is done
    result: Axes
    multiply_adds: int
    where: tuple[Choice, ...]  # the places of the result that the page can pick
    numbers: Any = field(compare=False)  # float32 array [one axis per choice, some of the numbers at that place]
    more: bool  # whether a place has more numbers than these


@dataclass(frozen=True, slots=True)
class Table(Item):
    """Rows of cells under headers; `formats` holds one format specification per column ('' = by size)."""

    kind: ClassVar[str] = "table"
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bars(Item):
    """Signed bars on one scale: a row per label, a bar per series."""

    kind: ClassVar[str] = "bars"
    labels: tuple[Cell, ...]
    series: dict[str, tuple[float | None, ...]]
    caption: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Heatmap(Item):
    """A grid of values; `center` is the value without colour of a two-sided scale, None for a one-sided one.

    Each cell says its value, or where there are `texts`, the text that stands in its place; `color` then names what
    the colours mean.
    """

    kind: ClassVar[str] = "heatmap"
    values: tuple[tuple[float | None, ...], ...]
    row_labels: tuple[Cell, ...]
    column_labels: tuple[Cell, ...]
    caption: str = ""
    row_axis: str = ""
    column_axis: str = ""
    center: float | None = 0.0
    format: str = ""
    texts: tuple[tuple[Cell, ...], ...] | None = None
    color: str = ""


@dataclass(frozen=True, slots=True)
class Attention(Item):
    """Attention patterns, layer -> [n_heads, query_pos, key_pos]; `shown` are the (layer, head) to show first."""

    kind: ClassVar[str] = "attention"
    tokens: tuple[str, ...]
    patterns: dict[int, Any] = field(compare=False)  # float32 arrays, read-only
    caption: str = ""
    shown: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Highlight(Item):
    """Pieces of text, each token shaded by a value: how strongly a neuron fires there, say."""

    kind: ClassVar[str] = "highlight"
    rows: tuple[tuple[tuple[str, float | None], ...], ...]  # each a text, as (token, value) pairs
    labels: tuple[Cell, ...] = ()  # one per row, or none
    caption: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Graph(Item):
    """Nodes in layers and arrows between them: a circuit."""

    kind: ClassVar[str] = "graph"
    nodes: tuple[tuple[str, int, str], ...]  # (name, layer, what it is): layers are drawn from the bottom up
    edges: tuple[tuple[str, str, float], ...]  # (from, to, weight): thicker where the weight's size is larger
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Lines(Item):
    """Curves over a common x."""

    kind: ClassVar[str] = "lines"
    x: tuple[float, ...]
    series: dict[str, tuple[float | None, ...]]
    caption: str = ""
    x_label: str = "x"
    y_label: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Check(Item):
    """An identity that holds for every model, with the error measured."""

    kind: ClassVar[str] = "check"
    name: str
    error: float | None  # None: the error was not a number
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Finding(Item):
    """A claim about one model, with what speaks for it and the control it was held against."""

    kind: ClassVar[str] = "finding"
    text: str
    established: bool
    evidence: str
    control: str


@dataclass(frozen=True, slots=True)
class Exercise(Item):
    """A question to work on. The answer is not printed under it: `tinymi answer` compares, the page folds it."""

    kind: ClassVar[str] = "exercise"
    question: str
    answer: str
    hint: str = ""
    minutes: int | None = None
    difficulty: str = ""
    value: float | None = None  # the answer as a number, if it is one
    tolerance: float = 0.0  # how far another number may be from it
    code: str = ""  # how the answer is computed
    name: str = ""  # its lesson and its place in it: "7.2"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole lesson as it was said: what the JSON file and the page are written from."""

    title: str
    intro: tuple[tuple[str, str], ...]  # (name, text) of the docstring's paragraphs; the name may be ''
    command: str
    options: dict[str, Any]
    model: dict[str, Any]
    items: tuple[Item, ...]
    version: str


def axes_text(axes: Axes) -> str:
    """[pos 6, d_model 576]; an axis that is called by its size is written once."""
    return "[" + ", ".join(name if name == str(size) else f"{name} {size:,}" for name, size in axes) + "]"


def shape_lines(item: Step) -> list[str]:
    """The matmul, if there is one, the shape of the result, the multiply-adds, in words."""
    result = f"result: {axes_text(item.result)}"
    if not item.factors:
        return [result]
    matmul = " @ ".join(map(axes_text, item.factors)) + (f", {item.times}" if item.times else "")
    return [matmul, result, f"multiply-adds: {item.multiply_adds:,}"]


def head_name(item: Attention, layer: int, head: int) -> str:
    """How one head of `item` is called; the layer is named only where there are several or it is not 0."""
    return f"head {head}" if list(item.patterns) == [0] else f"layer {layer}, head {head}"


def excerpt(item: Step) -> Heatmap:
    """The numbers at the place that a step shows first, as a grid of one row."""
    row = numbers(item.numbers[tuple(choice.first for choice in item.where)])
    place = ", ".join(f"{choice.axis} {choice.name(choice.first)}" for choice in item.where)
    return Heatmap((row,), (place,), tuple(range(len(row))), row_axis="at", column_axis="number", format=".3f")


def head_picture(item: Attention, layer: int, head: int) -> Heatmap:
    """One head's pattern as a heatmap in percent, the future left empty."""
    pattern, n_pos = item.patterns[layer][head], len(item.tokens)
    values = tuple(
        tuple(100.0 * float(pattern[query, key]) if key <= query else None for key in range(n_pos))
        for query in range(n_pos)
    )
    rows = tuple(f"{position} {show_token(token)}" for position, token in enumerate(item.tokens))
    return Heatmap(values, rows, tuple(range(n_pos)), head_name(item, layer, head), "from", "to", None, ".0f")


def scale_stops(item: Heatmap) -> list[tuple[float, float]]:
    """Places on a heatmap's scale of colours, from one end to the other: (strength as in `strengths`, value)."""
    known = [value for row in item.values for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if item.center is None:
        return [(part / 4, low + (high - low) * part / 4) for part in range(5)]
    reach = max(high - item.center, item.center - low)
    return [(part / 2, item.center + reach * part / 2) for part in range(-2, 3)]


def strengths(item: Heatmap) -> list[list[float | None]]:
    """Each value on the scale -1 to 1 (two-sided, 0 at the center) or 0 to 1 (one-sided); None where there is none."""
    (_, base), *_, (_, high) = scale_stops(item)
    base = base if item.center is None else item.center
    return [
        [None if value is None else (value - base) / ((high - base) or 1.0) for value in row] for row in item.values
    ]


def make_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str, formats: Mapping[str, str]
) -> Table:
    cells = tuple(tuple(plain(cell) for cell in row) for row in rows)
    for number, row in enumerate(cells):
        if len(row) != len(headers):
            raise ValueError(
                f"table row {number} has {len(row)} cells; the headers are {len(headers)}: {list(headers)}"
            )
    if unknown := set(formats) - set(headers):
        raise ValueError(f"formats name no column: {sorted(unknown)}; the columns are {list(headers)}")
    return Table(tuple(headers), cells, caption, tuple(formats.get(name, "") for name in headers))


def columns_table(columns: Mapping[str, Any], rows: Iterable[int] | None, caption: str, format: str) -> Table:
    """A table of columns of one length. rows: which entries, in which order. format: how all floats are written."""
    cells = {name: [plain(cell) for cell in column] for name, column in columns.items()}
    lengths = {name: len(column) for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"a table's columns have one length; these have {lengths}")
    order = range(next(iter(lengths.values()), 0)) if rows is None else [int(row) for row in rows]
    formats = tuple(format if any(isinstance(cell, float) for cell in column) else "" for column in cells.values())
    return Table(tuple(cells), tuple(tuple(column[i] for column in cells.values()) for i in order), caption, formats)


def make_choices(where: Mapping[str, tuple[Sequence[Any], int]], values: Any) -> tuple[tuple[Choice, ...], Any]:
    """where: {"position": (tokens, the one shown first)} for each axis of `values` but the last."""
    array = np.array(values, dtype=np.float32)
    array.flags.writeable = False
    choices = tuple(
        Choice(axis, tuple(plain(place) for place in places), range(len(places))[first])
        for axis, (places, first) in where.items()
    )
    sizes = tuple(len(choice.places) for choice in choices)
    if array.ndim != len(sizes) + 1 or array.shape[:-1] != sizes:
        names = ", ".join(f"{choice.axis} {len(choice.places)}" for choice in choices)
        raise ValueError(f"a step's numbers have shape {array.shape}; [{names}, some numbers] is needed")
    return choices, array


def make_highlight(rows: Iterable[Any], labels: Sequence[Any], caption: str, format: str) -> Highlight:
    """rows: (tokens, values) pairs of one length each."""
    made = []
    for tokens, values in rows:
        strengths = numbers(values)
        if len(tokens) != len(strengths):
            raise ValueError(f"a highlighted text of {len(tokens)} tokens has {len(strengths)} values")
        made.append(tuple((Token(token), value) for token, value in zip(tokens, strengths)))
    return Highlight(tuple(made), tuple(plain(label) for label in labels), caption, format)


def make_series(values: Any, length: int, what: str) -> dict[str, tuple[float | None, ...]]:
    """One series (a sequence) or several (a mapping) of `length` numbers each."""
    series = values if isinstance(values, Mapping) else {"": values}
    made = {str(name): numbers(column) for name, column in series.items()}
    for name, column in made.items():
        if len(column) != length:
            raise ValueError(f"{what} series {name!r} has {len(column)} values for {length} labels")
    return made


def make_heatmap(
    values: Any, row_labels: Sequence[Any] | None, column_labels: Sequence[Any] | None, texts: Any, **about: Any
) -> Heatmap:
    grid = np.asarray(values, dtype=float)
    if grid.ndim != 2:
        raise ValueError(f"a heatmap takes a 2-d array [rows, columns]; this one has shape {grid.shape}")
    rows = tuple(plain(label) for label in (range(grid.shape[0]) if row_labels is None else row_labels))
    columns = tuple(plain(label) for label in (range(grid.shape[1]) if column_labels is None else column_labels))
    if grid.shape != (len(rows), len(columns)):
        raise ValueError(f"a heatmap of shape {grid.shape} has {len(rows)} row and {len(columns)} column labels")
    words = None if texts is None else tuple(tuple(plain(cell) for cell in row) for row in texts)
    if words is not None and [len(row) for row in words] != [grid.shape[1]] * grid.shape[0]:
        raise ValueError(f"a heatmap of shape {grid.shape} needs a text for every cell; it got {len(words)} rows")
    return Heatmap(tuple(numbers(row) for row in grid), rows, columns, texts=words, **about)


def make_attention(str_tokens: Sequence[str], patterns: Any, caption: str, shown: Iterable[Any] | None) -> Attention:
    by_layer = patterns if isinstance(patterns, Mapping) else {0: patterns}
    n_pos = len(str_tokens)
    made: dict[int, Any] = {}
    for layer, pattern in by_layer.items():
        array = np.array(pattern, dtype=np.float32)  # [n_heads, query_pos, key_pos], a copy of our own
        if array.ndim != 3 or array.shape[1:] != (n_pos, n_pos):
            raise ValueError(
                f"attention of layer {layer} has shape {array.shape}; [n_heads, {n_pos}, {n_pos}] is needed"
                f" for {n_pos} tokens (take one prompt of the batch: pattern[0])"
            )
        array.flags.writeable = False
        made[int(layer)] = array
    heads = [_layer_head(head, made) for head in shown] if shown is not None else [busiest_head(made)]
    return Attention(tuple(Token(token) for token in str_tokens), made, caption, tuple(heads))


def _layer_head(head: Any, patterns: Mapping[int, Any]) -> tuple[int, int]:
    """`head` is (layer, head), or a head number where there is one layer."""
    layer, index = (next(iter(patterns)), int(head)) if np.ndim(head) == 0 else (int(head[0]), int(head[1]))
    if layer not in patterns or not 0 <= index < len(patterns[layer]):
        raise ValueError(f"there is no head {index} in layer {layer} among the patterns given")
    return layer, index


def busiest_head(patterns: Mapping[int, Any]) -> tuple[int, int]:
    """The (layer, head) that looks away from position 0 and from itself most, averaged over positions."""
    best, best_share = (next(iter(patterns)), 0), -1.0
    for layer, pattern in patterns.items():
        away = 1 - pattern[:, 2:, 0] - np.diagonal(pattern, axis1=1, axis2=2)[:, 2:]  # [n_heads, query_pos]
        share = away.mean(axis=1) if away.shape[1] else np.zeros(len(pattern))
        if share.max() > best_share:
            best, best_share = (layer, int(share.argmax())), float(share.max())
    return best


def lines_table(item: Lines) -> Table:
    """The values of the curves, a row per x, all with the same digits."""
    names = tuple(name or item.y_label or "y" for name in item.series)
    spec = item.format or default_format(value for column in item.series.values() for value in column)
    return Table((item.x_label, *names), tuple(zip(item.x, *item.series.values())), "", ("g", *[spec] * len(names)))


def plain(value: Any) -> Cell:
    """`value` as an ordinary str, int, float or None; a Token stays one, NumPy's own types do not."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a cell holds text, a number, None or a Token, not {type(value).__name__}: {value!r}")


def numbers(values: Any) -> tuple[float | None, ...]:
    """A row of numbers; None stands for what is not a number."""
    row = [math.nan if value is None else float(value) for value in values]
    return tuple(value if math.isfinite(value) else None for value in row)


def default_format(values: Iterable[Any]) -> str:
    """A format specification that suits the largest of `values`: about four digits, the same for all."""
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    if largest == 0.0:
        return ".3f"
    if largest < 1e-3 or largest >= 1e7:
        return ".2e"
    return f".{min(4 if largest < 0.1 else 3, max(0, 3 - math.floor(math.log10(largest))))}f"


def fewer_digits(spec: str) -> str | None:
    """A fixed-point `spec` with one decimal less, None where there is none to give."""
    match spec[:-1].rpartition("."), spec[-1:]:
        case (before, ".", digits), "f" if digits.isdigit() and int(digits) > 1:
            return f"{before}.{int(digits) - 1}f"
    return None


def show(cell: Cell, spec: str = "", nothing: str = "–") -> str:
    """A cell as text: a Token made visible, a number by `spec`, None as a dash."""
    if cell is None:
        return nothing
    if isinstance(cell, Token):
        return show_token(cell)
    if isinstance(cell, str):
        return show_text(cell).replace("\n", r"\n")
    if isinstance(cell, int):
        return format(cell, spec or "d")
    return format(cell, _SIGN.sub(r"\g<0>z", spec or default_format([cell]), count=1))


def is_text(cells: Iterable[Cell]) -> bool:
    """Whether a column is one of text (written from the left) or of numbers."""
    return any(isinstance(cell, str) for cell in cells)


def show_column(cells: Sequence[Cell], spec: str = "") -> list[str]:
    """A column of cells as text, its floats with the same number of digits."""
    floats = spec or default_format(cells)
    return [show(cell, floats if isinstance(cell, float) else spec) for cell in cells]
