"""Every lesson as a notebook, run cell by cell on a small model."""

from pathlib import Path
from typing import Any

from tests.running import ROOT
from tinymi.commands.main import main
from tinymi.errors import InputError
from tinymi.teaching import ipynb
from tinymi.teaching.catalogue import read

import jupytext
import nbformat
import pytest
import wcwidth

LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.py"))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the kernel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_its_cells_are_those_that_jupytext_makes(path: Path) -> None:
    content = ipynb.notebook(ipynb.lesson_cells(read(path)))
    nbformat.validate(content)
    expected = jupytext.reads(path.read_text("utf-8"), fmt="py:percent").cells

    def parts(cell: Any) -> tuple[str, str, str | None]:
        return cell["cell_type"], cell["source"], cell["metadata"].get("title")

    assert list(map(parts, content["cells"][1:])) == list(map(parts, expected))


def test_all_lessons_and_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["notebook", "--all", str(tmp_path / "new" / "course"), "--exercises"]) == 0
    written = {path.name for path in (tmp_path / "new" / "course").iterdir()}
    assert written == {f"{path.stem}.ipynb" for path in LESSONS} | {"index.ipynb", "workshop.ipynb"}
    index = nbformat.read(tmp_path / "new" / "course" / "index.ipynb", 4)  # type: ignore[no-untyped-call]
    assert all(f"({name})" in index.cells[1].source for name in written - {"index.ipynb"})
    monkeypatch.chdir(tmp_path)
    assert main(["notebook", "logit_attribution"]) == 0
    with pytest.raises(InputError, match="exists already"):  # it may hold its reader's work
        main(["notebook", "6"])
    for arguments in ([], ["6", "--all", "x"]):
        with pytest.raises(InputError, match="give one lesson, such as 6, or --all FOLDER"):
            main(["notebook", *arguments])


def test_blanks_in_place_of_solutions(small_folder: Path) -> None:
    lesson = read(ROOT / "lessons" / "07_activation_patching.py")
    whole = ipynb.lesson_cells(lesson)
    cells = ipynb.blanks(lesson, whole)
    assert [cell.text for cell in cells if "check(" in cell.text] == [
        '# Your code goes here.\nanswer = None\n\ncheck("7.1", answer)',
        '# Your code goes here.\nanswer = None\n\ncheck("7.2", answer)\n\nlesson.finish()',
    ]
    assert not any("lesson.answer(" in cell.text for cell in cells)
    assert len(cells) == len(whole)
    assert [cell for cell in cells if "check(" not in cell.text] == [c for c in whole if "lesson.answer" not in c.text]
    content = ipynb.run(ipynb.notebook(cells, str(small_folder)))
    assert "No answer yet" in str(content["cells"][-1]["outputs"])


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--run: a cell failed with SourceError: .*no-model"):
        ipynb.run(ipynb.notebook(ipynb.lesson_cells(read(LESSONS[7])), str(tmp_path / "no-model")))


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_runs_as_a_notebook(path: Path, small_folder: Path) -> None:
    content = ipynb.run(ipynb.notebook(ipynb.lesson_cells(read(path)), str(small_folder)))
    nbformat.validate(content)
    notebook = nbformat.from_dict(content)  # type: ignore[no-untyped-call]
    assert notebook.cells[1].cell_type == "markdown"
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) > 4
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
