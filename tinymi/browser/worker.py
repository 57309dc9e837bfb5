"""What runs inside the Web Worker: the model, and the pages of tinymi.serve, answered without a server.

worker.js calls `start` once, and then `answer` for each request. What they say goes out through a function of its own,
as ("told", text), ("head", status, headers), ("body", bytes) and ("changed", lesson, text of its file).
"""

import io
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tinymi.browser import models
from tinymi.errors import InputError, TinymiError, one_line
from tinymi.serve import guard, lessons, routes
from tinymi.serve.guard import Query, RefusedError
from tinymi.teaching.report import html
from tinymi.teaching.report.site import Built
from tinymi.teaching.running import Run

# Of lessons that take longer than a minute in a browser: how long (Chromium on an AMD Zen 5), or that they cannot run.
SLOW = {
    "10_ioi_circuit": "100 seconds in a browser",
    "19_sparse_autoencoder": "not possible in a browser",
    "20_features_of_a_prompt": "not possible in a browser",
}
STATIC = Path(__file__).parent / "static"
Post = Callable[..., object]


class Runs(lessons.Runs):
    """A lesson runs where it is asked for: there is one thread, and whoever cancels a run ends it all."""

    def carry_out(self, path: Path, arguments: tuple[str, ...], tell: Callable[[str, str], object]) -> None:
        run = self.prepare(path, arguments, lambda text: tell("running", text))
        with redirect_stdout(Printed(run)):
            problem = lessons.execute(run)
        tell(*self.keep(run, arguments, problem))


class Printed(io.TextIOBase):
    """What a visitor's own code prints becomes a part of the page."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def write(self, text: str) -> int:
        if self._run.on_print is not None:
            self._run.on_print(text)
        return len(text)


class Site(routes.Site):
    """The pages of tinymi.serve, and lessons whose code the visitor changes. Their files are in this tab's memory."""

    def __init__(self, runs: Runs, pages: Collection[str], changed: Mapping[str, str], post: Post) -> None:
        """pages: the lessons that have a static page. changed: what the visitor made of lessons before, by name."""
        super().__init__(runs)
        self._static_pages, self._post = set(pages), post
        self._paths = {one.name: one.lesson.path for one in self.lessons}
        self._originals = {name: path.read_text("utf-8") for name, path in self._paths.items()}
        for name in changed.keys() & self._paths.keys():
            self._paths[name].write_text(changed[name], "utf-8")
        self.pages["/static/cells.js"] = routes.static(STATIC / "cells.js", "text/javascript")

    def extras(self, one: Built) -> dict[str, Any]:
        long = one.name in SLOW or one.is_deeper
        return {
            "cells": f"cells/{one.name}",
            "is_changed": one.lesson.path.read_text("utf-8") != self._originals[one.name],
            "page": f"../../{one.link.file}" if long and one.name in self._static_pages else "",
            "slower": SLOW.get(one.name, "up to four times as long in a browser"),
        }

    def change(self, name: str, fields: Query) -> None:
        """Put new code in the place of the old, or all of it as it was. Raises InputError and RefusedError."""
        path = self._paths.get(name)
        if path is None:
            raise RefusedError(404, "no such lesson; begin at the front page")
        text = path.read_text("utf-8")
        if "reset" in fields:
            text = self._originals[name]
        elif text.count(fields["old"]) != 1:
            raise InputError("cell: the lesson has changed since this page was made; load the page again")
        else:
            text = text.replace(fields["old"], fields["new"])
        path.write_text(text, "utf-8")
        self._post("changed", name, text)


class Handler(routes.Handler):
    """One request of the page."""

    def __init__(self, site: Site, post: Post) -> None:
        self._site, self._post = site, post

    @property
    def site(self) -> Site:
        return self._site

    def begin(self, status: int, kind: str, more: Mapping[str, str]) -> None:
        headers = {"Content-Type": f"{kind}; charset=utf-8", **guard.headers(html.script_hash(), framed=True), **more}
        self._post("head", status, headers)

    def write(self, data: bytes) -> None:
        self._post("body", data)


def start(path: str, source: str | None, pages: Collection[str], changed: Mapping[str, str], post: Post) -> Site:
    """Load the model in this file or folder. source: its name, unless it is the default one. Raises a TinymiError."""
    model, where = models.load(Path(path), lambda done, total: post("told", f"Reading the model: {done} of {total}"))
    return Site(Runs(model, source, where), pages, changed, post)


def answer(site: Site, target: str, body: str, post: Post) -> None:
    """Answer a request for this path and query. A body changes a lesson: no link has one, so no link brings code."""
    handler = Handler(site, post)
    try:
        if body:
            site.change(target.removeprefix("/cells/"), dict(parse_qsl(body, keep_blank_values=True)))
            handler.send("changed\n", "text/plain")
        else:
            handler.answer(*guard.read_target(target))
    except RefusedError as error:
        handler.send(f"{error}\n", "text/plain", error.status)
    except TinymiError as error:
        handler.send(f"{error}\n", "text/plain", 400)
    except Exception as error:  # a bug ends this request alone
        handler.send(f"{one_line(f'{type(error).__name__}: {error}')}\n", "text/plain", 500)
