"""`check("6.2", value)`: whether an answer is right, in a notebook or anywhere else."""

from typing import Any

from tinymi.teaching.answers import exercise
from tinymi.teaching.exercises import Verdict, judge


def check(name: str, value: Any) -> None:
    """Say whether `value` is the answer to the exercise `name`, such as "6.2"."""
    verdict = verdict_on(name, value)
    print(f"{verdict.grade.capitalize()}. {verdict.text}")


def verdict_on(name: str, value: Any) -> Verdict:
    """Raises InputError for an exercise that does not exist, and for an answer of the wrong kind."""
    if value is None:
        return Verdict("open", "No answer yet: put yours in place of None.")
    return judge(exercise(name), str(value))
