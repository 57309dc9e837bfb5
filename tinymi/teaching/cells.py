"""The cells of a lesson's source: `# %% [markdown]` cells are its prose, `# %%` cells its code."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from tinymi.teaching.report import items

_MARK = re.compile(r"^# %%(.*)\n", re.MULTILINE)
_EXERCISE = re.compile(r"Exercise \(([^)]*)\): (.*?)(?:\n\nHint: (.*))?", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """One cell."""

    line: int  # of its mark, counted from 1
    title: str  # what the mark says: "# %% Set-up" has "Set-up"
    is_markdown: bool
    text: str  # prose without its comment signs, or code


@dataclass(frozen=True)
class Question:
    """An exercise as its cell asks it: "Exercise (easy, 5 minutes): ...", then "Hint: ..." as a second paragraph."""

    text: str = ""
    hint: str = ""  # several stand on lines of their own
    difficulty: str = ""
    minutes: int | None = None


class Script:
    """The source of a lesson while it runs. A notebook has no file, and so no cells here."""

    def __init__(self, variables: dict[str, Any]) -> None:
        """variables: the script's globals."""
        self.path = Path(variables["__file__"]) if "__file__" in variables else None
        self._variables = variables
        self._cells = cells(self.path.read_text("utf-8")) if self.path else []

    @property
    def number(self) -> str:
        """Of 07_activation_patching.py: "7"; "" where the name has none."""
        digits = re.match(r"\d+", self.path.name) if self.path else None
        return str(int(digits[0])) if digits else ""

    @property
    def name(self) -> str:
        """Its path from the folder `lessons` on, where it is in one; "" in a notebook."""
        if self.path is None:
            return ""
        *folders, file = self.path.parts
        start = len(folders) - folders[::-1].index("lessons") - 1 if "lessons" in folders else len(folders)
        return "/".join([*folders[start:], file])

    def passed(self) -> Iterator[Cell]:
        """The cells above the statement that runs now, each once."""
        return self._until(self._line())

    def rest(self) -> Iterator[Cell]:
        """The cells that were not passed yet."""
        return self._until(sys.maxsize)

    def _until(self, line: int) -> Iterator[Cell]:
        while self._cells and self._cells[0].line < line:
            yield self._cells.pop(0)

    def _line(self) -> int:
        """The line of the script's own statement that runs now."""
        frame: Any = sys._getframe()
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_globals is self._variables:
                return int(frame.f_lineno)
            frame = frame.f_back
        return 0


def cells(source: str) -> list[Cell]:
    """The cells in their order. The docstring's cell is left out: it is the lesson's head."""
    marks = list(_MARK.finditer(source))
    ends = [mark.start() for mark in marks[1:]] + [len(source)]
    all_cells = [_cell(source, mark, end) for mark, end in zip(marks, ends)]
    return [cell for cell in all_cells if cell.text and not cell.text.startswith('"""')]


def _cell(source: str, mark: re.Match[str], end: int) -> Cell:
    title, text = mark[1].strip(), source[mark.end() : end].strip("\n")
    line = source.count("\n", 0, mark.start()) + 1
    if not title.startswith("[markdown]"):
        return Cell(line, title, False, text)
    return Cell(line, "", True, re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip("\n"))


def question(cell: Cell) -> Question | None:
    """The exercise that a Markdown cell asks; None for any other cell."""
    match = _EXERCISE.fullmatch(cell.text) if cell.is_markdown else None
    if match is None:
        return None
    about, text = (" ".join(part.split()) for part in match.groups()[:2])
    hint = "\n".join(" ".join(part.split()) for part in (match[3] or "").split("\n\nHint: "))
    difficulty, _, minutes = about.partition(", ")
    digits = minutes.removesuffix(" minutes").removesuffix(" minute")
    return Question(text, hint, difficulty, int(digits) if digits else None)


def before_a_run(source: str) -> list[items.Item]:
    """What can be shown of a lesson that has not run: its text and its code, up to the exercises."""
    shown = takewhile(lambda cell: question(cell) is None, cells(source))
    return [item for cell in shown for item in as_items(cell)]


def as_items(cell: Cell) -> list[items.Item]:
    """A cell as code, or as headings and prose."""
    if not cell.is_markdown:
        return [items.Code(cell.text, folded=bool(cell.title))]
    parts = [part.strip("\n") for part in re.split(r"^(## .*)$", cell.text, flags=re.MULTILINE)]
    return [_text_item(part) for part in parts if part.strip()]


def _text_item(part: str) -> items.Item:
    return items.Section(part.removeprefix("## ").strip()) if part.startswith("## ") else items.Prose(part)
