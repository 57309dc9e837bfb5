"""What is answered: a fixed table of pages, each a function of a request's query. No request names a file.

The server answers with them over HTTP, and the browser edition in the visitor's own tab.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tinymi.errors import InputError, TinymiError
from tinymi.serve import explorer, pages, panels
from tinymi.serve.guard import Query, RefusedError
from tinymi.serve.lessons import Runs, arguments_of, askable, fields_of
from tinymi.teaching.catalogue import all_lessons, read
from tinymi.teaching.report import html
from tinymi.teaching.report.items import Document
from tinymi.teaching.report.site import Built, glossary

STATIC = {"serve.js": "text/javascript", "explore.js": "text/javascript"}

Page = Callable[["Handler", Query], None]


class Site:
    """One model, the lessons, and every path that is answered."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.exploring = threading.Lock()  # one run at a time
        lessons = all_lessons()
        files = [file for one in lessons for file in (one, *([read(one.deeper)] if one.deeper else []))]
        self.lessons = [Built(file, None) for file in files]
        self.pages = routes(self.lessons)

    def extras(self, one: Built) -> dict[str, Any]:
        """What the page of a lesson has in a browser's tab.

        cells: the address that takes changes of its code. is_changed: whether there are any. slower: how long it takes
        there. page: what it says, where that is too long to wait.
        """
        return {"cells": "", "is_changed": False, "slower": "", "page": ""}


class Handler(ABC):
    """One request, and where its answer goes."""

    @property
    @abstractmethod
    def site(self) -> Site:
        """Whose pages answer."""

    @abstractmethod
    def begin(self, status: int, kind: str, more: Mapping[str, str]) -> None:
        """The head of an answer: its content type, and further headers."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """A piece of its body. Raises OSError when nobody wants it any more."""

    def send(self, body: str, kind: str = "text/html", status: int = 200, **more: str) -> None:
        """A whole answer. more: further headers, with _ for -."""
        data = body.encode("utf-8", "replace")
        self.begin(status, kind, {"Content-Length": str(len(data))} | {k.replace("_", "-"): v for k, v in more.items()})
        self.write(data)

    def answer(self, path: str, query: Query) -> None:
        """Raises RefusedError."""
        page = self.site.pages.get(path)
        if page is None:
            raise RefusedError(404, "no such page; begin at the front page")
        try:
            page(self, query)
        except TinymiError as error:
            home = "../" * (path.count("/") - 1) + "index.html"
            self.send(pages.problem("That cannot be asked", str(error), home), status=400)


# --- the pages ---------------------------------------------------------------------------------------------------


def routes(lessons: list[Built]) -> dict[str, Page]:
    """Every path that is answered."""
    table: dict[str, Page] = {"/": front, "/index.html": front, "/glossary.html": words}
    table |= {"/explore": explore, "/save/explore": explore_saved}
    for name, kind in STATIC.items():
        table[f"/static/{name}"] = static(Path(__file__).parent / "static" / name, kind)
    for one in lessons:
        options = askable(one.lesson.path)
        table[f"/{one.name}.html"] = lesson_page(one, options)
        table[f"/events/{one.name}"] = lesson_events(one, options)
        table[f"/save/{one.name}"] = lesson_saved(one, options)
    return table


def front(handler: Handler, query: Query) -> None:
    _only(query, ())
    handler.send(pages.front(handler.site.lessons))


def words(handler: Handler, query: Query) -> None:
    _only(query, ())
    handler.send(glossary(handler.site.lessons))


def explore(handler: Handler, query: Query) -> None:
    """The explorer. What cannot be asked leaves the form as it was filled in."""
    runs = handler.site.runs
    fields, given = fields_of(explorer.options(runs.model.config), query), urlencode(query)
    try:
        asked = explorer.read(runs.model.config, query)
        with handler.site.exploring:
            shown = [
                (prompt, panels.panels(runs.model, asked, prompt, runs.source)) for prompt in panels.prompts(asked)
            ]
            change = panels.change_code(runs.model, asked, asked.prompt, panels.begin(runs.source))
        handler.send(pages.explorer(fields, shown, change, handler.site.lessons, given))
    except TinymiError as error:
        handler.send(pages.explorer(fields, [], "", handler.site.lessons, given, str(error)), status=400)


def explore_saved(handler: Handler, query: Query) -> None:
    """What the explorer shows as a page on its own, as `tinymi explore --html` writes it."""
    runs = handler.site.runs
    asked = explorer.read(runs.model.config, query)
    with handler.site.exploring:
        document = panels.document(runs.model, asked, runs.source)
    handler.send(html.page(document), Content_Disposition='attachment; filename="explore.html"')


def static(path: Path, kind: str) -> Page:
    text = path.read_text("utf-8")
    return lambda handler, query: handler.send(text, kind)


def lesson_page(one: Built, options: list[Any]) -> Page:
    def page(handler: Handler, query: Query) -> None:
        document = None
        if "run" in query:
            document = _result(handler, one, options, query)
        site = handler.site
        handler.send(pages.lesson(one, site.lessons, options, query, document, site.extras(one)))

    return page


def lesson_events(one: Built, options: list[Any]) -> Page:
    """Runs the lesson. The run ends with the connection, whichever side ends it."""

    def page(handler: Handler, query: Query) -> None:
        arguments = arguments_of(options, query)
        handler.begin(200, "text/event-stream", {})

        def tell(event: str, text: str) -> None:
            handler.write(f"event: {event}\ndata: {text}\n\n".encode())

        try:
            handler.site.runs.carry_out(one.lesson.path, arguments, tell)
        except InputError as error:
            tell("problem", str(error))

    return page


def lesson_saved(one: Built, options: list[Any]) -> Page:
    """The page on its own, as --html writes it."""

    def page(handler: Handler, query: Query) -> None:
        document = _result(handler, one, options, query)
        if document is None:
            raise InputError(f"{one.name}: has not run with these options; run it, then save it")
        handler.send(html.page(document), Content_Disposition=f'attachment; filename="{one.name}.html"')

    return page


def _result(handler: Handler, one: Built, options: list[Any], query: Query) -> Document | None:
    given = {name: value for name, value in query.items() if name != "run"}
    return handler.site.runs.result(one.lesson.path, arguments_of(options, given))


def _only(query: Query, names: tuple[str, ...]) -> None:
    for name in query:
        if name not in names:
            raise InputError(f"{name}: this page has no such option; leave it out")
