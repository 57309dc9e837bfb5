"""Lessons as Jupyter notebooks: for Jupyter, VS Code, Colab and JupyterLite.

A notebook is a JSON file with a list of cells. A lesson's source has them already; `notebook` puts one in front that
installs tinymi where it is missing, and `blanks` takes the solutions out.
"""

import ast
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching.catalogue import LessonFile
from tinymi.teaching.cells import Cell, cells, question
from tinymi.teaching.report.json import write_text

INSTALL = """# Installs tinymi where it is missing, and finds the data that lie beside the lessons.
try:
    import tinymi
except ImportError:
    %pip install -q tinymi
import sys
from tinymi.teaching import catalogue, check, hint
sys.path.append(str(catalogue.folder()))"""
BLANK = """# Your code goes here.
answer = None

check("{name}", answer)"""


def lesson_cells(lesson: LessonFile) -> list[Cell]:
    """All cells of a lesson: its docstring, then those of its source."""
    source = lesson.path.read_text("utf-8")
    return [Cell(1, "", True, ast.get_docstring(ast.parse(source)) or ""), *cells(source)]


def blanks(lesson: LessonFile, parts: Iterable[Cell]) -> list[Cell]:
    """The cells with a blank in place of each that computes an exercise's answer."""
    result: list[Cell] = []
    asked = 0
    for cell in parts:
        if result and question(result[-1]) and not cell.is_markdown:
            asked += 1
            blank = BLANK.format(name=f"{int(lesson.number)}.{asked}")
            ending = "\n\nlesson.finish()" if cell.text.endswith("lesson.finish()") else ""
            cell = Cell(cell.line, cell.title, False, blank + ending)
        result.append(cell)
    return result


def notebook(parts: Sequence[Cell], model: str | None = None) -> dict[str, Any]:
    """Cells as the content of an .ipynb file. model: what the lesson shall load in place of the default model."""
    head = [Cell(0, "Installation", False, INSTALL)]
    return {
        "cells": [_cell(number, part, model) for number, part in enumerate([*head, *parts])],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(number: int, part: Cell, model: str | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": part.text}
    if part.is_markdown:
        return cell | {"cell_type": "markdown"}
    if model is not None:
        cell["source"] = part.text.replace("lesson.start()", f"lesson.start({['--model', model]})")
    if part.title:
        cell["metadata"] = {"title": part.title}
    return cell | {"cell_type": "code", "execution_count": None, "outputs": []}


def run(content: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells. Raises InputError where a cell fails."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError:
        raise InputError('--run: nbclient is not installed; install it with: pip install "tinymi[notebook]"') from None
    node = nbformat.from_dict(content)  # type: ignore[no-untyped-call]
    try:
        NotebookClient(node, timeout=None, kernel_name="python3").execute()
    except CellExecutionError as error:
        raise InputError(f"--run: a cell failed with {error.ename}: {error.evalue}; write it without --run") from None
    return dict(node)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write an .ipynb file. Raises InputError for one that exists: it may hold its reader's work."""
    if path.exists():
        raise InputError(f"{path}: exists already, and may hold your work; rename it, or name another")
    write_text(str(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def index(lessons: Sequence[LessonFile]) -> list[Cell]:
    """One Markdown cell with a link to each lesson's notebook."""
    lines = [f"- {one.number} [{one.title}]({one.path.stem}.ipynb): {one.times[0]}" for one in lessons]
    lines.append("- [Write a transformer yourself](workshop.ipynb): 3 hours")
    return [Cell(0, "", True, "\n".join(["# The lessons", "", *lines]))]
