"""Every option of every lesson under values that nobody should give: the lesson works, or says why not in one line."""

import re
from pathlib import Path

from tests.running import ROOT, run_lesson_often

import pytest

LESSONS = sorted(path.stem for path in (ROOT / "lessons").glob("[0-9]*.py"))
VALUES = [
    "",
    " ",
    "0",
    "-1",
    "7",
    "9" * 30,
    "nan",
    "1e999",
    "x" * 300,
    "../..",
    "\udcff",
    "é\u0301\u0301 عربي 💥\u200d",
]
HOSTILE = "\x1b[2J\x9b31m\u202e<script>alert(1)</script>\n"
COMMON = ["--model", "--weights", "--json", "--html"]
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def options_of(lesson: str) -> list[str]:
    """The lesson's own options that take a value."""
    source = (ROOT / "lessons" / f"{lesson}.py").read_text("utf-8")
    found = re.findall(r'lesson\.option\(\s*"(--[a-z-]+)"(.*)', source)
    sweeps = ["--jobs", "--dask", "--resume"] if "sweep_options" in source else []
    return [name for name, rest in found if "store_true" not in rest] + sweeps


def runs_of(lesson: str, folder: Path) -> list[list[str]]:
    runs = [[option, value] for option in options_of(lesson) for value in [*VALUES, HOSTILE]]
    runs = [run for run in runs if run[0] not in ("--jobs", "--dask") or run[1] != "7"]  # a pool; a cluster's address
    return [[*run, "--html", str(folder / f"{number}.html")] for number, run in enumerate(runs)]


def test_the_options_are_found() -> None:
    assert sum(len(options_of(lesson)) for lesson in LESSONS) > 20


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_takes_or_refuses_any_value(lesson: str, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    runs = [["--model", str(tiny_folder), *run] for run in runs_of(lesson, tmp_path)]
    for run, done in zip(runs, run_lesson_often(lesson, runs, out, NO_COLOR="1"), strict=True):
        shown = f"{run}: {done.stdout[-300:]} {done.stderr}"
        assert done.returncode in (0, 1, 2), shown
        assert "Traceback" not in done.stderr, shown
        assert not RAW.search(done.stdout + done.stderr), shown
        if done.returncode:
            assert len(done.stderr.splitlines()) == 1, shown
            assert done.stderr.startswith("error: " if done.returncode == 2 else "failed: "), shown
        if done.returncode == 0:
            page = Path(run[-1]).read_text("utf-8")
            assert not RAW.search(page), shown
            assert "<script>alert" not in page, shown
    assert not list(tmp_path.rglob("*.lock"))


def test_what_all_lessons_take(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    runs = [[option, value] for option in COMMON for value in [*VALUES, HOSTILE] if value != "7"]
    runs = [
        [f"--model={tiny_folder}", f"{name}={str(tmp_path / 'x') + value if name in COMMON[2:] else value}"]
        for name, value in runs
    ]
    for run, done in zip(runs, run_lesson_often("00_quick_start", runs, out, HF_HUB_OFFLINE="1"), strict=True):
        shown = f"{run}: {done.stdout[-300:]} {done.stderr}"
        assert done.returncode in (0, 2), shown
        assert "Traceback" not in done.stderr, shown
        assert not RAW.search(done.stdout + done.stderr), shown
        assert len(done.stderr.splitlines()) == done.returncode // 2, shown
