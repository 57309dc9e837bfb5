"""Pictures as shapes with coordinates: heatmaps, bars and circuits in small, curves at full size.

A shape's `css` names the class that colours it, so that a picture follows the reader's colour scheme.
"""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tinymi.teaching.report.items import Bars, Cell, Graph, Heatmap, Lines, default_format, show, strengths

LEVELS = 10  # steps of the colour scales
WIDTH = 400  # of a picture in small; a phone shows it so, a wide screen larger
_LETTER = 6.6  # the width of a letter of 11 px
_LABELS = 110  # the widest column of labels


@dataclass(slots=True)
class Drawing:
    """Shapes in a frame; what comes later lies on top."""

    width: float
    height: float
    lines: list[tuple[str, str, float]] = field(default_factory=list)  # (path, css, width of the stroke)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)  # (x, y, width, height, css)
    texts: list[tuple[float, float, str, str]] = field(default_factory=list)  # (x, y, text, css)


def level(strength: float | None, two_sided: bool) -> str:
    """The class of a colour on a heatmap's scale; see `strengths`."""
    if strength is None:
        return ""
    letter = ("n" if strength < 0 else "p") if two_sided else "a"
    return f"{letter}{round(abs(strength) * LEVELS)}"


# --- heatmaps and bars ------------------------------------------------------------------------------------------


def heatmap(item: Heatmap) -> Drawing:
    """The cells without their numbers; labels where there is room."""
    names, heads = [show(label) for label in item.row_labels], [show(label) for label in item.column_labels]
    left = _label_width([*names, item.row_axis])
    wide = min((WIDTH - left) / max(len(heads), 1), 80)
    high = min(max(240 / max(len(names), 1), 4), 22)
    drawing = Drawing(left + wide * len(heads) + 1, 19 + high * len(names))
    drawing.boxes.append((left, 18, wide * len(heads), high * len(names), "frame"))
    drawing.texts.append((left - 6, 12, _cut(item.row_axis, left), "end"))
    every = math.ceil(max(map(len, heads), default=0) * _LETTER / wide) if not _are_words(item.column_labels) else 1
    for column, head in enumerate(heads):
        if column % every == 0:
            text = _cut(head, wide * every)
            drawing.texts.append((left + wide * (column + 0.5), 12, text, "middle"))
    for row, parts in enumerate(strengths(item)):
        top = 18 + high * row
        if row % math.ceil(12 / high) == 0:
            drawing.texts.append((left - 6, top + high / 2 + 4, _cut(names[row], left), "end"))
        for column, part in enumerate(parts):
            css = level(part, item.center is not None)
            drawing.boxes.append((left + wide * column, top, wide, high, css))
            if item.texts and high >= 12:
                text = _cut(show(item.texts[row][column]), wide)
                drawing.texts.append((left + wide * (column + 0.5), top + high / 2 + 4, text, "middle ink"))
    return drawing


def bars(item: Bars) -> Drawing:
    """A row per label; several series side by side."""
    names = [show(label) for label in item.labels]
    left = _label_width(names, 170 if len(item.series) == 1 else _LABELS)
    high = min(max(300 / max(len(names), 1), 5), 20)
    values = [value for column in item.series.values() for value in column if value is not None]
    low, most = min([0.0, *values]), max([0.0, *values])
    head = 18 if any(item.series) else 0
    drawing = Drawing(WIDTH, head + high * len(names))
    every = math.ceil(12 / high)
    for row, name in enumerate(names[::every]):
        drawing.texts.append((left - 6, head + high * (row * every + 0.5) + 4, _cut(name, left), "end"))
    room = (WIDTH - left) / max(len(item.series), 1)
    spec = item.format or default_format(values)
    for number, (series, column) in enumerate(item.series.items()):
        start = left + room * number
        axis = start + (room - 44) * -low / ((most - low) or 1.0)
        drawing.texts += [(start, 12, _cut(series, room), "")] * bool(series)
        for row, value in enumerate(column):
            length = (room - 44) * (value or 0.0) / ((most - low) or 1.0)
            css = "amount" if low == 0 else "negative" if length < 0 else "positive"
            drawing.boxes.append((min(axis, axis + length), head + high * row + 1, abs(length), high - 2, css))
            if high >= 12:
                place = (max(axis, axis + length) + 5, head + high * (row + 0.5) + 4)
                drawing.texts.append((*place, show(value, spec), "ink"))
        drawing.lines.append((f"M{axis:.1f} {head}V{drawing.height:.1f}", "axis", 1))
    return drawing


