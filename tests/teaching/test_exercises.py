"""A reader's answer to an exercise: right, close or wrong; and the answers themselves, computed once."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tinymi.commands.answer import answer, show_progress
from tinymi.errors import InputError
from tinymi.teaching import answers, catalogue, tasks
from tinymi.teaching.cells import Question
from tinymi.teaching.check import next_hint, progress
from tinymi.teaching.exercises import judge, make_exercise
from tinymi.text import Token

import numpy as np
import pytest


def grade(value: Any, given: str, tolerance: float | None = None) -> str:
    return judge(make_exercise("7.1", Question("?", "a hint"), value, tolerance, ""), given).grade


@pytest.mark.parametrize(
    ("value", "given", "expected"),
    [
        (0.9312, "0.93", "right"),
        (0.9312, " 0.9312 ", "right"),
        (np.float32(0.9312), "93.1%", "right"),
        (0.9312, "0.9", "close"),
        (0.9312, "1", "close"),
        (0.9312, "0.5", "wrong"),
        (0.9312, "-0.9312", "wrong"),
        (-2.5, "\N{MINUS SIGN}2.5", "right"),
        (0.0349, "0.03", "right"),
        (0.0349, "0.0", "wrong"),
        (1234.5, "1,234", "right"),
        (1e-7, "1e-7", "right"),
        (23, "23", "right"),
        (np.int64(23), "23.0", "right"),
        (23, "24", "wrong"),
        (49152, "49,152", "right"),
        (49152, "49000", "wrong"),
    ],
)
def test_numbers(value: Any, given: str, expected: str) -> None:
    assert grade(value, given) == expected


def test_a_lesson_sets_the_tolerance() -> None:
    assert [grade(10.0, given, 0.1) for given in ("10.9", "15", "21")] == ["right", "close", "wrong"]
    assert grade(100, "101", 0.02) == "right"


@pytest.mark.parametrize(
    ("value", "given", "expected"),
    [
        (Token(" Paris"), "paris", "right"),
        (" Paris", "␣Paris", "right"),
        (" Paris", '" Paris"', "right"),
        (" Paris", "Pariss", "close"),
        (" Paris", "London", "wrong"),
        ("23.4", "head 23.4", "right"),
        ("head 23.4", "23.4", "right"),
        ("23.4", "23.5", "wrong"),
        ("layer 0: it sees only the token", "Layer  0.", "right"),
        ("layer 0: it sees only the token", "0", "right"),
        ("layer 0: it sees only the token", "layer 10", "wrong"),
        ("23.4 and 17.3", "23.4", "close"),
        ("+2.34", "2.34", "right"),
        (True, "yes", "right"),
        ("the embedding", "embedding", "right"),
        ("it sees nothing but the token itself, so it carries the whole", "the token", "open"),
    ],
)
def test_words(value: Any, given: str, expected: str) -> None:
    assert grade(value, given) == expected


def test_a_verdict_gives_the_answer_away_only_when_it_is_right() -> None:
    exercise = make_exercise("7.1", Question("?"), 0.93123, None, "")
    assert "0.9312" in judge(exercise, "0.931").text
    for given in ("0.9", "3", "-0.931"):
        assert "0.93" not in judge(exercise, given).text.replace(given, "")
    assert judge(exercise, "-0.93123").text == "The size is right, the sign is not."


def test_a_verdict_says_what_it_read() -> None:
    exercise = make_exercise("7.1", Question("?"), 0.93, None, "")
    for given, read in (("50%", "0.5"), ("1,234,567.5", "1234567.5"), ("92%", "0.92")):
        assert judge(exercise, given).text.startswith(f"{given} (read as {read}) is ")


@pytest.mark.parametrize(
    ("value", "example", "refused"),
    [
        ("23.4", "5.2", ["banana", "23,4", "50%", "23", ""]),
        ("head 23.4", "5.2", ["head", "layer 23, head 4"]),
        ("layer 0: it sees only the token", "5", ["banana", "0%", "0.0", "layer"]),
    ],
)
def test_where_a_head_or_a_layer_is_asked_for_words_are_refused(value: str, example: str, refused: list[str]) -> None:
    for given in refused:
        with pytest.raises(InputError, match=rf"exercise 7\.1 asks for a number; give one, such as {example}$"):
            grade(value, given)


@pytest.mark.parametrize("given", ["Paris", "nan", "inf", "1e999", "", "1.2.3", "%", "--x", "٣x", "23,4", "1,2345"])
def test_where_a_number_is_asked_for_words_are_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"exercise 7\.1 asks for a number"):
        grade(0.5, given)


# --- a lesson's answers, in the cache ------------------------------------------------------------------------------

LESSON = '''"""Seven?"""
# %%
from pathlib import Path
from tinymi.teaching import Lesson
lesson = Lesson(__doc__)
lesson.start()
with Path(__file__).with_name("runs").open("a") as runs:
    runs.write("x")
# %% [markdown]
# Exercise (easy, 5 minutes): Three and four?
#
# Hint: it is odd
#
# Hint: and prime
# %%
lesson.answer(7.0)
# %% [markdown]
# Exercise (easy, 5 minutes): Where to?
# %%
lesson.answer("Paris")
lesson.finish()
'''


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one lesson, an empty cache; returns the file that gets a letter whenever the lesson runs."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "03_seven.py").write_text(LESSON)
    monkeypatch.setattr(catalogue, "folder", lambda: tmp_path)
    monkeypatch.setenv("TINYMI_HOME", str(tmp_path / "cache"))
    return tmp_path / "runs"


def test_a_lesson_is_run_once_for_all_answers(runs: Path, capsys: Any) -> None:
    assert answer("3.1", "7") == 0
    printed = capsys.readouterr()
    assert printed.out == "Right. The answer is 7.\n"
    assert printed.err == "tinymi: running 03_seven once to compute its answers\n"
    assert (answer("seven.1", "8"), answer("03.2", "Rome")) == (1, 1)
    with pytest.raises(InputError, match="asks for a number"):
        answer("3.1", "seven")
    assert progress()["3.1"]["tries"] == 1, "what is no number is no try"
    out, err = capsys.readouterr()
    assert (out, err) == (
        "Wrong. 8 is not within 0.07 of the answer.\nWrong. Rome is not the answer.\n",
        "",
    )
    assert runs.read_text() == "x"


def test_without_a_value_the_exercise_is_shown(runs: Path, capsys: Any) -> None:
    assert answer("3.1", "") == 0
    out = capsys.readouterr().out
    assert out == "Exercise 3.1 (easy, 5 minutes): Three and four?\n\nFor a hint: tinymi hint 3.1\n"


def test_hints_come_one_at_a_time_and_the_answer_last(runs: Path, capsys: Any) -> None:
    assert [next_hint("3.1") for _ in range(4)] == [
        "1 of 3: it is odd",
        "2 of 3: and prime",
        "3 of 3: The answer: 7",
        "3 of 3: The answer: 7",
    ]
    assert (answer("3.1", "8"), answer("3.1", "7"), answer("3.1", "9")) == (1, 0, 1)
    assert progress() == {"3.1": {"right": True, "tries": 3, "hints": 3}}
    assert show_progress() == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["3.1", "yes", "3", "3"]


def test_a_damaged_record_is_begun_again(runs: Path) -> None:
    (runs.parent / "cache").mkdir()
    for damaged in ("[", "[]"):
        (runs.parent / "cache" / "progress.json").write_text(damaged)
        assert progress() == {}


@pytest.mark.parametrize("change", ["lesson", "prompts", "module", "damage"])
def test_answers_are_computed_again_when_what_they_rest_on_changes(change: str, runs: Path) -> None:
    answers.exercise("3.1")
    folder = runs.parent
    match change:
        case "lesson":
            (folder / "03_seven.py").write_text(LESSON.replace("7.0", "8.0"))
        case "prompts":
            (folder / "prompts" / "new.txt").write_text("a|b")
        case "module":
            (folder / "data.py").write_text("X = 1\n")
        case "damage":
            (cached,) = (folder / "cache" / "answers").iterdir()
            cached.write_text(cached.read_text()[:20])
    assert answers.exercise("3.1").value == (8.0 if change == "lesson" else 7.0)
    assert runs.read_text() == "xx"


def test_a_cache_that_cannot_be_written_does_not_matter(runs: Path) -> None:
    (runs.parent / "cache").write_text("a file")
    assert answers.exercise("3.2").answer == "Paris"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("3", "such as 7.2"),
        ("3.x", "such as 7.2"),
        ("", "such as 7.2"),
        ("4.1", "lesson '4': no such lesson"),
        ("3.0", "3 has 2 exercises; give one of 3.1, 3.2$"),
        ("seven.3", "seven has 2 exercises; give one of 3.1, 3.2$"),
    ],
)
def test_an_exercise_that_does_not_exist_is_refused(name: str, words: str, runs: Path) -> None:
    with pytest.raises(InputError, match=words):
        answers.exercise(name)
    assert not runs.exists(), "no lesson runs for it"


@pytest.mark.parametrize("lesson", ["7", "19", "workshop"])
def test_the_exercises_of_its_file_count_too(lesson: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "run_lesson", None)
    names = tasks.names(lesson)
    own = [task.name for task in tasks.all_tasks() if task.name.startswith(f"{lesson}.")]
    assert names[-len(own) :] == own
    words = f"{lesson} has {len(names)} exercises; give one of {', '.join(names)}"
    for number in (0, len(names) + 1):
        with pytest.raises(InputError, match=f"{re.escape(words)}$"):
            answers.exercise(f"{lesson}.{number}")


def test_a_task_is_found_by_all_names_of_its_lesson() -> None:
    for name in ("7.3", "07.3", "07_activation_patching.3", "activation_patching.3"):
        assert (task := tasks.find(name)) is not None
        assert task.name == "7.3"
    for name, words in (("7.3", r"check\(patched\) checks your function"), ("7.5", "its last hint says")):
        with pytest.raises(InputError, match=f"has no answer to compare with yours; {words}"):
            answers.exercise(name)


def test_the_command_takes_what_looks_like_an_option(tmp_path: Path) -> None:
    code = "import sys, tinymi.commands.answer as a; a.answer = lambda *given: print(given) or 0\n"
    code += "from tinymi.commands.main import main; sys.exit(main(['answer', '7.1', '-5%', '--x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "('7.1', '-5% --x')\n"
