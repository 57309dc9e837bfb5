"""All lessons as a small web site: a page each, their data, an index and a glossary. It needs no server and no network.

The lessons run in this process, one after the other, or in several. What one of them raises ends that lesson alone.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinymi.errors import InputError, SweepError, TinymiError
from tinymi.sweep import Task, abandon, process_pool, run_task
from tinymi.teaching.catalogue import LessonFile, read
from tinymi.teaching.glossary import GROUPS
from tinymi.teaching.report import json as data
from tinymi.teaching.report.html import fill, page, policy, style
from tinymi.teaching.report.items import Check, Document, Headline
from tinymi.teaching.report.links import Link, Place, anchor
from tinymi.teaching.report.views import poster
from tinymi.teaching.running import line_of, run_lesson
from tinymi.version import __version__

if TYPE_CHECKING:
    from tinymi.run import Model


@dataclass(frozen=True)
class Built:
    """One lesson of the site, or its deeper file."""

    lesson: LessonFile
    document: Document | None  # None: there is no page
    problem: str = ""  # why it ended early, or which checks failed
    refused: bool = False  # it ended with an explained error

    @property
    def name(self) -> str:
        """Of its files: 07_activation_patching, deeper_07_activation_patching."""
        return ("deeper_" if self.is_deeper else "") + self.lesson.path.stem

    @property
    def is_deeper(self) -> bool:
        return self.lesson.path.parent.name == "deeper"

    @property
    def status(self) -> int:
        """As the exit status of its script: 1 where a check failed, 2 where it refused."""
        return 2 if self.refused else 1 if self.problem else 0

    @property
    def link(self) -> Link:
        return Link(f"{self.name}.html", self.lesson.title)

    @property
    def headline(self) -> Headline | None:
        items = () if self.document is None else self.document.items
        return next((item for item in items if isinstance(item, Headline)), None)


def build(
    out: Path,
    lessons: Sequence[LessonFile],
    source: str | None,
    say: Callable[[str], object] = lambda line: None,
    live: str = "",
    jobs: int = 1,
) -> list[Built]:
    """Run every lesson and its deeper file, and write their pages and data into `out`, an index and a glossary.

    source: the model, as --model names it. say: called with a line for each lesson that begins. live: the address of
    the pages that run the lessons themselves. jobs: processes, each with a model of its own. Raises a TinymiError.
    """
    import tinymi

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"site {out}: cannot be made ({error.strerror}); give another folder") from None
    files = [file for lesson in lessons for file in (lesson, *([read(lesson.deeper)] if lesson.deeper else []))]
    model = tinymi.load(source)
    alone = (_run(file, out, source, model) for file in files)
    results = alone if jobs == 1 else _in_processes(files, out, source, jobs)
    built = []
    for number, file in enumerate(files, start=1):
        say(f"{number} of {len(files)}: {Built(file, None).name}")
        built.append(next(results))
    pages = [one for one in built if one.document is not None]
    for one in pages:
        assert one.document is not None
        data.write_text(str(out / one.link.file), page(one.document, place_of(one, pages)))
    data.write_text(str(out / "index.html"), _index(built, live))
    data.write_text(str(out / "glossary.html"), glossary(pages))
    return built


def _index(built: Sequence[Built], live: str) -> str:
    """The page that a site begins with: each lesson's question, its answer, and the answer's picture."""
    shown = [one for one in built if not one.is_deeper]
    posters = [None if one.headline is None else poster(one.headline, ()) for one in shown]
    lessons = list(zip(shown, posters))
    return fill("index.html", lessons=lessons, live=live, style=style(), policy=policy(), version=__version__)


def glossary(pages: Sequence[Built]) -> str:
    """The page that explains the words, with links to the lessons that show them."""
    links = {one.lesson.number: one.link for one in pages if not one.is_deeper}
    groups = {
        title: [(anchor(term), term, [(n, links[n]) for n in term.lessons if n in links]) for term in terms]
        for title, terms in GROUPS.items()
    }
    return fill("glossary.html", groups=groups, style=style(), policy=policy())


def _in_processes(files: Sequence[LessonFile], out: Path, source: str | None, jobs: int) -> Iterator[Built]:
    """Each file's result, in order."""
    pool = process_pool(jobs)
    try:
        tasks = [{"file": file, "out": out, "source": source} for file in files]
        for future in [pool.submit(run_task, _run_task, source, "loaded", __version__, task) for task in tasks]:
            yield future.result()
    except BrokenExecutor:
        raise SweepError("jobs: a process died, perhaps of too little memory; take fewer") from None
    finally:
        abandon(pool)


def _run_task(model: "Model", task: Task) -> Built:
    return _run(task["file"], task["out"], task["source"], model)


def _run(file: LessonFile, out: Path, source: str | None, model: "Model") -> Built:
    """Run one file and write its data. Old files of its name go first."""
    name = Built(file, None).name
    for ending in ("html", "json"):
        (out / f"{name}.{ending}").unlink(missing_ok=True)
    try:
        run = run_lesson(file.path, [] if source is None else ["--model", source], model)
        if run.document is None:
            return Built(file, None, "ended without lesson.finish()")
        text = data.to_json(run.document, run.fields)
    except TinymiError as error:
        return Built(file, None, str(error), refused=True)
    except Exception as error:  # a bug in one lesson takes no other one with it
        return Built(file, None, f"{type(error).__name__} in line {line_of(error, file.path)}: {error}")
    data.write_text(str(out / f"{name}.json"), text)
    failed = [item.name for item in run.document.items if isinstance(item, Check) and not item.passed]
    return Built(file, run.document, f"failed: {'; '.join(failed)}" if failed else "")


def place_of(one: Built, pages: Sequence[Built]) -> Place:
    """The links of one page to the others."""
    path = [page for page in pages if not page.is_deeper]
    own = next((page.link for page in path if page.lesson.number == one.lesson.number), None)
    deeper = next((page.link for page in pages if page.is_deeper and page.lesson.number == one.lesson.number), None)
    script = "lessons/" + "deeper/" * one.is_deeper + one.lesson.path.name
    repository = _repository()
    return Place(
        lessons=_lesson_links(pages),
        before=next((page.link for page in reversed(path) if page.lesson.number < one.lesson.number), None),
        after=next((page.link for page in path if page.lesson.number > one.lesson.number), None),
        lesson=own if one.is_deeper else None,
        deeper=None if one.is_deeper else deeper,
        script=script,
        code=f"{repository}/blob/main/{script}" if repository else "",
        data=f"{one.name}.json",
    )


def _lesson_links(pages: Sequence[Built]) -> Mapping[str, Link]:
    """Each page by the path of its file; a lesson also by its number and by its name."""
    links: dict[str, Link] = {}
    for one in pages:
        links["deeper/" * one.is_deeper + one.lesson.path.name] = one.link
        if not one.is_deeper:
            name = one.lesson.path.stem.partition("_")[2]
            links |= {one.lesson.number: one.link, name.replace("_", " "): one.link}
    return links


def _repository() -> str:
    """The address of the repository, as the installed package names it; "" where it names none."""
    try:
        urls = importlib.metadata.metadata("tinymi").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((url.partition(", ")[2] for url in urls if url.startswith("Repository,")), "")
