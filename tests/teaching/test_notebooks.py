"""Every notebook that `tinymi notebook` writes, in both editions. They run cell by cell, and share one kernel."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.running import ROOT
from tinymi.commands.main import main
from tinymi.errors import InputError
from tinymi.teaching import editions, ipynb
from tinymi.teaching.catalogue import read
from tinymi.teaching.tasks import tasks, workshop

import jupytext
import nbformat
import pytest
import wcwidth
from nbclient import NotebookClient

LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.py"))
BEFORE = """import sys, tinymi, tinymi.teaching
module = sys.modules["tinymi.teaching.check"]
module._count = lambda name, verdict: None  # the record is the user's
module._default_model = lambda: tinymi.load({model!r})"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[NotebookClient]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setenv("JUPYTER_PLATFORM_DIRS", "1")
        empty = nbformat.from_dict({"cells": [], "metadata": {}})  # type: ignore[no-untyped-call]
        client = NotebookClient(empty, timeout=None, kernel_name="python3")
        with client.setup_kernel():
            yield client


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> dict[str, Path]:
    """Both editions, as the command writes them for a small model."""
    folders = {edition: tmp_path_factory.mktemp("notebooks") / edition for edition in ("solutions", "exercises")}
    for edition, folder in folders.items():
        options = ["--exercises"] if edition == "exercises" else []
        assert main(["notebook", "--all", str(folder), "--model", str(small_folder), *options]) == 0
    return folders


def read_notebook(file: Path) -> Any:
    notebook = nbformat.read(file, 4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


def run(kernel: NotebookClient, notebook: Any, model: Path | None) -> None:
    """Fill in the outputs of its cells. model: on which functions are checked; None is the default model."""
    source = BEFORE.format(model=model and str(model))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    kernel.nb = notebook
    kernel.reset_execution_trackers()
    for index, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, index)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: Any) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_its_cells_are_those_that_jupytext_makes(path: Path) -> None:
    content = ipynb.notebook(editions.source_cells(path))
    nbformat.validate(content)
    title, install, *rest = content["cells"]
    expected = jupytext.reads(path.read_text("utf-8"), fmt="py:percent").cells

    def parts(cell: Any) -> tuple[str, str, str | None]:
        return cell["cell_type"], cell["source"].removeprefix("# "), cell["metadata"].get("title")

    assert title["source"].startswith("# ")
    assert install["metadata"] == {"title": "Installation"}
    assert list(map(parts, [title, *rest])) == list(map(parts, expected))


