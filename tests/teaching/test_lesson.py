"""A lesson from the outside: a small script, run as its readers run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''# %% [markdown]
"""Is water wet?

What you will learn: how a lesson behaves, 100 % of it,
on two lines.

Needs: nothing
"""

# %% Set-up
from tinymi.errors import InputError
from tinymi.teaching import Lesson, Token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="50% of it", help="what to say, 100% of it")
lesson.option("--error", type=float, default=0.0, minimum=0.0, help="the error of the check")
options = lesson.start()
if options.prompt == "bad":
    raise InputError("prompt 'bad' is refused;\\n say something else")
if options.prompt == "bug":
    raise RuntimeError("a bug")
if options.prompt == "stop":
    raise KeyboardInterrupt

# %% [markdown]
# ## Wetness
#
# Water is *wet*.

# %%
lesson.say("Look at " + options.prompt)
picture = lesson.table({"token": [Token(options.prompt), "b"], "share": np.float32([0.5, 2])}, rows=[0], format=".1%")
lesson.keep(wet={"share": np.float32(0.5), "nothing": float("nan")})
for _ in lesson.progress(range(3), "waiting"):
    pass

# %% [markdown]
# Water stays *wet*.

# %%
lesson.check("water is water", np.nan if options.error == 7 else options.error, 1e-6)
lesson.equal("so is this", [1.0, 2.0], [1.0, 2.0])
lesson.finding("Water is wet.", established=np.bool_(True), evidence="touch", control="sand")
lesson.headline("It is wet.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): How wet?
#
# Hint: touch it

# %%
wetness = 0.123456
lesson.answer(wetness)

# %% [markdown]
# The end.

# %%
lesson.finish()
'''
ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "07_water.py"
    path.write_text(SCRIPT, "utf-8")
    return path


def run(script: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, cwd=script.parent, env=env, capture_output=True, encoding="utf-8", check=False)


def test_a_good_run_prints_and_writes_everything(script: Path) -> None:
    done = run(script, "--json", "x.json", "--html", "x.html", "--prompt", " a\x1b[31m<b>\u202e")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"␣a\x1b[31m<b>\u202e  50.0%" in done.stdout
    assert "\x1b" not in done.stdout
    written = json.loads((script.parent / "x.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert written["wet"] == {"share": 0.5, "nothing": None}
    assert written["checks"] == [
        {"name": "water is water", "error": 0.0, "tolerance": 1e-06, "passed": True},
        {"name": "so is this", "error": 0.0, "tolerance": 1e-05, "passed": True},
    ]
    assert written["options"]["prompt"] == " a\x1b[31m<b>\u202e"
    assert written["lesson"] == "Is water wet?"
    html = (script.parent / "x.html").read_text("utf-8")
    assert "how a lesson behaves, 100 % of it, on two lines." in html
    assert "--prompt" in html
    assert "<b>\\u202e" not in html


def test_the_output_is_read_from_top_to_bottom(script: Path) -> None:
    printed = run(script).stdout
    parts = ["Is water wet?", "Wetness", "Water is", "Look at", "50.0%", "Water stays", "Check passed: water is"]
    parts += [
        "Check passed: so is",
        "Finding: Water is wet.",
        "Answer: It is wet.",
        "Exercise 7.1 (easy, 5 minutes): How",
    ]
    parts += ["The end.", "tinymi answer 7.1 VALUE. For a hint: tinymi hint 7.1.", "2 of 2 checks passed."]
    positions = [printed.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "tolerance 1e-06\nCheck passed: so" in printed, "checks stand together"
    assert not any(word in printed for word in ("0.12", "touch it", "Set-up", "import", "wetness ="))


def test_answers_are_printed_where_they_are_asked_for(script: Path) -> None:
    printed = run(script, "--answers").stdout
    assert "Answer to exercise 7.1: 0.1235" in printed
    assert "tinymi answer" not in printed


@pytest.mark.parametrize("error", ["1", "7"])
def test_a_failed_check_fails_the_run_and_still_writes(script: Path, error: str) -> None:
    done = run(script, "--error", error, "--json", "x.json")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "1 of 2 checks passed." in done.stdout
    assert done.stderr == "failed: water is water\n"
    assert json.loads((script.parent / "x.json").read_text("utf-8"))["checks"][0]["passed"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--colour"], "--colour"),
        (["--error", "much"], "--error"),
        (["--error", "nan"], "--error: nan, but valid is 0.0 or more"),
        (["--error=-1"], "--error: -1.0, but valid is 0.0 or more"),
        (["--prompt", "bad"], "prompt 'bad' is refused; say something else"),
        (["--json", "absent/x.json"], "no folder absent"),
        (["--html", "."], "is a folder"),
        (["--json", "x", "--html", "x"], "both name x"),
        (["--prom", "x"], "--prom"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(script: Path, options: list[str], words: str) -> None:
    done = run(script, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Wetness" not in done.stdout, "found out before the work"


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_full_disk_is_said_in_one_line(script: Path, option: str) -> None:
    done = run(script, option, "/dev/full")
    assert done.returncode == 2
    assert (
        done.stderr == "error: /dev/full: cannot be written (No space left on device); make room or name another file\n"
    )


def test_a_full_disk_behind_standard_output(script: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, str(script)], env=env, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output: cannot be written (No space left on device); make room\n"


def test_a_bug_keeps_its_traceback_and_an_interrupt_its_status(script: Path) -> None:
    bug, stop = run(script, "--prompt", "bug"), run(script, "--prompt", "stop")
    assert bug.returncode == 1
    assert "Traceback" in bug.stderr
    assert (stop.returncode, stop.stderr) == (130, "interrupted\n")


def test_help_is_the_docstring_and_the_options(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    for words in (
        "Is water wet?",
        "100 % of it, on two lines.",
        "--model",
        "100% of it (default: 50% of it)",
        "(0.0 or more",
    ):
        assert words in " ".join(done.stdout.split())


def test_a_poor_terminal_gets_ascii(script: Path) -> None:
    done = run(script, "--prompt", " é日", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert r"\s\xe9\u65e5" in done.stdout


def test_a_reader_who_leaves_early_is_no_error(script: Path) -> None:
    script.write_text(SCRIPT.replace("lesson.finish()", "lesson.say('word ' * 200_000)\nlesson.finish()"), "utf-8")
    command = f"'{sys.executable}' '{script}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.stderr == ""
    assert done.stdout.split()[-1] == "141"


def test_a_lesson_needs_no_standard_output(script: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"'{sys.executable}' '{script}' --json '{tmp_path}/x.json' >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], env=env, check=False).returncode == 0
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    command = f"'{sys.executable}' -m tinymi glossary >&-"
    assert subprocess.run(["bash", "-c", command], env=env, stderr=subprocess.PIPE, check=False).stderr == b""


def test_importing_the_frame_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, tinymi.teaching; print(*sys.modules)"],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        check=True,
    )
    assert not {"jinja2", "tabulate", "wcwidth", "IPython", "gguf", "loky"} & set(done.stdout.split())


def test_a_failed_check_is_an_error_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = jupytext.reads(SCRIPT.replace("lesson.start()", "lesson.start(['--error', '7'])"), fmt="py:percent")
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output["ename"] for output in outputs if output["output_type"] == "error"] == ["CheckError"]
