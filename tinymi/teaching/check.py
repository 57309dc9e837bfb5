"""`check("6.2", value)` and `check(my_function)`: whether an answer is right, in a notebook or anywhere else.

Hints come one at a time, the answer last. What was tried is kept in one file: progress.json in the cache folder.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinymi.checkpoint import downloads
from tinymi.errors import InputError
from tinymi.teaching import answers, tasks
from tinymi.teaching.exercises import Verdict, judge
from tinymi.teaching.report.json import write_text

if TYPE_CHECKING:
    from tinymi.run import Model


def check(what: str | Callable[..., Any], value: Any = None) -> None:
    """Say whether a function is right, or the answer `value` to an exercise such as "6.2"."""
    verdict = function_verdict(what) if callable(what) else value_verdict(what, value)
    print(f"{verdict.grade.capitalize()}. {verdict.text}")


def function_verdict(function: Callable[..., Any]) -> Verdict:
    """Compared with the reference on the made-up model and on the default model. Raises InputError."""
    from tinymi.teaching.diagnosis import judge_function

    task = tasks.find_function(function)
    verdict = judge_function(task, function, _default_model)
    if verdict.grade != "open":  # a blank is no try
        _count(task.name, verdict)
    return verdict


@cache
def _default_model() -> "Model":
    """Loaded once a session: a reader checks often."""
    from tinymi.checkpoint import load

    return load()


def value_verdict(name: str, value: Any) -> Verdict:
    """Raises InputError for an exercise that does not exist, and for an answer of the wrong kind."""
    if value is None:
        return Verdict("open", "No answer yet: put yours in place of None.")
    verdict = judge(answers.exercise(name), str(value))
    _count(name, verdict)
    return verdict


def hint(name: str) -> None:
    """Print the next hint for an exercise, such as "6.3"; after the last one, its answer."""
    print(next_hint(name))


def next_hint(name: str) -> str:
    task = tasks.find(name)
    if task is None:
        exercise = answers.exercise(name)
        hints = [*exercise.hint.splitlines(), f"The answer: {exercise.answer}"]
    else:
        name, hints = task.name, task.hints
    seen = progress()
    entry = _entry(seen, name)
    place = min(entry["hints"], len(hints) - 1)
    entry["hints"] = place + 1
    _save(seen)
    return f"{place + 1} of {len(hints)}: {hints[place]}"


def progress() -> dict[str, dict[str, Any]]:
    """By exercise: whether it is right, how many tries and hints it took."""
    with suppress(OSError, ValueError):
        seen = json.loads(_file().read_text("utf-8"))
        if isinstance(seen, dict):
            return seen
    return {}


def _entry(seen: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return seen.setdefault(name, {"right": False, "tries": 0, "hints": 0})


def _count(name: str, verdict: Verdict) -> None:
    seen = progress()
    entry = _entry(seen, name)
    entry["tries"] += 1
    entry["right"] = entry["right"] or verdict.grade == "right"
    _save(seen)


def _save(seen: dict[str, dict[str, Any]]) -> None:
    with suppress(OSError, InputError):  # a cache that cannot be written costs the record, nothing else
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_text(str(_file()), json.dumps(seen, indent=1))


def _file() -> Path:
    return downloads.home() / "progress.json"