def _label_width(names: Sequence[str], most: float = _LABELS) -> float:
    return min((max(map(len, names), default=0) + 2) * _LETTER, most) + 8  # two more, as some letters are wide


def _are_words(labels: Sequence[Cell]) -> bool:
    return any(isinstance(label, str) for label in labels)


def _cut(text: str, room: float) -> str:
    """`text`, or as much of it as there is room for."""
    most = max(int(room / _LETTER), 1)
    return text if len(text) <= most else text[: most - 1] + "…"


# --- circuits ---------------------------------------------------------------------------------------------------

_GAP, _RISE, _PAD, _ROW = 14, 56, 9, 16
_Stop = str | tuple[int, int]  # a node by its name, or where an edge passes a row: (number of the edge, row)


def graph(item: Graph) -> Drawing:
    """Nodes as boxes, the lowest layer at the bottom; arrows are thicker where their weight is larger."""
    rows, routes = _routes(item)
    sizes: dict[_Stop, tuple[float, float]] = {name: _box_size(name, meaning) for name, _, meaning in item.nodes}
    widths = [sum(sizes.get(stop, (0, 0))[0] + _GAP for stop in row) + _GAP for row in rows]
    heights = [max(sizes.get(stop, (0, 0))[1] for stop in row) for row in rows]
    bottom = sum(heights) + _RISE * (len(rows) - 1) + 2
    drawing = Drawing(max(widths, default=20), max(bottom + 2, 20))
    places: dict[_Stop, tuple[float, float, float]] = {}  # (middle, top, bottom)
    for row, wide, high in zip(rows, widths, heights):
        x = (drawing.width - wide) / 2 + _GAP
        for stop in row:
            own, tall = sizes.get(stop, (0, high))
            places[stop] = (x + own / 2, bottom - tall, bottom)
            x += own + _GAP
        bottom -= high + _RISE
    _arrows(item, drawing, routes, places)
    for name, _, meaning in item.nodes:
        (middle, top, _), (wide, tall) = places[name], sizes[name]
        drawing.boxes.append((middle - wide / 2, top, wide, tall, "node"))
        drawing.texts.append((middle, top + _PAD + 11, show(name), "middle name"))
        for number, line in enumerate(_wrapped(meaning), start=1):
            drawing.texts.append((middle, top + _PAD + 11 + _ROW * number, line, "middle"))
    return drawing


def _routes(item: Graph) -> tuple[list[list[_Stop]], list[list[_Stop]]]:
    """The stops of each row from the lowest layer on, each near those that it comes from; the stops of each edge."""
    layers = sorted({layer for _, layer, _ in item.nodes})
    row_of = {name: layers.index(layer) for name, layer, _ in item.nodes}
    rows: list[list[_Stop]] = [[name for name in row_of if row_of[name] == row] for row in range(len(layers))]
    routes: list[list[_Stop]] = []
    for number, (start, end, _) in enumerate(item.edges):
        passed = range(row_of[start] + 1, row_of[end])
        routes.append([start, *((number, row) for row in passed), end])
        for row in passed:
            rows[row].append((number, row))
    sources: dict[_Stop, list[_Stop]] = {}
    for route in routes:
        for before, after in itertools.pairwise(route):
            sources.setdefault(after, []).append(before)
    share: dict[_Stop, float] = {}  # where in its row a stop is, 0 to 1
    for stops in rows:
        for number, stop in enumerate(stops):
            known = [share[source] for source in sources.get(stop, ()) if source in share]
            share[stop] = sum(known) / len(known) if known else (number + 0.5) / len(stops)
        stops.sort(key=lambda stop: share[stop])
        share |= {stop: (number + 0.5) / len(stops) for number, stop in enumerate(stops)}
    return rows, routes


