"""Every lesson as a notebook, run cell by cell on a small model."""

import os
from pathlib import Path

from tests.running import ROOT

import jupytext
import pytest
import wcwidth
from nbclient import NotebookClient

LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.py"))


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_runs_as_a_notebook(path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(path.parent)]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    source = path.read_text("utf-8")
    assert source.count("lesson.start()") == 1
    source = source.replace("lesson.start()", f"lesson.start({['--model', str(small_folder)]})")
    notebook = jupytext.reads(source, fmt="py:percent")
    assert notebook.cells[0].cell_type == "markdown"
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) > 4
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    texts = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(pages) == len(texts) > 3, "each picture comes with its text, for those who have no pictures"
    assert any("<table" in page for page in pages)
    assert max(map(wcwidth.width, "\n".join(texts).split("\n"))) <= 80
    assert "checks passed." in "".join(output.get("text", "") for output in outputs)
    prose = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.split("\n")]
    assert ["<style" in page for page in pages] == [True, *[False] * (len(pages) - 1)], "it is sent once, at the start"
    assert not [output for output in outputs if output["output_type"] == "execute_result"], "no item is shown twice"
    assert not [output for output in outputs if output.get("name") == "stderr"], "progress leaves no trace"
    assert not [line for line in prose if len(line) > 40 and line in "\n".join(texts)], "nothing is said twice"
