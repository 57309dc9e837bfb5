"""The command `tinymi`: lessons, hook points, glossary, doctor, site."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import tinymi
from tests.running import ROOT
from tinymi.glossary import TERMS, look_up
from tinymi.hooks import POINTS
from tinymi.lesson_files import all_lessons, find

import pytest


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"} | environment
    command = [sys.executable, "-m", "tinymi", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=600, check=False)


def said(*arguments: str, **environment: str) -> str:
    done = run(*arguments, cwd=ROOT, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_alone_it_says_what_it_can_do_and_lists_the_lessons() -> None:
    text = said()
    for command in ("run", "points", "glossary", "doctor", "site"):
        assert f"tinymi {command}" in text
    assert text.endswith(said("lessons"))


def test_every_lesson_is_listed_with_its_question_and_time() -> None:
    text = " ".join(said("lessons", COLUMNS="100").split())
    assert len(all_lessons()) == len(list((ROOT / "lessons").glob("[0-9]*.py"))) > 10
    for lesson in all_lessons():
        assert lesson.number in text
        assert lesson.field("Time")
        assert lesson.title.split()[0] in text


def test_nothing_is_wider_than_80_columns() -> None:
    for text in (said(), said("glossary"), said("glossary", "logit lens"), said("points"), said("run", "5", "--help")):
        assert max(map(len, text.splitlines())) <= 80


def test_a_lessons_times_are_read_from_its_docstring() -> None:
    assert find("tour").times == ("20 minutes", "3 seconds")
    assert all(time for lesson in all_lessons() for time in lesson.times)


@pytest.mark.parametrize("name", ["0", "00", "quick_start", "00_quick_start", "lessons/00_quick_start.py"])
def test_a_lesson_is_found_by_many_names(name: str) -> None:
    assert find(name).path.name == "00_quick_start.py"


@pytest.mark.parametrize("name", ["12345", "", "quick", "²", "../tinymi/model.py"])
def test_another_lesson_is_refused(name: str) -> None:
    with pytest.raises(tinymi.InputError, match="00_quick_start, 01_inspect_weights"):
        find(name)


def test_it_runs_a_lesson_as_the_script_runs(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_folder), "--prompt", "abcd", "--html", str(tmp_path / "x.html")]
    by_command = said("run", "quick_start", *options)
    script = subprocess.run(
        [sys.executable, str(ROOT / "lessons/00_quick_start.py"), *options],
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert by_command == script.stdout
    assert "00_quick_start.py" in (tmp_path / "x.html").read_text("utf-8")
    assert "--prompt" in said("run", "0", "--help")
    assert "tinymi run LESSON" in said("run", "--help")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "names no lesson"),
        (["run", "99"], "lesson '99'"),
        (["run", "0", "--frob"], "--frob"),
        (["frob"], "frob"),
        (["glossary", "logitlense"], "logit lens"),
        (["glossary", "zzzzz"], "lists all"),
        (["site", "/dev/null/x"], "cannot be made"),
        (["site", "x", "--only", "0,77"], "lesson '77'"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_hook_point_is_shown_in_80_columns() -> None:
    text = said("points")
    for point in POINTS:
        assert point.template.format(layer="i") in text
        assert f"[{', '.join(point.axes)}]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_term_is_explained_and_its_lessons_exist() -> None:
    listed = said("glossary")
    numbers = {lesson.number for lesson in all_lessons()}
    for term in TERMS:
        assert f"{term.name}: " in " ".join(listed.split())
        assert look_up(term.name) == look_up(term.name.upper().replace(" ", "-")) == term
        assert term.lessons
        assert set(term.lessons) <= numbers
        assert term.meaning.endswith((".", "?"))
    assert [term.name.lower() for term in TERMS] == sorted(term.name.lower() for term in TERMS)
    assert {lesson for term in TERMS for lesson in term.lessons} >= numbers - {"01"}


def test_a_term_is_found_by_its_parts_and_plural() -> None:
    assert look_up("attention-patterns").name == "attention pattern"
    assert look_up("QK circuit").name == "OV circuit, QK circuit"
    assert "Shown in lesson 04, 06, 11." in said("glossary", "logit-lens")


def test_the_doctor_says_what_a_report_needs(tmp_path: Path) -> None:
    text = said("doctor", TINYMI_HOME=str(tmp_path / "nowhere"))
    for words in (
        tinymi.__version__,
        "numpy: ",
        "kernels",
        "threads",
        "MiB available",
        str(tmp_path),
        "not fetched yet",
    ):
        assert words in text.replace("numpy:  ", "numpy: "), words
    assert not (tmp_path / "nowhere").exists()


def test_the_script_is_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"tinymi": "tinymi.command:main"}


# --- the site --------------------------------------------------------------------------------------------------


def test_a_site_holds_pages_data_and_an_index(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "site"
    text = said("site", str(out), "--model", str(tiny_folder), "--only", "0,4,11")
    assert "2 of 3: 04_token_prediction_sweep" in text
    stems = ["00_quick_start", "04_token_prediction_sweep", "11_tour"]
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [f"{stem}.{ending}" for stem in stems for ending in ("html", "json")] + ["index.html"]
    )
    index = (out / "index.html").read_text("utf-8")
    links = re.findall(r'href="([^"]+\.(?:html|json))"', index)
    assert links == [f"{stem}.{ending}" for stem in stems for ending in ("html", "json")]
    checks = json.loads((out / "11_tour.json").read_text("utf-8"))["checks"]
    assert f"{len(checks)} of {len(checks)} checks passed" in index
    middle = (out / f"{stems[1]}.html").read_text("utf-8")
    assert re.findall(r'<a rel="(\w+)" href="([^"]+)"', middle) == [
        ("prev", "00_quick_start.html"),
        ("next", "11_tour.html"),
    ]
    assert '<a href="index.html">' in middle
    assert 'rel="prev"' not in (out / f"{stems[0]}.html").read_text("utf-8")


def test_a_lesson_that_refuses_leaves_no_page_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "x<b>").mkdir()
    done = run("site", str(tmp_path / "site"), "--model", str(tmp_path / "x<b>"), "--only", "0")
    assert done.returncode == 1
    assert "No page: the folder" in done.stdout
    index = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "No page: the folder" in index
    assert "<b>" not in index
    assert [file.name for file in (tmp_path / "site").iterdir()] == ["index.html"]
