"""`tinymi answer 7.2 VALUE`: whether a reader's answer to an exercise is right. And hints, and what was tried."""

import runpy
import sys
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching import tasks
from tinymi.teaching.answers import exercise
from tinymi.teaching.check import function_verdict, next_hint, progress, value_verdict
from tinymi.teaching.diagnosis import raised
from tinymi.teaching.exercises import Verdict
from tinymi.teaching.report import items, terminal


def answer(name: str, value: str) -> int:
    """Print the verdict; exit status 1 for a wrong answer. Raises InputError.

    value: "" to print the exercise itself; for a function to write, the Python file that has it.
    """
    if task := tasks.find(name):
        return _task(task, value)
    asked = exercise(name)
    if not value:
        print(terminal.render(asked, terminal.Screen.of(sys.stdout)))
        print(f"\nFor a hint: tinymi hint {name}")
        return 0
    return _say(value_verdict(name, value))


def _task(task: tasks.Task, value: str) -> int:
    if not value or not task.code:
        asked = f"Exercise {task.name} ({task.asked.difficulty}, {task.asked.minutes} minutes): {task.asked.text}"
        print(terminal.render(items.Prose(asked), terminal.Screen.of(sys.stdout)))
        if task.code:
            print(f"\n{task.imports}\n\n\n{task.stub}\n\nTo check it: tinymi answer {task.name} FILE.py")
        print(f"\nFor a hint: tinymi hint {task.name}")
        return 0
    functions = _run(value)
    if task.function not in functions:
        raise InputError(f"answer {value!r}: has no function {task.function}; exercise {task.name} asks for one")
    return _say(function_verdict(functions[task.function]))


def _run(file: str) -> dict[str, Any]:
    """What a reader's file defines."""
    try:
        return runpy.run_path(file)
    except OSError as error:
        raise InputError(
            f"answer {file!r}: cannot be read ({error.strerror}); give the file with your function"
        ) from None
    except Exception as error:
        raise InputError(f"answer {file!r}: it raised {raised(error, file)}") from None


def _say(verdict: Verdict) -> int:
    print(terminal.render(items.Prose(f"{verdict.grade.capitalize()}. {verdict.text}"), terminal.Screen.of(sys.stdout)))
    return 1 if verdict.grade in ("close", "wrong") else 0


def show_hint(name: str) -> int:
    print(f"Hint {next_hint(name)}")
    return 0


def show_progress() -> int:
    """A row for each exercise that was tried."""
    seen = progress()
    if not seen:
        print("Nothing tried yet. Start with: tinymi run 0")
        return 0
    columns = {"exercise": list(seen), "right": ["yes" if entry["right"] else "no" for entry in seen.values()]}
    for name in ("tries", "hints"):
        columns[name] = [entry[name] for entry in seen.values()]
    print(terminal.render(items.columns_table(columns, None, "", ""), terminal.Screen.of(sys.stdout)))
    return 0
