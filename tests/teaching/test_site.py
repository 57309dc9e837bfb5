"""A site from small lessons: pages, their links, and what becomes of a lesson that fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.teaching.test_commands import run
from tinymi.errors import SourceError, SweepError
from tinymi.teaching.catalogue import LessonFile, read_docstring
from tinymi.teaching.report.site import Built, build

import pytest

DOCSTRING = "How many is <{n}>?\n\nNeeds: lesson a\n\nTime: 2 minutes to read, 1 second to run"
LESSON = """# %% [markdown]
# See lesson 1 and `deeper/01_lesson_b.py`, and the residual stream.

# %% Set-up
from tinymi.errors import InputError
from tinymi.teaching.lesson import Lesson

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
{middle}

# %%
picture = lesson.bars(["a", "b"], [1.0, 2.0], "the bars")
lesson.headline("It is {n}.", picture)
lesson.keep(numbers=[{n}])
lesson.finish()
"""
GOOD = 'lesson.check("same", 0.0, 1e-6)'


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path) -> Callable[..., list[Built]]:
    """Build a site in tmp_path / "site" of lessons that have these statements in their middle."""

    def site(*middles: str, deeper: str | None = None) -> list[Built]:
        files = []
        for number, middle in enumerate(middles):
            name = f"{number:02}_lesson_{'abc'[number]}.py"
            files.append(_write(tmp_path / "lessons" / name, number, middle))
            if deeper is not None and number == 1:
                _write(tmp_path / "lessons" / "deeper" / name, 10, deeper)
        return build(tmp_path / "site", files, str(tiny_folder))

    return site


def _write(path: Path, number: int, middle: str) -> LessonFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    docstring = DOCSTRING.format(n=number)
    path.write_text(f'"""{docstring}"""\n' + LESSON.format(n=number, middle=middle), "utf-8")
    return LessonFile(path, *read_docstring(docstring))


def hrefs(file: Path) -> list[str]:
    return [link for link in re.findall(r'href="([^"#]+)', file.read_text("utf-8")) if "://" not in link]


def test_pages_are_linked_to_each_other(make: Callable[..., list[Built]], tmp_path: Path) -> None:
    built = make(GOOD, GOOD, GOOD, deeper=GOOD)
    site = tmp_path / "site"
    names = ["00_lesson_a", "01_lesson_b", "deeper_01_lesson_b", "02_lesson_c"]
    assert [(one.name, one.status) for one in built] == [(name, 0) for name in names]
    files = [f"{name}.{ending}" for name in names for ending in ("html", "json")]
    assert sorted(file.name for file in site.iterdir()) == sorted([*files, "index.html", "glossary.html"])
    assert not {link for page in site.glob("*.html") for link in hrefs(page)} - {
        "data:,",
        *(p.name for p in site.iterdir()),
    }
    middle = (site / "01_lesson_b.html").read_text("utf-8")
    assert re.findall(r'<a rel="(\w+)" href="([^"]+)"', middle) == [
        ("prev", "00_lesson_a.html"),
        ("next", "02_lesson_c.html"),
    ]
    assert "Does it hold? <a" in middle
    assert "deeper_01_lesson_b.html" in hrefs(site / "01_lesson_b.html")
    assert "01_lesson_b.html" in hrefs(site / "deeper_01_lesson_b.html")
    assert "Does it hold?" not in (site / "deeper_01_lesson_b.html").read_text("utf-8")
    assert "deeper_01_lesson_b.html" in hrefs(site / "00_lesson_a.html"), "named in the prose"
    assert "glossary.html" in hrefs(site / "02_lesson_c.html")
    assert ">lessons/deeper/01_lesson_b.py<" in (site / "deeper_01_lesson_b.html").read_text("utf-8")
    assert json.loads((site / "01_lesson_b.json").read_text("utf-8"))["numbers"] == [1]


def test_the_front_page_shows_each_answer_and_its_picture(make: Callable[..., list[Built]], tmp_path: Path) -> None:
    make(GOOD, GOOD, deeper=GOOD)
    index = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert index.index("How many is &lt;0&gt;?") < index.index("It is 0.") < index.index("It is 1.")
    assert index.count("<svg") == 2
    assert "It is 10." not in index, "the path leads through the lessons"
    assert "passed" not in index


def test_what_fails_in_one_lesson_ends_that_lesson_alone(make: Callable[..., list[Built]], tmp_path: Path) -> None:
    make(GOOD, GOOD)
    bug, refusal, check = "1 / 0", "raise InputError('x<b>: no')", 'lesson.check("same", 1.0, 1e-6)'
    built = make(bug, refusal, check)
    assert [(one.status, one.problem) for one in built] == [
        (1, "ZeroDivisionError in line 16: division by zero"),
        (2, "x<b>: no"),
        (1, "failed: same"),
    ]
    site = tmp_path / "site"
    assert sorted(file.name for file in site.glob("0*")) == ["02_lesson_c.html", "02_lesson_c.json"], "no page of old"
    index = (site / "index.html").read_text("utf-8")
    assert "No page</strong> x&lt;b&gt;: no" in index
    assert "A check failed</strong> failed: same" in index
    assert "Check FAILED" in (site / "02_lesson_c.html").read_text("utf-8")
    assert "00_lesson_a.html" not in hrefs(site / "02_lesson_c.html")


def test_a_lesson_without_an_end_has_no_page(make: Callable[..., list[Built]]) -> None:
    assert make("import sys; lesson.finish = lambda: None")[0].problem == "ended without lesson.finish()"


def test_processes_make_the_same_site(make: Callable[..., list[Built]], tmp_path: Path, tiny_folder: Path) -> None:
    built = make(GOOD, "1 / 0", GOOD, deeper=GOOD)
    again = build(tmp_path / "again", [one.lesson for one in built if not one.is_deeper], str(tiny_folder), jobs=2)
    assert [(one.name, one.problem, one.status) for one in again] == [
        (one.name, one.problem, one.status) for one in built
    ]
    for file in (tmp_path / "site").iterdir():
        assert (tmp_path / "again" / file.name).read_text("utf-8") == file.read_text("utf-8")


def test_a_process_that_dies_is_told(tmp_path: Path, tiny_folder: Path) -> None:
    file = _write(tmp_path / "lessons" / "00_x.py", 0, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(SweepError, match="a process died"):
        build(tmp_path / "site", [file], str(tiny_folder), jobs=2)


def test_a_model_that_is_none_is_refused_before_the_work(tmp_path: Path) -> None:
    file = _write(tmp_path / "lessons" / "00_x.py", 0, GOOD)
    with pytest.raises(SourceError, match="absent"):
        build(tmp_path / "site", [file], str(tmp_path / "absent"))


def test_the_command_makes_a_site(tiny_folder: Path, tmp_path: Path) -> None:
    done = run("site", str(tmp_path / "site"), "--model", str(tiny_folder), "--only", "7")
    assert done.stderr == ""
    assert re.search(r"^1 of \d: 07_activation_patching$", done.stdout, re.MULTILINE)
    assert "07_activation_patching: ' Paris': is 6 tokens, not one" in done.stdout
    assert "deeper_07_activation_patching: done" in done.stdout
    assert done.returncode == 1
    assert not (tmp_path / "site" / "07_activation_patching.html").exists()
    assert (tmp_path / "site" / "deeper_07_activation_patching.html").exists()
    assert (tmp_path / "site" / "index.html").exists()
