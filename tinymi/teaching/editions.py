"""The cells of notebooks in two editions: with solutions, for a teacher, and with blanks instead, for a class."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinymi.teaching import tasks
from tinymi.teaching.catalogue import LessonFile
from tinymi.teaching.cells import Cell, Question, cells, question
from tinymi.teaching.tasks import Task

BLANK = """# Your code goes here. For a hint: hint("{name}")
answer = None

check("{name}", answer)"""


def source_cells(path: Path) -> list[Cell]:
    """All cells of a lesson's source. The first is its docstring, with the title as a heading."""
    source = path.read_text("utf-8")
    return [Cell(1, "", True, f"# {ast.get_docstring(ast.parse(source))}"), *cells(source)]


def lesson_cells(lesson: LessonFile, solutions: bool) -> list[Cell]:
    """The lesson, then the exercises in its file of exercises."""
    result: list[Cell] = []
    asked, count = None, 0
    for cell in source_cells(lesson.path):
        above, asked = asked, question(cell)
        count += asked is not None
        name = f"{int(lesson.number)}.{count}"
        if asked:
            result.append(_question(name, asked, solutions))
        else:
            result.append(_blank(name, cell) if above and not solutions else cell)
    return [*result, *_tasks(tasks.tasks(lesson), solutions)]


def workshop_cells(solutions: bool) -> list[Cell]:
    return [source_cells(tasks.workshop_path())[0], *_tasks(tasks.workshop(), solutions)]


def index_cells(lessons: Sequence[LessonFile]) -> list[Cell]:
    """One Markdown cell with a link to each lesson's notebook."""
    lines = [f"- {one.number} [{one.title}]({one.path.stem}.ipynb): {one.times[0]}" for one in lessons]
    lines.append("- [Write a transformer yourself](workshop.ipynb): 3 hours")
    return [Cell(0, "", True, "\n".join(["# The lessons", "", *lines]))]


def _question(name: str, asked: Question, solutions: bool) -> Cell:
    """With its hints in the edition for a teacher; a reader asks for them one at a time."""
    text = f"**Exercise {name}** ({asked.difficulty}, {asked.minutes} minutes): {asked.text}"
    hints = asked.hint.splitlines() if solutions else []
    return Cell(0, "", True, "\n\n".join([text, *(f"Hint: {hint}" for hint in hints)]))


def _blank(name: str, solution: Cell) -> Cell:
    ending = "\n\nlesson.finish()" if solution.text.endswith("lesson.finish()") else ""
    return Cell(0, "", False, BLANK.format(name=name) + ending)


def _tasks(todo: Sequence[Task], solutions: bool) -> Iterator[Cell]:
    if todo and todo[0].imports:
        yield Cell(0, "Set-up", False, todo[0].imports)
    for task in todo:
        yield _question(task.name, task.asked, solutions)
        yield from _solution(task) if solutions else [_place(task)]


def _place(task: Task) -> Cell:
    """Where a reader writes."""
    for_hints = f'For a hint: hint("{task.name}")'
    if task.code:
        return Cell(0, "", False, f"{task.stub}\n\n\ncheck({task.function})  # {for_hints}")
    return Cell(0, "", False, f"# Your work goes here. {for_hints}")


def _solution(task: Task) -> Iterator[Cell]:
    if task.code:
        yield Cell(0, "", False, f"{task.code}\n\n\ncheck({task.function})")
    if task.mistakes:
        sentences = dict.fromkeys(sentence for _, _, sentence in task.mistakes)
        yield Cell(0, "", True, "\n".join(["What often goes wrong:", "", *(f"- {one}" for one in sentences)]))
    if task.control:
        yield Cell(0, "", False, f'{task.control}\n\nprint(f"claim {{claim:.2f}}, control {{control:.2f}}")')
