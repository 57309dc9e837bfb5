"""`tinymi notebook 6`: a lesson as a notebook; `tinymi notebook --all FOLDER`: all of them, with an index."""

from collections.abc import Sequence
from pathlib import Path

from tinymi.errors import InputError
from tinymi.teaching import editions, ipynb
from tinymi.teaching.catalogue import LessonFile
from tinymi.text import show_text


def notebooks(
    lessons: Sequence[LessonFile], folder: Path, solutions: bool, run: bool, model: str | None, source: str
) -> int:
    """Write a notebook for each lesson; for several also the workshop and an index. Raises InputError.

    run: with the outputs of the lessons' cells. model, source: see `ipynb.notebook`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); name another folder") from None
    for lesson in lessons:
        content = ipynb.notebook(editions.lesson_cells(lesson, solutions), model, source)
        path = folder / f"{lesson.path.stem}.ipynb"
        ipynb.write(path, ipynb.run(content) if run else content)
        print(f"Notebook: {show_text(str(path))}", flush=True)
    if len(lessons) > 1:
        workshop = ipynb.notebook(editions.workshop_cells(solutions), None, source)
        ipynb.write(folder / "workshop.ipynb", ipynb.run(workshop) if run else workshop)
        ipynb.write(folder / "index.ipynb", ipynb.notebook(editions.index_cells(lessons)))
        print(f"Index: {show_text(str(folder / 'index.ipynb'))}")
    return 0
