"""Functions to write: the exercises in lessons/exercises, each with a reference and the mistakes that are often made.

A file there has the cells of a lesson. An exercise is a Markdown cell, then the reference: one function with a
docstring. A cell `# %% Mistakes` may follow with a list of (old, new, sentence): where the reader's numbers are those
of the reference with `old` replaced by `new`, the sentence says what is wrong. Where a finding is to be undone, a cell
`# %% Control` computes the number that is claimed and that of the control.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching import catalogue
from tinymi.teaching.cells import Question, cells, question

Function = Callable[..., Any]
WORKSHOP = "workshop"


@dataclass
class Task:
    """A function to write; without code, a finding to undo or a piece of research."""

    name: str  # "6.3"
    asked: Question
    imports: str  # of its file
    before: str = ""  # the functions above it in its file, which it may call
    code: str = ""
    mistakes: list[tuple[str, str, str]] = field(default_factory=list)
    control: str = ""

    @property
    def function(self) -> str:
        """The name of the function; "" where there is none to write."""
        return self._definition().name if self.code else ""

    def _definition(self) -> ast.FunctionDef:
        (definition,) = [node for node in ast.parse(self.code).body if isinstance(node, ast.FunctionDef)]
        return definition

    @property
    def setup(self) -> str:
        """What runs before its code."""
        return f"{self.imports}\n\n\n{self.before}".strip()

    @property
    def hints(self) -> list[str]:
        """One after the other; the answer last."""
        answer = [f"The answer:\n\n{self.code}"] if self.code else []
        return [*self.asked.hint.splitlines(), *answer]

    @property
    def stub(self) -> str:
        """The head of the function, and an error in place of its code."""
        head = self.code.splitlines()[: self._definition().body[0].end_lineno]
        blank = f'    raise NotImplementedError("{self.function} is not written yet")  # put your code in place of this'
        return "\n".join([*head, blank])

    def reference(self, old: str = "", new: str = "") -> Function:
        """The function, or what it becomes by a mistake."""
        variables: dict[str, Any] = {}
        exec(f"{self.setup}\n{self.code.replace(old, new) if old else self.code}", variables)
        function: Function = variables[self.function]
        return function


def path_of(lesson: catalogue.LessonFile) -> Path:
    """Where a lesson's further exercises are; there may be none."""
    return lesson.path.parent / "exercises" / lesson.path.name


def tasks(lesson: catalogue.LessonFile) -> list[Task]:
    """The exercises in the lesson's file of exercises. Their numbers go on from those in the lesson."""
    path = path_of(lesson)
    return read(path, str(int(lesson.number)), _asked_in(lesson)) if path.is_file() else []


def names(lesson: str) -> list[str]:
    """All exercises of a lesson, or of the workshop: "7.1", "7.2", and so on. Raises InputError."""
    if lesson == WORKSHOP:
        return [task.name for task in workshop()]
    found = catalogue.find(lesson)
    return [f"{int(found.number)}.{i + 1}" for i in range(_asked_in(found) + len(tasks(found)))]


def _asked_in(lesson: catalogue.LessonFile) -> int:
    """How many exercises the lesson itself asks."""
    return sum(question(cell) is not None for cell in cells(lesson.path.read_text("utf-8")))


def read(path: Path, number: str, first: int = 0) -> list[Task]:
    """The exercises of a file: number.first + 1, and so on."""
    result: list[Task] = []
    imports, before = "", ""
    for cell in cells(path.read_text("utf-8")):
        if asked := question(cell):
            result.append(Task(f"{number}.{first + len(result) + 1}", asked, imports, before))
        elif cell.title == "Set-up":
            imports = cell.text
        elif cell.title == "Mistakes":
            result[-1].mistakes = ast.literal_eval(cell.text.partition("=")[2].strip())
        elif cell.title == "Control":
            result[-1].control = cell.text
        elif not cell.is_markdown:
            result[-1].code = cell.text
            before = f"{before}\n\n\n{cell.text}"
    return result


def workshop_path() -> Path:
    return catalogue.folder() / "exercises" / f"{WORKSHOP}.py"


def workshop() -> list[Task]:
    """The steps of the workshop: a transformer to write."""
    return read(workshop_path(), WORKSHOP) if workshop_path().is_file() else []


def all_tasks() -> list[Task]:
    return [task for lesson in catalogue.all_lessons() for task in tasks(lesson)] + workshop()


def find(name: str) -> Task | None:
    """A task by its number (8.3, 08.3, knockout.3) or its function; None for another name."""
    lesson, _, number = name.rpartition(".")
    if lesson not in ("", WORKSHOP) and number.isascii() and number.isdecimal():
        name = f"{int(catalogue.find(lesson).number)}.{int(number)}"
    return next((task for task in all_tasks() if name in (task.name, task.function, f"my_{task.function}")), None)


def find_function(function: Function) -> Task:
    """The task that a reader's function solves. Raises InputError."""
    task = find(function.__name__)
    if task is None or not task.code:
        names = ", ".join(task.function for task in all_tasks() if task.code)
        raise InputError(f"check({function.__name__}): no exercise asks for it; name yours one of {names}")
    return task
