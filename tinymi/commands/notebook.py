"""`tinymi notebook 6`: a lesson as a notebook; `tinymi notebook --all FOLDER`: all of them, with an index."""

from collections.abc import Sequence
from pathlib import Path

from tinymi.errors import InputError
from tinymi.teaching import ipynb, tasks
from tinymi.teaching.catalogue import LessonFile
from tinymi.text import show_text


def notebooks(lessons: Sequence[LessonFile], folder: Path, exercises: bool, run: bool, model: str | None) -> int:
    """Write a notebook for each lesson, and an index for several. Raises InputError for a file that exists."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    for lesson in lessons:
        cells = ipynb.lesson_cells(lesson)
        cells = ipynb.blanks(lesson, cells) if exercises else cells
        content = ipynb.notebook([*cells, *tasks.notebook_cells(tasks.tasks(lesson), not exercises)], model)
        path = folder / f"{lesson.path.stem}.ipynb"
        ipynb.write(path, ipynb.run(content) if run else content)
        print(f"Notebook: {show_text(str(path))}", flush=True)
    if len(lessons) > 1:
        ipynb.write(folder / "index.ipynb", ipynb.notebook(ipynb.index(lessons)))
        ipynb.write(folder / "workshop.ipynb", ipynb.notebook(tasks.notebook_cells(tasks.workshop(), not exercises)))
        print(f"Index: {show_text(str(folder / 'index.ipynb'))}")
    return 0
