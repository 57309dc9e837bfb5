"""Functions to write: references pass, and each mistake gets a sentence of its own."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import tinymi
from tinymi.commands.answer import answer
from tinymi.errors import InputError
from tinymi.teaching.catalogue import all_lessons
from tinymi.teaching.cells import cells, question
from tinymi.teaching.check import _default_model, check, progress
from tinymi.teaching.diagnosis import judge_function
from tinymi.teaching.tasks import Task, all_tasks, find_function, tasks

import numpy as np
import pytest

TASKS = [task for task in all_tasks() if task.code]
MISTAKES = [(task, mistake) for task in TASKS for mistake in task.mistakes]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.function)
def test_a_reference_is_right(task: Task, tiny_model: tinymi.Model) -> None:
    assert judge_function(task, task.reference(), lambda: tiny_model).grade == "right"
    assert find_function(task.reference()) == task
    stub: dict[str, Any] = {}
    exec(f"{task.setup}\n{task.stub}", stub)
    verdict = judge_function(task, stub[task.function])
    assert verdict == ("open", f"{task.function} is not written yet.")


@pytest.mark.parametrize(("task", "mistake"), MISTAKES, ids=lambda value: getattr(value, "function", ""))
def test_a_mistake_gets_its_own_sentence(task: Task, mistake: tuple[str, str, str]) -> None:
    old, new, sentence = mistake
    assert old in task.code
    verdict = judge_function(task, task.reference(old, new))
    assert verdict.grade == "wrong"
    assert verdict.text == sentence


def test_a_session_loads_the_default_model_once_and_only_where_it_is_needed(
    tiny_model: tinymi.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Mock(return_value=tiny_model)
    monkeypatch.setattr("tinymi.checkpoint.load", load)
    monkeypatch.setenv("TINYMI_HOME", str(tmp_path))
    _default_model.cache_clear()
    task = by_name("head_shares")
    check(task.reference("weights.ln_final * ", ""))
    assert not load.called, "the made-up model shows the mistake"
    for _ in range(2):
        check(task.reference())
    assert load.call_count == 1
    _default_model.cache_clear()


def test_a_large_number_is_not_infinite() -> None:
    task = by_name("look")
    verdict = judge_function(task, task.reference("-np.inf", "-1e9"))
    assert verdict == ("wrong", "Yours has -1e+09 where -inf is asked for.")


def test_what_answer_prints_is_a_file_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TINYMI_HOME", str(tmp_path))
    assert answer("6.3", "") == 0
    printed = capsys.readouterr().out
    file = tmp_path / "mine.py"
    file.write_text(printed[printed.index("from ") : printed.index("To check it")])
    assert answer("6.3", str(file)) == 0
    assert capsys.readouterr().out == "Open. head_shares is not written yet.\n"
    assert progress() == {}, "a blank is no try"
    file.write_text("a = 1\nb = a + c")
    with pytest.raises(
        InputError, match=r"mine\.py': it raised NameError: .*'c' is not defined \(line 2: `b = a \+ c`\)"
    ):
        answer("6.3", str(file))
    file.write_text("def head_shares(:")
    with pytest.raises(InputError, match=r"it raised SyntaxError: .*line 1"):
        answer("6.3", str(file))


FINDINGS = [task for task in all_tasks() if task.control]


@pytest.mark.parametrize("task", FINDINGS, ids=lambda task: task.name)
def test_a_finding_is_true_and_its_control_undoes_it(task: Task, default_model_folder: Path) -> None:
    variables: dict[str, Any] = {}
    exec(f"{task.setup}\n{task.control}", variables)
    claim, control = variables["claim"], variables["control"]
    assert f"{claim:.2f}" in task.asked.text
    assert f"{control:.2f}" in task.hints[-1]
    assert control > 0.9 * claim


def test_every_lesson_has_numbers_functions_and_one_piece_of_research() -> None:
    for lesson in all_lessons():
        in_lesson = [one for cell in cells(lesson.path.read_text("utf-8")) if (one := question(cell))]
        todo = tasks(lesson)
        asked = in_lesson + [task.asked for task in todo]
        assert in_lesson, lesson.path.stem
        assert any(task.code for task in todo), lesson.path.stem
        assert len(asked) >= 3, lesson.path.stem
        assert all(each.hint and each.difficulty and each.minutes for each in asked), lesson.path.stem
        (research,) = [each for each in asked if each.difficulty == "research"]
        assert research.hint.splitlines()[-1].startswith("your report is good when"), lesson.path.stem


def by_name(name: str) -> Task:
    return next(task for task in TASKS if task.function == name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda right: right.T, "axes are in another order; transpose by (1, 0)"),
        (lambda right: -right, "the sign is not"),
        (lambda right: 2 * right, "Each number is 2 times"),
        (lambda right: right + 3, "off by the same 3"),
        (lambda right: np.roll(right, 1, axis=1), "one place off along axis 1"),
        (lambda right: np.roll(right, -1, axis=0), "one place off along axis 0"),
        (lambda right: right[None], "an axis of length 1 is too many"),
        (lambda right: right[::-1], "axis 0 runs backwards"),
        (lambda right: right / 0.0, "not finite"),
        (lambda right: "many", "It returns a str, but numbers are asked for"),
        (lambda right: right[5, 5], "It raised IndexError: index 5 is out of bounds for axis 0 with size 3 (line "),
        (lambda right: None, "It returns nothing: end it with `return`."),
        (lambda right: right[:, :2], "Yours has the shape [3, 2], and [3, 4] is asked for."),
        (lambda right: right**2, "The shape is right, the numbers are not: at ["),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_teacher_sees_at_once(change: Any, words: str) -> None:
    task = by_name("head_shares")
    right = task.reference()

    def head_shares(*arguments: Any) -> Any:
        return change(right(*arguments))

    verdict = judge_function(task, head_shares)
    assert verdict.grade == "wrong"
    assert words in verdict.text
