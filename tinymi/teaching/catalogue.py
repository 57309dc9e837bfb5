"""Where the lessons are, and what each says of itself in its docstring."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from tinymi.errors import InputError, did_you_mean


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
    def deeper(self) -> Path | None:
        """The file that asks "does it hold?", if there is one."""
        path = self.path.parent / "deeper" / self.path.name
        return path if path.is_file() else None

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
    places = [Path(__file__).parents[2] / "lessons", Path(__file__).parents[1] / "lessons"]
    for place in places:
        if any(place.glob("[0-9]*_*.py")):
            return place
    raise InputError(f"lessons: none in {' or '.join(map(str, places))}; install tinymi again, or clone its repository")


def prompts(name: str) -> list[list[str]]:
    """The lines of lessons/prompts/NAME.txt, each cut at "|"; empty lines and those that begin with # are left out."""
    text = (folder() / "prompts" / f"{name}.txt").read_text("utf-8")
    return [line.split("|") for line in text.splitlines() if line.strip() and not line.startswith("#")]


def all_lessons() -> list[LessonFile]:
    """The lessons in their order."""
    return [read(path) for path in sorted(folder().glob("[0-9]*_*.py"))]


def read(path: Path) -> LessonFile:
    """A lesson, or its deeper file, as its docstring describes it."""
    return LessonFile(path, *read_docstring(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""))


def find(name: str) -> LessonFile:
    """A lesson by its number (3, 03), its name, or a word of its name that no other has. Raises InputError."""
    stem = Path(name).name.removesuffix(".py")
    lessons = all_lessons()
    matches = [lesson for lesson in lessons if _is_called(lesson, stem)]
    matches = matches or [lesson for lesson in lessons if stem in lesson.path.stem.split("_")[1:]]
    if len(matches) == 1:
        return matches[0]
    if matches:
        stems = ", ".join(lesson.path.stem for lesson in matches)
        raise InputError(f"lesson {name!r}: is the name of more than one; give the number or name of one of {stems}")
    names = [lesson.path.stem.partition("_")[2] for lesson in lessons]
    words = [word for each in names for word in each.split("_")]
    raise InputError(f"lesson {name!r}: no such lesson; {did_you_mean(stem, [*names, *words])}`tinymi run` lists all")


def _is_called(lesson: LessonFile, stem: str) -> bool:
    same_number = stem.isdecimal() and stem.isascii() and int(stem) == int(lesson.number)
    return same_number or stem in (lesson.path.stem, lesson.path.stem.partition("_")[2])


def read_docstring(docstring: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The title (first line) and the paragraphs below it as (name, text). "Time: ..." has a name; else it is ""."""
    title, _, rest = docstring.strip().partition("\n")
    blocks = [" ".join(block.split()) for block in rest.split("\n\n")]
    return title.strip(), tuple(_paragraph(block) for block in blocks if block)


def _paragraph(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Z][^:]{0,29}): (.*)", text)
    return (match[1], match[2]) if match else ("", text)
