"""All lessons as a small web site: a page each, their data, and an index. It needs no server and no network."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.lesson_files import LessonFile
from tinymi.report import data
from tinymi.report.page import NAVIGATION, index_page, navigation


@dataclass
class Built:
    """One lesson of the site."""

    lesson: LessonFile
    status: int  # the lesson's exit status: 0, 1 (a check failed), 2 (it refused)
    said: str  # its last line on standard error
    result: dict[str, Any] = field(default_factory=dict)  # its JSON

    @property
    def there(self) -> bool:
        """Whether there is a page."""
        return bool(self.result)

    @property
    def summary(self) -> str:
        """How it ended, in a few words."""
        if not self.there:
            return f"No page: {self.said}"
        checks, findings = self.result["checks"], self.result["findings"]
        words = f"{sum(check['passed'] for check in checks)} of {len(checks)} checks passed"
        if findings:
            established = sum(finding["established"] for finding in findings)
            words += f", {established} of {len(findings)} findings established"
        return words


def build(
    out: Path, lessons: Sequence[LessonFile], model: str | None, say: Callable[[str], object] = lambda line: None
) -> list[Built]:
    """Run every lesson, write its page and its data into `out`, then the index. say: told how far it is."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"site {out}: cannot be made ({error.strerror}); give another folder") from None
    built = []
    for number, lesson in enumerate(lessons, start=1):
        say(f"{number} of {len(lessons)}: {lesson.path.stem}")
        built.append(_run(lesson, out, model))
    pages = [one for one in built if one.there]
    for before, one, after in zip([None, *pages], pages, [*pages[1:], None]):
        _add_navigation(out / f"{one.lesson.path.stem}.html", before, after)
    data.write_text(str(out / "index.html"), index_page(built, model))
    return built


def _run(lesson: LessonFile, out: Path, model: str | None) -> Built:
    page, result = (out / f"{lesson.path.stem}.{ending}" for ending in ("html", "json"))
    for old in (page, result):
        old.unlink(missing_ok=True)
    command = [sys.executable, str(lesson.path), "--html", str(page), "--json", str(result)]
    done = subprocess.run(
        [*command, *([] if model is None else ["--model", model])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    said = (done.stderr.strip().splitlines() or [""])[-1].removeprefix("error: ")
    if not (page.exists() and result.exists()):
        return Built(lesson, done.returncode or 1, said)
    return Built(lesson, done.returncode, said, json.loads(result.read_text("utf-8")))


def _add_navigation(page: Path, before: Built | None, after: Built | None) -> None:
    """Links to the lesson before, the index and the lesson after."""
    links = navigation(*(None if one is None else (one.lesson.path.stem, one.lesson.title) for one in (before, after)))
    text = page.read_text("utf-8")
    if text.count(NAVIGATION) != 1:
        raise InputError(f"site: {page} has no place for links; it was made by another version of tinymi")
    data.write_text(str(page), text.replace(NAVIGATION, links))
