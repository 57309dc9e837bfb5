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
from tinymi.teaching.cells import Cell, Question, cells, question

Function = Callable[..., Any]


@dataclass
class Task:
    """A function to write; without code, a finding to undo or a piece of research."""

    name: str  # "6.3"
    asked: Question
    setup: str  # the imports of its file, and the functions before
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
    def hints(self) -> list[str]:
        """One after the other; the answer last."""
        answer = [f"The answer:\n\n{self.code}"] if self.code else []
        return [*self.asked.hint.splitlines(), *answer]

    @property
    def stub(self) -> str:
        """The head of the function, for the reader to go on with, and its check."""
        head = self.code.splitlines()[: self._definition().body[0].end_lineno]
        return "\n".join([*head, "    ...  # your code", "", "", f"check({self.function})"])

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
    first = sum(question(cell) is not None for cell in cells(lesson.path.read_text("utf-8")))
    path = path_of(lesson)
    return read(path, str(int(lesson.number)), first) if path.is_file() else []


def read(path: Path, number: str, first: int = 0) -> list[Task]:
    """The exercises of a file: number.first + 1, and so on."""
    result: list[Task] = []
    setup = ""
    for cell in cells(path.read_text("utf-8")):
        if asked := question(cell):
            result.append(Task(f"{number}.{first + len(result) + 1}", asked, setup))
        elif cell.title == "Set-up":
            setup = cell.text
        elif cell.title == "Mistakes":
            result[-1].mistakes = ast.literal_eval(cell.text.partition("=")[2].strip())
        elif cell.title == "Control":
            result[-1].control = cell.text
        elif not cell.is_markdown:
            result[-1].code = cell.text
            setup = f"{setup}\n\n\n{cell.text}"  # later functions may call it
    return result


def workshop() -> list[Task]:
    """The steps of the workshop: a transformer to write."""
    path = catalogue.folder() / "exercises" / "workshop.py"
    return read(path, "workshop") if path.is_file() else []


def all_tasks() -> list[Task]:
    return [task for lesson in catalogue.all_lessons() for task in tasks(lesson)] + workshop()


def find(name: str) -> Task | None:
    """A task by its number or its function; None for another name."""
    return next((task for task in all_tasks() if name in (task.name, task.function, f"my_{task.function}")), None)


def find_function(function: Function) -> Task:
    """The task that a reader's function solves. Raises InputError."""
    task = find(function.__name__)
    if task is None or not task.code:
        names = ", ".join(task.function for task in all_tasks() if task.code)
        raise InputError(f"check({function.__name__}): no exercise asks for it; name yours one of {names}")
    return task


def notebook_cells(todo: list[Task], solutions: bool) -> list[Cell]:
    """Tasks as cells, with the reference solutions or with stubs."""
    result: list[Cell] = []
    if todo:
        result.append(Cell(0, "Set-up", False, todo[0].setup))
    for task in todo:
        about = f"{task.asked.difficulty}, {task.asked.minutes} minutes"
        result.append(Cell(0, "", True, f"**Exercise {task.name}** ({about}): {task.asked.text}"))
        if task.code:
            result.append(Cell(0, "", False, task.code if solutions else task.stub))
        if task.control and solutions:
            result.append(Cell(0, "", False, f"{task.control}\nprint(claim, control)"))
    return result
