"""The answers to a lesson's exercises: computed by running it once on the default model, then read from the cache."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tinymi.checkpoint import downloads
from tinymi.errors import InputError
from tinymi.teaching import catalogue, tasks
from tinymi.teaching.report.items import Exercise
from tinymi.teaching.report.json import write_text
from tinymi.teaching.running import run_lesson
from tinymi.version import __version__


def exercise(name: str) -> Exercise:
    """The exercise "7.2": the second of lesson 7, which is run where its answers are not in the cache yet."""
    lesson, _, number = name.rpartition(".")
    if not lesson or not (number.isascii() and number.isdecimal()):
        raise InputError(f"exercise {name!r}: give its lesson and its number, such as 7.2")
    names = tasks.names(lesson)
    if not 1 <= int(number) <= len(names):
        raise InputError(f"exercise {name!r}: {lesson} has {len(names)} exercises; give one of {', '.join(names)}")
    if task := tasks.find(name):
        how = f"check({task.function}) checks your function" if task.code else "its last hint says what a good one has"
        raise InputError(f"exercise {name!r}: has no answer to compare with yours; {how}")
    return _cached(catalogue.find(lesson).path)[int(number) - 1]


def _cached(path: Path) -> list[Exercise]:
    place = downloads.home() / "answers" / f"{path.stem}-{_key(path)}.json"
    with suppress(OSError, ValueError, TypeError):  # not there, or damaged: computed again
        return [Exercise(**entry) for entry in json.loads(place.read_text("utf-8"))]
    downloads.say(f"running {path.stem} once to compute its answers")
    document = run_lesson(path).document
    assert document is not None, f"{path} has no lesson.finish()"
    exercises = [item for item in document.items if isinstance(item, Exercise)]
    with suppress(OSError, InputError):  # a cache that cannot be written costs time, nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(str(place), json.dumps([asdict(exercise) for exercise in exercises]))
    return exercises


def _key(path: Path) -> str:
    """Of what the answers depend on: the version, the lesson, and the data beside it."""
    data = [*path.parent.glob("[!0-9]*.py"), *path.parent.glob("prompts/*.txt")]
    contents = [__version__.encode(), *(file.read_bytes() for file in [path, *sorted(data)])]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
