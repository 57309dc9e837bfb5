"""`tinymi answer 7.2 VALUE`: whether a reader's answer to an exercise is right."""

import sys

from tinymi.teaching.answers import exercise
from tinymi.teaching.exercises import judge
from tinymi.teaching.report import items, terminal


def answer(name: str, value: str) -> int:
    """Print the verdict, and the hint where it is not right; exit status 1 for a wrong answer. Raises InputError.

    value: "" to print the exercise itself.
    """
    asked, screen = exercise(name), terminal.Screen.of(sys.stdout)
    if not value:
        print(terminal.render(asked, screen))
        return 0
    grade, text = judge(asked, value)
    words = [f"{grade.capitalize()}. {text}"]
    if grade in ("close", "wrong") and asked.hint:
        words.append(f"Hint: {asked.hint}")
    print(terminal.render(items.Prose("\n\n".join(words)), screen))
    return 1 if grade in ("close", "wrong") else 0
