"""The pages of `tinymi serve` as HTML: the front page, the explorer, and each lesson with its form."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tinymi.serve.lessons import arguments_of, fields_of
from tinymi.serve.panels import Panel
from tinymi.teaching.cells import before_a_run
from tinymi.teaching.options import Option
from tinymi.teaching.report import html
from tinymi.teaching.report.items import Document
from tinymi.teaching.report.links import Links, Place
from tinymi.teaching.report.python_code import lines_of
from tinymi.teaching.report.site import Built, place_of
from tinymi.teaching.report.views import view
from tinymi.version import __version__

_HERE = Path(__file__).parent


def fill(template: str, **values: Any) -> str:
    """A template of this folder, or of the static pages, filled in. Its policy stands in the server's headers."""
    style = html.style() + (_HERE / "static" / "serve.css").read_text("utf-8")
    return str(_environment().get_template(template).render(values | {"style": style, "policy": ""}))


@functools.cache
def _environment() -> Any:
    from jinja2 import FileSystemLoader

    environment = html.environment()
    folders = [_HERE / "templates", *environment.loader.searchpath]
    return environment.overlay(loader=FileSystemLoader(folders))


def front(pages: Sequence[Built]) -> str:
    """The page that one begins with: the explorer, and the lessons."""
    return fill("front.html", lessons=[one for one in pages if not one.is_deeper], version=__version__)


def lesson(
    one: Built,
    pages: Sequence[Built],
    options: list[Option],
    query: Mapping[str, str],
    document: Document | None,
    extras: Mapping[str, Any],
) -> str:
    """A lesson with its form; below it what it said, or its text and the place where it tells how far it is.

    extras: what `routes.Site.extras` gives for it.
    """
    asked = "run" in query
    given = {name: value for name, value in query.items() if name != "run"}
    arguments_of(options, given)  # raises InputError for what is no option
    source = tuple(before_a_run(one.lesson.path.read_text("utf-8")))
    unrun = Document(one.lesson.title, one.lesson.about, "", {}, {}, source, __version__)
    return fill(
        "lesson.html",
        **html.contents(document or unrun, where(one, pages)),
        one=one,
        fields=fields_of(options, given),
        events=f"events/{one.name}?{urlencode(given)}" if asked and document is None else "",
        save=f"save/{one.name}?{urlencode(given)}" if document is not None else "",
        **extras,
    )


def where(one: Built, pages: Sequence[Built]) -> Place:
    """As in a site; the data is in the page that can be saved."""
    return replace(place_of(one, pages), data="")


def explorer(
    fields: list[dict[str, Any]],
    shown: Sequence[tuple[str, list[Panel]]],
    change: str,
    lessons: Sequence[Built],
    query: str,
    error: str = "",
) -> str:
    """The explorer: its form, and the panels of each prompt, or why there are none. query: of its address."""
    rows = [
        [(prompt, one, view(one.item, f"{one.name}-{number}", Links(None)), lines_of(one.code)) for one in panels]
        for number, (prompt, panels) in enumerate(shown)
    ]
    return fill(
        "explore.html",
        fields={field["name"]: field for field in fields},
        shown=list(zip(*rows)),  # by question, for each prompt
        change=lines_of(change),
        lessons={one.lesson.number: one.link for one in lessons if not one.is_deeper},
        save=f"save/explore?{query}",
        error=error,
        script=html.script(),
        version=__version__,
    )


def problem(title: str, text: str, home: str) -> str:
    """A page that says why there is none. home: where the front page is."""
    return fill("problem.html", title=title, text=text, home=home)
