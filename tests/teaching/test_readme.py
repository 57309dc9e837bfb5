"""The README: its Python example does what its comments say, and its output is what the lesson prints."""

import re
from pathlib import Path

import tinymi
from tests.running import ROOT, run_lesson
from tinymi.teaching.catalogue import all_lessons

import pytest

README = (ROOT / "README.md").read_text("utf-8")


def test_the_example_prints_what_its_comments_say(
    default_model: tinymi.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    printed: list[str] = []
    exec(code, {"print": lambda value: printed.append(str(value))})
    expected = re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert len(expected) == 3
    assert printed == expected
    assert "France" in (tmp_path / "layer_23.html").read_text("utf-8")


def test_its_output_is_the_lessons() -> None:
    shown = re.findall(r"^    (head .*)$", README, flags=re.MULTILINE)
    assert len(shown) == 4
    lesson = run_lesson("07_activation_patching").stdout
    assert [line for line in shown if line not in lesson] == []
    (sentence,) = re.findall(r"^Head .* writes (.*): one head of", README, flags=re.MULTILINE)
    promoted = [f"␣{word}" for word in re.findall(r"` (\w+)`", sentence)]
    assert len(promoted) == 5
    assert [word for word in promoted if word not in lesson] == []


def test_what_you_learn_names_every_lesson() -> None:
    (text,) = re.findall(r"^\*\*\[What you learn\].*?\n\n", README, flags=re.MULTILINE | re.DOTALL)
    numbers: list[int] = []
    for first, last in re.findall(r"\b(\d\d)(?: to (\d\d))?\b", text):
        numbers += range(int(first), int(last or first) + 1)
    assert numbers == [int(lesson.number) for lesson in all_lessons()]


def test_its_two_commands_are_those_of_the_gate() -> None:
    commands = re.findall(r"^    (python3 -m venv .*)$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    assert commands[1].endswith("-m pytest")


def test_the_path_names_every_lesson_with_its_minutes() -> None:
    path = (ROOT / "lessons" / "README.md").read_text("utf-8")
    named = re.findall(r"^\*\*(\d\d) \[.*?\]\((.*?)\)\*\*: (\d+ minutes), needs", path, flags=re.MULTILINE)
    assert named == [(lesson.number, lesson.path.name, lesson.times[0]) for lesson in all_lessons()]
