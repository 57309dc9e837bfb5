"""Every lesson as a notebook, run cell by cell on a small model."""

from pathlib import Path

from tests.running import ROOT

import jupytext
import pytest
import wcwidth
from nbclient import NotebookClient

LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.py"))


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_runs_as_a_notebook(path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    source = path.read_text("utf-8")
    assert source.count("lesson.start()") == 1
    small = ["--model", str(tiny_folder), *(["--anyway"] if path.stem.startswith("05") else [])]
    notebook = jupytext.reads(source.replace("lesson.start()", f"lesson.start({small})"), fmt="py:percent")
    assert notebook.cells[0].cell_type == "markdown"
    assert sum(cell.cell_type == "code" for cell in notebook.cells) > 4
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    texts = [output["data"]["text/plain"] for output in outputs if "text/plain" in output.get("data", {})]
    assert len(pages) == len(texts) > 10, (
        "every item is shown as a picture, with its text for those who have no pictures"
    )
    assert any("<table" in page for page in pages)
    assert max(map(wcwidth.width, "\n".join(texts).split("\n"))) <= 80
    assert "checks passed." in "".join(output.get("text", "") for output in outputs)
