"""A lesson as a function: its document, isolation, progress and cancelling; and that every form says the same."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tinymi
from tests.running import ROOT
from tinymi.teaching import running
from tinymi.teaching.options import COMMON
from tinymi.teaching.report import items, terminal
from tinymi.teaching.report.html import page
from tinymi.teaching.report.json import to_json
from tinymi.teaching.running import CancelledError, Run, options_of, run_lesson

import pytest

SCRIPT = '''# %% [markdown]
"""Does it run?

Needs: nothing
"""

# %% Set-up
from data_beside_the_lesson import PAUSE
from tinymi.errors import InputError
from tinymi.teaching import Lesson, Token

lesson = Lesson(__doc__)
lesson.option("--prompt", default="ab", help="what to cut")
lesson.option("--steps", type=int, default=3, minimum=0, maximum=10**6, help="how many steps")
options = lesson.start()
model = lesson.load_model()

# %% [markdown]
# ## 1. Steps
#
# Some *prose*.

# %%
for step in lesson.progress(range(options.steps), "stepping"):
    PAUSE.wait(0.001)
if options.prompt == "bad":
    raise InputError("--prompt: it is bad")
if options.prompt == "bug":
    1 / 0

# %%
pieces = [Token(piece) for piece in model.to_str_tokens(options.prompt)]
picture = lesson.bars(pieces, range(len(pieces)), "the pieces")
lesson.headline(f"There are {len(pieces)} pieces.", picture)
lesson.equal("the steps are three", options.steps, 3)
lesson.finding("Pieces are found.", established=len(pieces) > 1, evidence="see above", control="none")
lesson.keep(pieces=pieces)

# %% [markdown]
# Exercise (easy, 1 minute): How many pieces?
#
# Hint: count

# %%
count = len(pieces)
lesson.answer(count)
lesson.finish()
'''
CELLS = ("code", "prose", "section")  # what a notebook has as cells


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    (tmp_path / "data_beside_the_lesson.py").write_text("import threading\n\nPAUSE = threading.Event()\n")
    path = tmp_path / "07_running.py"
    path.write_text(SCRIPT, "utf-8")
    return path


@pytest.fixture
def small(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder)]


def document_of(run: Run) -> items.Document:
    assert run.document is not None
    return run.document


def test_a_run_returns_what_the_lesson_says(lesson: Path, tiny_folder: Path, tiny_model: tinymi.Model) -> None:
    run = run_lesson(lesson, ["--model", str(tiny_folder), "--prompt", "a b"], tiny_model)
    document = document_of(run)
    assert [item.kind for item in document.items] == [
        *("code", "section", "prose", "code", "code", "bars", "headline", "check", "finding", "exercise")
    ]
    assert document.items[-1] == items.Exercise(
        "How many pieces?", "3", "count", 1, "easy", 3.0, 0.0, "count = len(pieces)\nlesson.answer(count)", "7.1"
    )
    assert run.fields["pieces"] == ["a", " ", "b"]
    assert document.options == {"model": str(tiny_folder), "weights": "loaded", "prompt": "a b", "steps": 3}
    assert document.command == f"python 07_running.py --prompt 'a b' --model {tiny_folder}"
    model = document.model
    assert (model["source"], model["stored_as"], model["n_layers"]) == (str(tiny_folder), "F32", 2)


def test_a_run_leaves_no_trace(lesson: Path, small: list[str], capfd: Any) -> None:
    process = (sys.argv[:], sys.path[:], sys.excepthook, os.getcwd(), dict(os.environ))
    first, again = run_lesson(lesson, small), run_lesson(lesson, small)
    other = run_lesson(lesson, [*small, "--prompt=abc"])
    assert document_of(first) == document_of(again) != document_of(other)
    assert first.fields == again.fields != other.fields
    assert process == (sys.argv, sys.path, sys.excepthook, os.getcwd(), dict(os.environ))
    assert capfd.readouterr() == ("", "")
    assert running.current.get() is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--prompt", "bad"], tinymi.InputError, "it is bad"),
        (["--prompt", "bug"], ZeroDivisionError, "division"),
        (["--steps", "-1"], tinymi.InputError, "--steps: -1, but valid is 0 to 1,000,000"),
        (["--help"], tinymi.InputError, "--help"),
        (["--frob"], tinymi.InputError, "--frob"),
        (["--html", "no/such/folder"], tinymi.InputError, "no folder"),
    ],
)
def test_an_error_reaches_the_caller(
    arguments: list[str], error: type[Exception], words: str, lesson: Path, small: list[str], capfd: Any
) -> None:
    path = sys.path[:]
    with pytest.raises(error, match=words):
        run_lesson(lesson, [*small, *arguments])
    assert (running.current.get(), sys.path) == (None, path)
    assert capfd.readouterr() == ("", "")


def test_a_failed_check_is_in_the_document(lesson: Path, small: list[str]) -> None:
    document = document_of(run_lesson(lesson, [*small, "--steps=4"]))
    (check,) = [item for item in document.items if isinstance(item, items.Check)]
    assert check.error == pytest.approx(1 / 3)
    assert not check.passed


def test_runs_in_threads_do_not_mix(lesson: Path, small: list[str]) -> None:
    prompts = ["x" * n for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda prompt: run_lesson(lesson, [*small, f"--prompt={prompt}"]), prompts))
    assert [run.fields["pieces"] for run in runs] == [["x"] * n for n in range(1, 9)]
    assert [document_of(run).options["prompt"] for run in runs] == prompts
    assert str(lesson.parent) not in sys.path


def test_options_can_be_asked_for(lesson: Path) -> None:
    options = options_of(lesson)
    assert [option.name for option in options] == ["prompt", "steps", *(option.name for option in COMMON)]
    steps = options[1]
    assert (steps.type, steps.default, steps.minimum, steps.maximum) == (int, 3, 0, 10**6)


def test_progress_is_reported(lesson: Path, small: list[str]) -> None:
    steps: list[tuple[str, int, int | None]] = []
    Run(lesson, small, on_progress=lambda *step: steps.append(step)).execute()
    assert steps == [("stepping", done, 3) for done in range(4)]


def test_a_run_is_cancelled_at_the_next_step(lesson: Path, small: list[str]) -> None:
    def on_progress(what: str, done: int, total: int | None) -> None:
        if done == 5:
            run.cancel()
        assert done < 7

    run = Run(lesson, [*small, "--steps=1000"], on_progress=on_progress)
    with pytest.raises(CancelledError):
        run.execute()
    assert run.document is None
    assert str(lesson.parent) not in sys.path


def test_a_run_is_cancelled_at_the_next_item(lesson: Path, small: list[str]) -> None:
    run = Run(lesson, small, on_progress=lambda what, done, total: run.cancel() if done == 3 else None)
    with pytest.raises(CancelledError):
        run.execute()


def test_another_thread_cancels_a_long_run(lesson: Path, small: list[str]) -> None:
    started, endings = threading.Event(), []
    run = Run(lesson, [*small, "--steps=1000000"], on_progress=lambda *step: started.set())

    def work() -> None:
        try:
            run.execute()
        except CancelledError as error:
            endings.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    run.cancel()
    thread.join(60)
    assert endings == ["07_running.py: cancelled"]


# --- script, function, notebook, JSON, page ----------------------------------------------------------------------


def test_script_function_json_and_page_say_the_same(lesson: Path, small: list[str]) -> None:
    run = run_lesson(lesson, small)
    document, screen = document_of(run), terminal.Screen()
    files = ["--json", str(lesson.with_suffix(".json")), "--html", str(lesson.with_suffix(".html"))]
    script = subprocess.run(
        [sys.executable, str(lesson), *small, *files],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        cwd=lesson.parent,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert lesson.with_suffix(".json").read_text("utf-8") == to_json(document, run.fields)
    assert lesson.with_suffix(".html").read_text("utf-8") == page(document)
    printed = [terminal.render(item, screen) for item in document.items if not isinstance(item, items.Code)]
    positions = [script.stdout.index(text) for text in printed]
    assert positions == sorted(positions)
    report = json.loads(lesson.with_suffix(".json").read_text("utf-8"))["report"]
    assert [entry["kind"] for entry in report] == [item.kind for item in document.items]


def test_a_notebook_says_the_same_and_nothing_twice(
    lesson: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(lesson.parent)]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    source = SCRIPT.replace("lesson.start()", f"lesson.start({small})")
    notebook = jupytext.reads(source, fmt="py:percent")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) == 3
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    shown = [
        item for item in document_of(run_lesson(lesson, small)).items if item.kind not in ("code", "prose", "section")
    ]
    expected = [terminal.render(item, terminal.Screen()) for item in shown[:-1]]
    assert [text for text in texts if text in expected] == expected
    assert "Does it run?" in prose[0]
    assert not any("Does it run?" in text or "Some" in text or "How many" in text for text in texts)
    assert "".join(output.get("text", "") for output in outputs).strip() == "1 of 1 checks passed."
