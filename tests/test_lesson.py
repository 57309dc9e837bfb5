"""A lesson from the outside: a small script, run as its readers run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''"""Is water wet?

What you will learn: how a lesson behaves, 100 % of it,
on two lines.

Needs: nothing
"""
# %% Set-up
import numpy as np
from tinymi.errors import InputError
from tinymi.lesson import Lesson, Token

lesson = Lesson(__doc__)
lesson.option("--prompt", default="50% of it", help="what to say, 100% of it")
lesson.option("--error", type=float, default=0.0, help="the error of the check")
options = lesson.start()

# %% The talk
if options.prompt == "bad":
    raise InputError("prompt 'bad' is refused;\\n say something else")
if options.prompt == "bug":
    raise RuntimeError("a bug")
if options.prompt == "stop":
    raise KeyboardInterrupt
lesson.section("Wetness")
lesson.say("Look at " + options.prompt)
lesson.table(["token", "share"], [[Token(options.prompt), np.float32(0.5)]], formats={"share": ".1%"})
lesson.json["wet"] = {"share": np.float32(0.5), "nothing": float("nan")}
for _ in lesson.progress(range(3), "waiting"):
    pass
lesson.check("water is water", options.error, 1e-6)
lesson.finding("Water is wet.", established=np.bool_(True), evidence="touch", control="sand")
lesson.finish()
'''
ROOT = Path(__file__).parents[1]


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
    assert "Is water wet?" in done.stdout
    assert r"␣a\x1b[31m<b>\u202e  50.0%" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Finding: Water is wet." in done.stdout
    assert "1 of 1 checks passed." in done.stdout
    made = json.loads((script.parent / "x.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert made["wet"] == {"share": 0.5, "nothing": None}
    assert made["checks"] == [{"name": "water is water", "error": 0.0, "tolerance": 1e-06, "passed": True}]
    assert made["options"]["prompt"] == " a\x1b[31m<b>\u202e"
    assert made["lesson"] == "Is water wet?"
    html = (script.parent / "x.html").read_text("utf-8")
    assert "how a lesson behaves, 100 % of it, on two lines." in html
    assert "--prompt" in html
    assert "<b>\\u202e" not in html


@pytest.mark.parametrize("error", ["1", "nan", "inf"])
def test_a_failed_check_fails_the_run_and_still_writes(script: Path, error: str) -> None:
    done = run(script, "--error", error, "--json", "x.json")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "0 of 1 checks passed." in done.stdout
    assert done.stderr == "failed: water is water\n"
    assert json.loads((script.parent / "x.json").read_text("utf-8"))["checks"][0]["passed"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--colour"], "--colour"),
        (["--error", "much"], "--error"),
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
    for words in ("Is water wet?", "100 % of it", "--model", "--json", "--html", "100% of it (default: 50% of it)"):
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
    command = f"'{sys.executable}' '{script}' --json '{tmp_path}/found.json' >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], env=env, check=False).returncode == 0
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    command = f"'{sys.executable}' -m tinymi glossary >&-"
    assert subprocess.run(["bash", "-c", command], env=env, stderr=subprocess.PIPE, check=False).stderr == b""


def test_importing_the_frame_is_light() -> None:
    code = "import sys, tinymi.report.page, tinymi.report.terminal; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy, tinymi.errors; {code}"],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        check=True,
    )
    assert not {"jinja2", "tabulate", "wcwidth", "tqdm", "IPython"} & set(done.stdout.split())


def test_a_lesson_runs_as_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    text = SCRIPT.replace("default=0.0", "default=float('nan')")
    notebook = jupytext.reads(f"# %% The question\n{text}", fmt="py:percent")
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("Is water wet?" in page for page in pages)
    assert any("50.0%" in page for page in pages)
    assert [output["ename"] for output in outputs if output["output_type"] == "error"] == ["CheckError"]
