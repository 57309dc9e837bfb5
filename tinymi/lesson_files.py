"""Where the lessons are, and what each says of itself in its docstring."""

import ast
from dataclasses import dataclass
from pathlib import Path

from tinymi.errors import InputError


@dataclass(frozen=True)
class LessonFile:
    """One lesson script."""

    path: Path
    title: str  # its question
    about: tuple[tuple[str, str], ...]  # (name, text) of the docstring's paragraphs; the name may be ""

    @property
    def number(self) -> str:
        """The digits that its name begins with."""
        return self.path.stem.partition("_")[0]

    @property
    def times(self) -> tuple[str, str]:
        """How long it takes: to read, to run. Its docstring says "Time: 20 minutes to read, 5 seconds to run"."""
        read, _, run = self.field("Time").partition(", ")
        return read.removesuffix(" to read"), run.removesuffix(" to run")

    def field(self, name: str) -> str:
        """A paragraph of the docstring by its name, such as Time; "" if there is none."""
        return dict(self.about).get(name, "")


def folder() -> Path:
    """The folder of the lessons: beside the package in a clone, inside it in an installation."""
    places = [Path(__file__).parents[1] / "lessons", Path(__file__).parent / "lessons"]
    for place in places:
        if any(place.glob("[0-9]*_*.py")):
            return place
    raise InputError(f"lessons: none in {' or '.join(map(str, places))}; install tinymi again, or clone its repository")


def all_lessons() -> list[LessonFile]:
    """The lessons in their order."""
    found = []
    for path in sorted(folder().glob("[0-9]*_*.py")):
        title, about = read_docstring(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
        found.append(LessonFile(path, title, about))
    return found


def find(name: str) -> LessonFile:
    """A lesson by its number (3, 03), its file's name or the part behind the number. Raises InputError."""
    lessons = all_lessons()
    wanted = Path(name).name.removesuffix(".py")
    for lesson in lessons:
        same_number = wanted.isdecimal() and wanted.isascii() and int(wanted) == int(lesson.number)
        if same_number or wanted in (lesson.path.stem, lesson.path.stem.partition("_")[2]):
            return lesson
    raise InputError(
        f"lesson {name!r}: there is none; there are {', '.join(lesson.path.stem for lesson in lessons)}; give a number "
        "or a name"
    )


def read_docstring(docstring: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The title (first line) and the paragraphs as (name, text); 'Name: text' is split, any other name is ''."""
    blocks = [block for block in docstring.strip().split("\n\n") if block.strip()]
    title, *rest = (blocks[0] if blocks else "").split("\n", 1)
    paragraphs: list[tuple[str, str]] = []
    for block in [*rest, *blocks[1:]]:
        for line in block.split("\n"):
            name, colon, text = line.strip().partition(":")
            if colon and name[:1].isupper() and len(name) <= 30 and (text.startswith(" ") or not text):
                paragraphs.append((name, text.strip()))
            elif line != block.split("\n")[0] and paragraphs:
                paragraphs[-1] = (paragraphs[-1][0], f"{paragraphs[-1][1]} {line.strip()}".strip())
            else:
                paragraphs.append(("", line.strip()))
    return title.strip(), tuple(paragraphs)
