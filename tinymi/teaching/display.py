"""Where what a lesson says appears: on a terminal, in a notebook, or nowhere, when the lesson runs as a function."""

import sys
from typing import Protocol

from tinymi.teaching import notebook
from tinymi.teaching.report import items, terminal
from tinymi.teaching.report.html import fragment, notebook_head


class Display(Protocol):
    """A place for items and for single lines about the run."""

    def show(self, item: items.Item) -> None: ...

    def line(self, text: str) -> None: ...


class Terminal:
    """Standard output. An empty line is between items; checks, and single lines, stand together."""

    def __init__(self) -> None:
        self._screen = terminal.Screen.of(sys.stdout)
        self._last = ""  # the kind of what was shown last

    def show(self, item: items.Item) -> None:
        text = terminal.render(item, self._screen)
        self._print(text if item.kind == self._last == "check" else f"\n{text}", item.kind)

    def line(self, text: str) -> None:
        self._print(text if self._last == "line" else f"\n{text}", "line")

    def _print(self, text: str, kind: str) -> None:
        print(text, flush=True)
        self._last = kind


class Notebook:
    """The output of the cell that runs: a picture, and its text for those who have no pictures."""

    def __init__(self) -> None:
        notebook.publish(notebook_head(), "")

    def show(self, item: items.Item) -> None:
        notebook.publish(fragment(item), terminal.render(item, terminal.Screen()))

    def line(self, text: str) -> None:
        print(text, flush=True)


class Nowhere:
    """For a lesson that runs as a function."""

    def show(self, item: items.Item) -> None:
        pass

    def line(self, text: str) -> None:
        pass
