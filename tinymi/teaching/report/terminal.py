"""Items as plain text for a terminal: at most `Screen.width` columns, with or without colour and Unicode.

Everything is drawn with glyphs of known width and then, where standard output cannot encode them, spelled in
ASCII (`Screen.spell`). Colour only repeats what signs, shades and numbers already say.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from tinymi.teaching.report import markdown
from tinymi.teaching.report.items import (
    Attention,
    Bars,
    Check,
    Exercise,
    Finding,
    Graph,
    Headline,
    Heatmap,
    Highlight,
    Item,
    Lines,
    Preformatted,
    Prose,
    Section,
    Step,
    Table,
    default_format,
    excerpt,
    fewer_digits,
    head_picture,
    is_text,
    lines_table,
    scale_stops,
    shape_lines,
    show,
    show_column,
    strengths,
)
from tinymi.text import SPACE, show_text, show_token

MIN_WIDTH = 60
MAX_WIDTH = 100  # longer lines of prose are hard to read
GAP = 2  # columns between two columns of a table
RAMP = " ░▒▓█"
PLUS, MINUS, AMOUNT = (224, 217, 210, 203), (195, 153, 111, 69), (230, 222, 215, 208)  # xterm's colours, pale to strong
BAR_PLUS, BAR_MINUS, BAR_AMOUNT = "38;5;167", "38;5;68", "38;5;172"  # readable on black and on white
SPARKS = "▁▂▃▄▅▆▇█"
_ASCII = str.maketrans("–—─━═−│█▓▒░▌…→←×·’‘“”±", "----=-|#@*:#~><x.''\"\"~") | {  # one column each
    ord(SPACE): r"\s",
    ord("≤"): "<=",
    ord("≥"): ">=",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """What the terminal can show."""

    width: int = 80
    color: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> "Screen":
        """The terminal behind `stream`, as COLUMNS, NO_COLOR, FORCE_COLOR and the stream's encoding describe it."""
        columns = shutil.get_terminal_size((80, 24)).columns
        forced = os.environ.get("FORCE_COLOR")
        color = forced not in ("", "0") if forced is not None else stream.isatty() and not os.environ.get("NO_COLOR")
        return cls(min(max(columns, MIN_WIDTH), MAX_WIDTH), color, _encodes(RAMP + SPARKS + SPACE, stream.encoding))

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text and code else text

    def bold(self, text: str) -> str:
        return self.paint(text, "1")

    def spell(self, text: str) -> str:
        """`text` in ASCII where the terminal has no more."""
        if self.unicode:
            return text
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def _encodes(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def render(item: Item, screen: Screen) -> str:
    """`item` as lines of text, each at most `screen.width` wide, without a newline at the end."""
    match item:
        case Section():
            return _section(item, screen)
        case Prose():
            return paragraphs(item.text, screen)
        case Headline():
            return screen.bold(sentence(item.text, screen, "Answer: ", "  "))
        case Highlight():
            return _with_caption(item.caption, _highlight(item, screen), screen)
        case Graph():
            return _with_caption(item.caption, _graph(item, screen), screen)
        case Preformatted():
            return _with_caption(item.caption, show_text(item.text).split("\n"), screen)
        case Step():
            return _step(item, screen)
        case Table():
            return _with_caption(item.caption, _table(item, screen), screen)
        case Bars():
            return _with_caption(item.caption, _bars(item, screen), screen)
        case Heatmap():
            return _with_caption(item.caption, _heatmap(item, screen), screen)
        case Attention():
            return _attention(item, screen)
        case Lines():
            return _with_caption(item.caption, _lines(item, screen), screen)
        case Check():
            return _check(item, screen)
        case Finding():
            return _finding(item, screen)
        case Exercise():
            return _exercise(item, screen)
    raise TypeError(f"the terminal has no way to show a {type(item).__name__}")


def paragraphs(text: str, screen: Screen) -> str:
    """Markdown wrapped to the screen: `code` keeps its signs, links are followed by their addresses."""
    return "\n\n".join(_block(block, screen) for block in markdown.blocks(show_text(text)))


def _block(block: markdown.Block, screen: Screen) -> str:
    if block.kind == "verbatim":
        return "\n".join(f"    {screen.spell(line)}".rstrip() for line in block.entries[0].split("\n"))
    lines = []
    for number, entry in enumerate(block.entries, start=1):
        mark = {"paragraph": "", "bullets": "- "}.get(block.kind, f"{number}. ")
        lines.append(sentence(entry, screen, mark, " " * len(mark)))
    return "\n".join(lines)


def sentence(text: str, screen: Screen, first: str = "", rest: str = "") -> str:
    """A text of one paragraph, wrapped; `first` and `rest` begin the first and the other lines."""
    return "\n".join(_wrap(_inline(markdown.spans(show_text(text)), screen), screen, first, rest))


def _inline(spans: Iterable[markdown.Span], screen: Screen) -> str:
    return "".join(_span(span, screen) for span in spans)


def _span(span: markdown.Span, screen: Screen) -> str:
    if span.kind == "text":
        return span.text
    if span.kind == "code":
        return f"`{span.text}`"
    text = _inline(span.parts, screen)
    if span.kind == "link":
        return text if text == span.address else f"{text} ({span.address})"
    on, off = ("1", "22") if span.kind == "strong" else ("3", "23")
    return f"\x1b[{on}m{text}\x1b[{off}m" if screen.color else text


def _wrap(text: str, screen: Screen, first: str = "", rest: str = "") -> list[str]:
    """One paragraph as lines."""
    import wcwidth

    text, first, rest = (screen.spell(part) for part in (text, first, rest))
    return wcwidth.wrap(text, screen.width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _with_caption(caption: str, lines: Iterable[str], screen: Screen) -> str:
    head = [screen.bold(line) for line in sentence(caption, screen).split("\n")] if caption else []
    return "\n".join([*head, *(screen.spell(line).rstrip() for line in lines)])


def _section(item: Section, screen: Screen) -> str:
    title = sentence(item.title, screen).split("\n")
    rule = screen.spell("─" * max(map(width, title)))
    return "\n".join(screen.bold(line) for line in [*title, rule])


def _check(item: Check, screen: Screen) -> str:
    verdict = "Check passed: " if item.passed else "Check FAILED: "
    error = "not a number" if item.error is None else f"{item.error:.1e}"
    text = sentence(f"{item.name}: error {error}, tolerance {item.tolerance:.0e}", screen, verdict, "  ")
    return text.replace(verdict, screen.paint(verdict, "32" if item.passed else "1;31"), 1)


def _finding(item: Finding, screen: Screen) -> str:
    head = "Finding: " if item.established else "Not established: "
    text = sentence(item.text, screen, head, "  ").replace(
        head, screen.paint(head, "1;32" if item.established else "1;33"), 1
    )
    parts = [(name, value) for name, value in (("Evidence", item.evidence), ("Control", item.control)) if value]
    return "\n".join([text, *(sentence(value, screen, f"  {name}: ", "    ") for name, value in parts)])


def _exercise(item: Exercise, screen: Screen) -> str:
    about = ", ".join(
        [item.difficulty] * bool(item.difficulty) + [f"{item.minutes} minutes"] * (item.minutes is not None)
    )
    head = f"Exercise {item.name}".rstrip() + (f" ({about})" if about else "")
    return sentence(item.question, screen, f"{head}: ", "  ")


def _step(item: Step, screen: Screen) -> str:
    """Name and meaning; below, a little to the right, what ran, its shapes, and an excerpt of the result."""
    code = "\n".join(f"  {screen.spell(line)}" for line in show_text(item.code).split("\n") if line)
    *matmul, size = shape_lines(item)[:2]
    size += f"; multiply-adds: {item.multiply_adds:,}" if matmul else ""
    shapes = "\n".join(sentence(line, screen, "  ", "    ") for line in (*matmul, size))
    name, meaning = sentence(item.name, screen), sentence(item.meaning, screen)
    head = "\n".join(map(screen.bold, name.split("\n")))
    head += ": " if width(name) + width(meaning) + 2 <= screen.width else "\n"
    return "\n".join(filter(None, (head + meaning, code, shapes, _excerpt(item, screen))))


def _excerpt(item: Step, screen: Screen) -> str:
    """The numbers of a step, coloured, behind their place; on a line of their own where there is no room."""
    grid = excerpt(item)
    texts = [screen.spell(show(value, grid.format)) for value in grid.values[0]]
    cells = [screen.paint(text, _background(part)) for text, part in zip(texts, strengths(grid)[0])]
    place = f"{show(grid.row_labels[0])}:" if item.where else "numbers:"
    where = "\n".join(_wrap(place, screen, "  ", "    "))
    row = "  ".join([*cells, *["..."] * item.more])
    taken = len(where) + sum(width(text) + 2 for text in texts) + 5 * item.more
    return f"{where}  {row}" if taken <= screen.width and "\n" not in where else f"{where}\n    {row}"


# --- tables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table as text: `least` and `most` are the widths it can live with and would like."""

    header: str
    cells: tuple[str, ...]
    is_text: bool

    @property
    def most(self) -> int:
        return max(map(width, (self.header, *self.cells)))

    @property
    def least(self) -> int:
        """Numbers are never broken; text and headers may be, but not into crumbs."""
        word = max((width(word) for word in self.header.split()), default=0)
        cells = max(map(width, self.cells), default=0)
        return max(min(word, 10), min(cells, 10) if self.is_text else cells, 1)


def _table(item: Table, screen: Screen) -> list[str]:
    columns = [
        Column(
            screen.spell(show_text(header)),
            tuple(screen.spell(cell) for cell in show_column(cells, spec)),
            is_text(cells),
        )
        for header, spec, cells in zip(
            item.headers, item.formats, zip(*item.rows) if item.rows else [()] * len(item.headers)
        )
    ]
    lines: list[str] = []
    for block in _blocks(columns, screen.width):
        lines += ([""] if lines else []) + _grid(block, screen)
    return lines


def _blocks(columns: Sequence[Column], available: int) -> list[list[Column]]:
    """The columns in blocks that fit side by side; each block after the first repeats the first column."""
    blocks: list[list[Column]] = [[columns[0]]]
    for column in columns[1:]:
        if sum(c.least + GAP for c in [*blocks[-1], column]) - GAP > available and len(blocks[-1]) > 1:
            blocks.append([columns[0]])
        blocks[-1].append(column)
    return blocks


def _grid(columns: Sequence[Column], screen: Screen) -> list[str]:
    from tabulate import tabulate

    widths = _fit(columns, screen.width)
    headers = [_wrap_cell(column.header, size) for column, size in zip(columns, widths)]
    rules = [screen.spell("─") * size for size in widths]
    rows = zip(*([_wrap_cell(cell, size) for cell in column.cells] for column, size in zip(columns, widths)))
    text = tabulate(  # wrapped and with its header as a row: tabulate takes 33,920 for an int, and widens headers
        [headers, rules, *rows],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["left" if column.is_text else "right" for column in columns],
    )
    return text.split("\n")


def _fit(columns: Sequence[Column], available: int) -> list[int]:
    """Widths that together fit: the widest column that can still shrink gives way first."""
    widths = [column.most for column in columns]
    while sum(widths) + GAP * (len(widths) - 1) > available:
        slack = [(size, index) for index, size in enumerate(widths) if size > columns[index].least]
        if not slack:
            break
        widths[max(slack)[1]] -= 1
    return widths


def _wrap_cell(text: str, size: int) -> str:
    import wcwidth

    return "\n".join(wcwidth.wrap(text, size, break_on_hyphens=False)) if width(text) > size else text


def width(text: str) -> int:
    """The number of terminal columns that `text` takes."""
    import wcwidth

    return wcwidth.width(text)


def pad(text: str, size: int) -> str:
    """`text` in exactly `size` columns; what is too long ends in …"""
    import wcwidth

    if width(text) > size:
        text = wcwidth.clip(text, 0, size - 1) + "…"
    return wcwidth.ljust(text, size)


# --- bars -----------------------------------------------------------------------------------------------------


def _bars(item: Bars, screen: Screen) -> list[str]:
    """A row per label; the series side by side on one scale, or in blocks below each other when there is no room."""
    labels = [screen.spell(show(label)) for label in item.labels]
    label_width = min(max(map(width, labels), default=0), 28)
    values = [value for column in item.series.values() for value in column]
    spec = item.format or default_format(values)
    texts = {name: [show(value, spec) for value in column] for name, column in item.series.items()}
    number_width = max((len(text) for column in texts.values() for text in column), default=1)
    per_row = max(1, min(len(item.series), (screen.width - label_width) // (number_width + 16)))
    room = (screen.width - label_width) // per_row - number_width - 3
    names = list(item.series)
    lines: list[str] = []
    for start in range(0, len(names), per_row):
        block = names[start : start + per_row]
        columns = [_bar_column(item.series[name], texts[name], values, room, number_width, screen) for name in block]
        if any(block):
            lines.append(
                pad("", label_width) + "".join(f"  {pad(show_text(name), room + number_width + 1)}" for name in block)
            )
        lines += [
            pad(label, label_width) + "".join(f"  {cell}" for cell in row) for label, *row in zip(labels, *columns)
        ]
    return lines


def _bar_column(
    column: Sequence[float | None],
    texts: Sequence[str],
    scale: Sequence[float | None],
    room: int,
    digits: int,
    screen: Screen,
) -> list[str]:
    """Each value as `number bar` in room + digits + 1 columns; negative bars grow to the left of the axis."""
    low = min([value for value in scale if value is not None and value < 0], default=0.0)
    high = max([value for value in scale if value is not None and value > 0], default=0.0)
    span = (high - low) or 1.0
    plus = BAR_PLUS if low < 0 else BAR_AMOUNT
    left = round((room - 1) * -low / span)
    right = room - 1 - left
    cells = []
    for value, text in zip(column, texts):
        size = abs(value or 0.0) / span * (room - 1)
        if (value or 0.0) < 0:
            bar = (
                " " * (left - min(round(size), left))
                + screen.paint("█" * min(round(size), left), BAR_MINUS)
                + "│"
                + " " * right
            )
        else:
            full, half = divmod(round(2 * min(size, right)), 2)
            bar = " " * left + "│" + screen.paint("█" * full + "▌" * half, plus) + " " * (right - full - half)
        cells.append(f"{text:>{digits}} {bar}")
    return cells


# --- texts and circuits ---------------------------------------------------------------------------------------


def _highlight(item: Highlight, screen: Screen) -> list[str]:
    """Each text on its lines; the tokens with the largest values stand in brackets, with their values."""
    top = max((abs(value) for row in item.rows for _, value in row if value is not None), default=0.0)
    spec = item.format or default_format([value for row in item.rows for _, value in row])
    lines = []
    for number, row in enumerate(item.rows):
        words = [
            f"[{show_token(token)} {value:{spec}}]" if value is not None and top and abs(value) >= top / 2 else token
            for token, value in row
        ]
        label = f"{show(item.labels[number])}: " if item.labels else ""
        lines += _wrap(show_text(label + "".join(words)), screen, "", "  ")
    return lines


def _graph(item: Graph, screen: Screen) -> list[str]:
    """A line for each node, from the last layer down, with what it reads from."""
    lines = []
    for name, _, meaning in sorted(item.nodes, key=lambda node: -node[1]):
        sources = [f"{start} ({weight:+.2f})" for start, end, weight in item.edges if end == name]
        text = (f"{name}: {meaning}" if meaning else name) + (f" <- {', '.join(sources)}" if sources else "")
        lines += _wrap(show_text(text), screen, "", "    ")
    return lines


# --- heatmaps and attention ---------------------------------------------------------------------------------


def _heatmap(item: Heatmap, screen: Screen) -> list[str]:
    """Numbers with a shade behind each, or texts with one before, in blocks of columns that fit; see `_heat_texts`."""
    parts = strengths(item)
    labels = [screen.spell(show(label)) for label in item.row_labels]
    heads = [screen.spell(show(label)) for label in item.column_labels]
    corner = screen.spell(" \\ ".join(show_text(name) for name in (item.row_axis, item.column_axis) if name))
    label_width = min(max(map(width, [corner, *labels])), 20)
    room = screen.width - label_width
    texts = [[screen.spell(text) for text in row] for row in _heat_texts(item, parts, room)]
    cell = 1 + max(map(width, (text for row in texts for text in row)), default=1)
    cell = max(min(cell, 14), min(max(map(width, heads), default=1), room // max(len(heads), 1) - 1, 12))
    per_block = max(1, room // (cell + 1))
    lines: list[str] = []
    for start in range(0, len(heads), per_block):
        block = slice(start, start + per_block)
        lines += [""] if lines else []
        align = _right if item.texts is None else pad
        lines.append(pad(corner, label_width) + "".join(f" {align(head, cell)}" for head in heads[block]))
        for label, row, shades in zip(labels, texts, parts):
            cells = [
                _cell(text, shade, cell, screen, item, item.texts is not None)
                for text, shade in zip(row[block], shades[block])
            ]
            lines.append(pad(label, label_width) + "".join(f" {text}" for text in cells))
    return [*lines, _scale(item, screen)] if item.texts is not None else lines


def _scale(item: Heatmap, screen: Screen) -> str:
    """What the colours mean where the cells do not say it."""
    stops = scale_stops(item)
    spec = item.format or default_format([value for _, value in stops])
    texts = [show(value, spec) for _, value in stops]
    cells = [_cell(text, part, width(text) + 1, screen, item, True) for text, (part, _) in zip(texts, stops)]
    return f"({show_text(item.color) or 'scale'}: {'  '.join(cells)})"


def _heat_texts(item: Heatmap, parts: Sequence[Sequence[float | None]], room: int) -> list[list[str]]:
    """What the cells say: their texts; or numbers, with fewer digits where that spares a second block of columns;
    or, where four blocks would not do, the sign alone."""
    if item.texts is not None:
        return [[show(text) for text in row] for row in item.texts]
    known = [value for row in item.values for value in row if value is not None]
    spec: str | None = item.format or default_format(known)
    first = spec
    while spec is not None:
        texts = [[show(value, spec, "") for value in row] for row in item.values]
        if _columns_take(texts) <= room or item.format:
            break
        spec = fewer_digits(spec)
    else:
        texts = [[show(value, first or "", "") for value in row] for row in item.values]
    if _columns_take(texts) <= 4 * room:
        return texts
    signs = {True: "-", False: "+" if item.center is not None else ""}
    return [["" if s is None else signs[s < 0] for s in row] for row in parts]


def _columns_take(texts: Sequence[Sequence[str]]) -> int:
    """The width of all columns: each cell with its shade and a space before it."""
    return max(map(len, texts), default=0) * (2 + max((len(text) for row in texts for text in row), default=0))


def _right(text: str, size: int) -> str:
    import wcwidth

    return wcwidth.rjust(text, size) if width(text) <= size else pad(text, size)


def _cell(text: str, strength: float | None, size: int, screen: Screen, item: Heatmap, is_word: bool) -> str:
    """A number with its shade behind it (before it, a shade looks like a sign), or a word with its shade before it.

    Where there is colour, the shade hides in it.
    """
    shade = screen.spell(RAMP[min(int(abs(strength or 0.0) * (len(RAMP) - 1) + 0.5), len(RAMP) - 1)])
    body = pad(shade + text, size) if is_word else _right(text, size - 1) + shade
    if shade == RAMP[0] or not screen.color:
        return body
    background = _background(strength, item.center is None)
    hidden = f"\x1b[38;5;{background.rpartition(';')[2]}m{shade}\x1b[30m"  # in the colour that it stands on
    words = body.strip()
    gap = " " * (len(body) - len(words))
    if is_word:
        return screen.paint(hidden + words.removeprefix(shade), background) + gap
    return gap + screen.paint(words.removesuffix(shade) + hidden, background)


def _background(strength: float | None, one_sided: bool = False) -> str:
    """The colours of a cell: black on a background that is the stronger, the stronger its value."""
    if strength is None:
        return ""
    return f"30;48;5;{(AMOUNT if one_sided else MINUS if strength < 0 else PLUS)[min(int(abs(strength) * 4), 3)]}"


def _attention(item: Attention, screen: Screen) -> str:
    pictures = [head_picture(item, layer, head) for layer, head in item.shown]
    pieces = [
        _with_caption(f"{picture.caption} (percent of each token's attention)", _heatmap(picture, screen), screen)
        for picture in pictures
    ]
    others = sum(len(pattern) for pattern in item.patterns.values()) - len(pictures)
    if others:
        pieces.append(sentence(f"({others} more heads: in the page that --html writes, with a head picker.)", screen))
    caption = [screen.bold(sentence(item.caption, screen))] if item.caption else []
    return "\n".join(caption) + "\n" * bool(caption) + "\n\n".join(pieces)


# --- curves -------------------------------------------------------------------------------------------------


def _lines(item: Lines, screen: Screen) -> list[str]:
    """The values as a table, under a small picture of each curve on one common scale."""
    table = lines_table(item)
    names = [screen.spell(show_text(name)) for name in table.headers[1:]]
    if not screen.unicode or not item.x:
        return _table(table, screen)
    known = [value for column in item.series.values() for value in column if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    name_width = min(max(map(width, names)), 24)
    sparks = [
        pad(name, name_width) + "  " + _spark(column, low, high, screen.width - name_width - 2)
        for name, column in zip(names, item.series.values())
    ]
    reach = f"{item.x[0]:g} to {item.x[-1]:g}; height from {low:.3g} to {high:.3g}"
    note = sentence(f"(each curve from {item.x_label} = {reach})", screen).split("\n")
    return [*sparks, *note, "", *_table(table, screen)]


def _spark(column: Sequence[float | None], low: float, high: float, room: int) -> str:
    step = -(-len(column) // room) or 1
    stretch = max(1, min(3, room // max(len(column), 1)))
    glyphs = []
    for value in column[::step]:
        level = 0 if value is None else min(int((value - low) / ((high - low) or 1.0) * len(SPARKS)), len(SPARKS) - 1)
        glyphs.append((" " if value is None else SPARKS[level]) * stretch)
    return "".join(glyphs)


def print_item(item: Item, screen: Screen, stream: TextIO | None = None) -> None:
    """Print `item` to standard output (or `stream`), followed by an empty line."""
    print(render(item, screen), file=stream or sys.stdout, end="\n\n", flush=True)
