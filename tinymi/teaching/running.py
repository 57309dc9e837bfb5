"""A lesson as a function of its options: what it says comes back as a document, and nothing is printed.

    run = run_lesson(path, ["--prompt", "My prompt"])
    run.document, run.fields

A program that shows how far a lesson is, or lets its user stop it, makes the Run itself:

    run = Run(path, arguments, on_progress=show)
    run.execute()  # in one thread; run.cancel() in another

Runs share nothing but the interpreter: several may go on at once, each in a thread of its own.
"""

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tinymi.teaching.options import Option
from tinymi.teaching.report.items import Document

if TYPE_CHECKING:
    from tinymi.checkpoint.provenance import Provenance
    from tinymi.run import Model

T = TypeVar("T")
Progress = Callable[[str, int, int | None], object]  # (what, steps done, steps in all where that is known)


class CancelledError(BaseException):
    """Ends a lesson that `Run.cancel` was called for. No error of the lesson's: its `except Exception` lets it pass."""


class _OptionsKnown(BaseException):
    """Ends a lesson whose options were all that was asked for."""


@dataclass
class Run:
    """One run of the lesson in the file `path` with these command-line arguments."""

    path: Path
    arguments: Sequence[str] = ()
    model: "Model | None" = None  # used in place of what --model names
    where: "Provenance | None" = None  # of this model; without it, of what --model names
    on_progress: Progress | None = None  # called at each step of `lesson.progress`
    on_print: Callable[[str], object] | None = None  # set by the lesson: shows what is printed past it
    options_only: bool = False
    options: tuple[Option, ...] = ()
    document: Document | None = None
    fields: dict[str, Any] = field(default_factory=dict)  # what the lesson keeps for its JSON file
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    def execute(self) -> "Run":
        """Run the lesson in this thread. Raises what the lesson raises; a check that fails raises nothing."""
        code = compile(self.path.read_text("utf-8"), str(self.path), "exec")
        token = current.set(self)
        try:
            with _importable(self.path.parent):
                exec(code, {"__name__": "__main__", "__file__": str(self.path)})
        finally:
            current.reset(token)
        return self

    def cancel(self) -> None:
        """End the run with CancelledError at the next item that it shows, or the next step of its progress."""
        self._cancelled.set()

    # --- what a Lesson calls -----------------------------------------------------------------------------------

    def begin(self, options: Sequence[Option]) -> Sequence[str]:
        """The lesson has named its options, and gets its arguments."""
        self.options = tuple(options)
        if self.options_only:
            raise _OptionsKnown
        return self.arguments

    def go_on(self) -> None:
        """Raise CancelledError if the run was cancelled."""
        if self._cancelled.is_set():
            raise CancelledError(f"{self.path.name}: cancelled")

    def watch(self, steps: Iterable[T], what: str, total: int | None) -> Iterator[T]:
        """`steps`, reported to `on_progress`: 0 before the first, and each that is done."""
        report = self.on_progress or (lambda what, done, total: None)
        report(what, 0, total)
        for done, step in enumerate(steps, start=1):
            self.go_on()
            yield step
            report(what, done, total)


current: ContextVar[Run | None] = ContextVar("current", default=None)


def run_lesson(path: Path, arguments: Sequence[str] = (), model: "Model | None" = None) -> Run:
    """Run a lesson; its document is in the Run returned. Raises what the lesson raises, but not for a failed check."""
    return Run(path, arguments, model).execute()


def line_of(error: BaseException, path: Path) -> int | None:
    """The line of this file that an error comes from."""
    if isinstance(error, SyntaxError):
        return error.lineno
    trace = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(trace) if frame.filename == str(path)), None)


def options_of(path: Path) -> tuple[Option, ...]:
    """The options of the lesson in the file `path`. Nothing but its set-up is run."""
    run = Run(path, options_only=True)
    with suppress(_OptionsKnown):
        run.execute()
    return run.options


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lessons import their data from files beside them."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
