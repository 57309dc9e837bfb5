"""Jupyter notebooks: for Jupyter, VS Code and Colab.

A notebook is a JSON file with a list of cells. `notebook` adds one that installs tinymi where it is missing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching.cells import Cell
from tinymi.teaching.report.json import write_text

INSTALL = """# What pip installs where tinymi is missing: a clone's folder, or git+ and the address of one.
SOURCE = {source!r}
try:
    import tinymi
except ImportError:
    if not SOURCE:
        raise ImportError("tinymi is not installed here, and no package index has it: set SOURCE above") from None
    %pip install -q "{{SOURCE}}"
import sys
from tinymi.teaching import catalogue, check, hint
sys.path.append(str(catalogue.folder()))  # the data beside the lessons"""


def notebook(parts: Sequence[Cell], model: str | None = None, source: str = "") -> dict[str, Any]:
    """Cells, the first of which is the title, as the content of an .ipynb file.

    model: what the lesson shall load in place of the default model. source: what pip installs where tinymi is missing.
    """
    title, *rest = parts
    install = [Cell(0, "Installation", False, INSTALL.format(source=source))] if rest else []
    return {
        "cells": [_cell(number, part, model) for number, part in enumerate([title, *install, *rest])],
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