def test_all_lessons_and_an_index(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in folders.values():
        written = {path.name for path in folder.iterdir()}
        assert written == {f"{path.stem}.ipynb" for path in LESSONS} | {"index.ipynb", "workshop.ipynb"}
        (index,) = read_notebook(folder / "index.ipynb").cells
        assert all(f"({name})" in index.source for name in written - {"index.ipynb"})
        assert all(cell.source for name in written for cell in read_notebook(folder / name).cells)
    monkeypatch.chdir(tmp_path)
    assert main(["notebook", "logit_attribution"]) == 0
    with pytest.raises(InputError, match="exists already"):  # it may hold its reader's work
        main(["notebook", "6"])
    for arguments in ([], ["6", "--all", "x"]):
        with pytest.raises(InputError, match="give one lesson, such as 6, or --all FOLDER"):
            main(["notebook", *arguments])


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_class_gets_neither_solutions_nor_hints(path: Path, folders: dict[str, Path]) -> None:
    solutions, exercises = (read_notebook(folder / f"{path.stem}.ipynb").cells for folder in folders.values())
    text = "\n".join(cell.source for cell in exercises)
    lesson = read(path)
    for word in ("lesson.answer(", "Hint: ", "What often goes wrong", "claim, control"):
        assert word not in text
    for task in tasks(lesson):
        assert task.code in "\n".join(cell.source for cell in solutions)
        assert not task.code or task.code not in text
        assert f'hint("{task.name}")' in text
    asked = [cell.source for cell in exercises if cell.source.startswith("**Exercise ")]
    names = [f"**Exercise {int(lesson.number)}.{number}**" for number in range(1, len(asked) + 1)]
    assert [text.split(" (")[0] for text in asked] == names
    assert sum(cell.source.startswith("**Exercise ") for cell in solutions) == len(asked)


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_runs_in_both_editions(
    path: Path, folders: dict[str, Path], kernel: NotebookClient, small_folder: Path
) -> None:
    solutions, exercises = (read_notebook(folder / f"{path.stem}.ipynb") for folder in folders.values())
    run(kernel, solutions, small_folder)
    functions = [task.function for task in tasks(read(path)) if task.code]
    assert [f"Right. {name} equals" in printed(solutions) for name in functions] == [True] * len(functions)
    pages = [output["data"]["text/html"] for output in outputs(solutions) if "text/html" in output.get("data", {})]
    texts = [output["data"]["text/plain"] for output in outputs(solutions) if "text/html" in output.get("data", {})]
    assert len(pages) == len(texts) > 3, "each picture comes with its text, for those who have no pictures"
    assert any("<table" in page for page in pages)
    assert max(map(wcwidth.width, "\n".join(texts).split("\n"))) <= 80
    assert "checks passed." in printed(solutions)
    prose = [line for cell in solutions.cells if cell.cell_type == "markdown" for line in cell.source.split("\n")]
    assert ["<style" in page for page in pages] == [True, *[False] * (len(pages) - 1)], "it is sent once, at the start"
    kinds = {output["output_type"] for output in outputs(solutions)}
    assert kinds == {"display_data", "stream"}, "no item is shown twice"
    names = {output.name for output in outputs(solutions) if output["output_type"] == "stream"}
    assert names == {"stdout"}, "progress leaves no trace"
    assert not [line for line in prose if len(line) > 40 and line in "\n".join(texts)], "nothing is said twice"

    shared = {cell.source for cell in solutions.cells}  # they have just run
    exercises.cells = [cell for cell in exercises.cells if cell.source not in shared]
    run(kernel, exercises, small_folder)
    blanks = [line for line in printed(exercises).splitlines() if line.startswith("Open. ")]
    in_lesson = path.read_text("utf-8").count("\n# Exercise (")
    no_answer = ["Open. No answer yet: put yours in place of None."] * in_lesson
    assert blanks == no_answer + [f"Open. {name} is not written yet." for name in functions]


@pytest.mark.parametrize(
    ("lesson", "headline"),
    [
        ("03_attention_patterns", "Head 17.5 finds what came next by a note of head 16.0."),
        ("06_logit_attribution", "Head 23.4 writes +1.03 of +2.85"),
    ],
)
def test_a_notebook_on_the_default_model(lesson: str, headline: str, kernel: NotebookClient) -> None:
    cells = editions.lesson_cells(read(ROOT / "lessons" / f"{lesson}.py"), solutions=True)
    notebook = nbformat.from_dict(ipynb.notebook(cells))  # type: ignore[no-untyped-call]
    run(kernel, notebook, None)
    assert headline in str(outputs(notebook))
    assert "Right. " in printed(notebook)


def test_the_workshop_runs_in_both_editions(
    folders: dict[str, Path], kernel: NotebookClient, small_folder: Path
) -> None:
    verdicts = {"solutions": "Right. {} equals the reference in 5 runs.", "exercises": "Open. {} is not written yet."}
    for edition, folder in folders.items():
        notebook = read_notebook(folder / "workshop.ipynb")
        run(kernel, notebook, small_folder)
        assert printed(notebook).splitlines() == [verdicts[edition].format(task.function) for task in workshop()]


def test_run_keeps_what_the_cells_show(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["notebook", "7", "--run", "--exercises", "--model", str(small_folder)]) == 0
    notebook = read_notebook(tmp_path / "07_activation_patching.ipynb")
    assert printed(notebook).count("No answer yet") == 2
    with pytest.raises(InputError, match=r"--run: a cell failed with SourceError: .*no-model"):
        main(["notebook", "6", "--run", "--model", str(tmp_path / "no-model")])


@pytest.mark.parametrize(
    ("source", "words"),
    [("git+https://example.org/a b", '-q "git+https://example.org/a b"'), ("", "set SOURCE above")],
)
def test_the_first_cell_installs_from_the_source_that_is_named(source: str, words: str) -> None:
    code = f"""import sys
from IPython.core.interactiveshell import InteractiveShell
sys.modules["tinymi"] = None
shell = InteractiveShell.instance()
shell.register_magic_function(print, magic_name="pip")
shell.run_cell({ipynb.INSTALL.format(source=source)!r})"""
    assert words in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