def _wrapped(meaning: str) -> list[str]:
    return textwrap.wrap(show(meaning), 14)


def _box_size(name: str, meaning: str) -> tuple[float, float]:
    lines = _wrapped(meaning)
    longest = max(len(line) for line in [show(name), *lines])
    return longest * _LETTER * 1.05 + 2 * _PAD, _ROW * (len(lines) + 1) + 2 * _PAD - 2


def _arrows(
    item: Graph, drawing: Drawing, routes: list[list[_Stop]], places: dict[_Stop, tuple[float, float, float]]
) -> None:
    """Each edge from the top of a box to the foot of another; its weight stands where edges are apart."""
    largest = max((abs(weight) for _, _, weight in item.edges), default=0.0) or 1.0
    leaving, arriving = ([edge[end] for edge in item.edges] for end in (0, 1))
    for (start, end, weight), route in zip(item.edges, routes):
        path, curves = f"M{places[start][0]:.1f} {places[start][1]:.1f}", []
        for before, after in itertools.pairwise(route):
            (x1, y1, _), (x2, top, y2) = places[before], places[after]
            y2 += 7 * (after == end)
            curves.append((x1, y1, x2, y2))
            path += f"C{x1:.1f} {(y1 + y2) / 2:.1f} {x2:.1f} {(y1 + y2) / 2:.1f} {x2:.1f} {y2:.1f}"
            path += f"V{top:.1f}" * (after != end)
        css = "minus" if weight < 0 else "plus"
        drawing.lines.append((path, f"edge {css}", round(1 + 5 * abs(weight) / largest, 1)))
        drawing.lines.append((f"M{x2 - 5:.1f} {y2:.1f}h10l-5 -7z", f"tip {css}", 1))
        at_start = arriving.count(end) > leaving.count(start)
        curve = curves[0 if at_start else -1]
        places_on_it = [_on_curve(at if at_start else 1 - at, *curve) for at in (0.3, 0.4, 0.2, 0.5, 0.6, 0.7)]
        x, y = next((place for place in places_on_it if _is_free(place, drawing)), places_on_it[0])
        drawing.texts.append((x, y + 4, f"{weight:+.2f}", "middle weight"))


def _is_free(place: tuple[float, float], drawing: Drawing) -> bool:
    """Whether a weight can stand there beside those that stand already."""
    x, y = place
    return all(abs(x - x1) > 34 or abs(y + 4 - y1) > 12 for x1, y1, _, _ in drawing.texts)


def _on_curve(at: float, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float]:
    """A point of the curve from (x1, y1) to (x2, y2) that is upright at both ends."""
    rest, middle = 1 - at, (y1 + y2) / 2
    early, late = rest**3 + 3 * rest * rest * at, 3 * rest * at * at + at**3
    return early * x1 + late * x2, rest**3 * y1 + (3 * rest * rest * at + 3 * rest * at * at) * middle + at**3 * y2


# --- curves -----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 324, 52, 16, 36, 50


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves in a frame, with ticks at round numbers."""

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    xs: list[float]  # where each x stands
    curves: list[tuple[str, list[tuple[float, float, str]]]]  # (name, its points as (x, y, what it says))
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def chart(item: Lines) -> Chart:
    """The curves of `item`."""
    known = [value for column in item.series.values() for value in column if value is not None]
    x_ticks = ticks(min(item.x, default=0), max(item.x, default=1))
    y_ticks = ticks(min(known, default=0), max(known, default=1))

    def across(x: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]), 1)

    def up(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 1)

    spec = item.format or default_format(known)

    def points(name: str, column: Sequence[float | None]) -> Iterator[tuple[float, float, str]]:
        for x, y in zip(item.x, column):
            if y is not None:
                yield across(x), up(y), f"{name} {item.x_label} {x:g}: {show(y, spec)}".strip()

    curves = [(name or item.y_label or "y", list(points(name, column))) for name, column in item.series.items()]
    return Chart(
        [(across(x), f"{x:g}") for x in x_ticks],
        [(up(y), f"{y:g}") for y in y_ticks],
        [across(x) for x in item.x],
        curves,
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers at equal steps that enclose low..high."""
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]
