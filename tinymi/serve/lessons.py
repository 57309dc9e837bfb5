"""Lessons for the browser: a form made of a lesson's own options, and its runs, one at a time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinymi.errors import InputError, TinymiError, did_you_mean, one_line
from tinymi.teaching.options import COMMON, Option, command_line
from tinymi.teaching.report.items import Document
from tinymi.teaching.running import CancelledError, Run, line_of, options_of
from tinymi.teaching.sweeps import OPTIONS as SWEEPS

if TYPE_CHECKING:
    from tinymi.checkpoint.provenance import Provenance
    from tinymi.run import Model

MOST_WAITING = 8
MOST_RESULTS = 16
MOST_LINES = 50  # of an option that may be repeated
PAUSE = 0.2  # seconds between two signs of life

Key = tuple[str, tuple[str, ...]]  # what the lesson's file says, and its arguments
Events = Generator[tuple[str, str], None, None]


# --- the form ----------------------------------------------------------------------------------------------------


def askable(path: Path) -> list[Option]:
    """The options that a page may set: none that names a file, a model or another machine."""
    closed = {option.name for option in (*COMMON, *SWEEPS)}
    return [option for option in options_of(path) if option.name not in closed]


def arguments_of(options: list[Option], query: Mapping[str, str]) -> tuple[str, ...]:
    """The command line that a query asks for. Empty fields, and those at their default, are left out."""
    names = [option.name for option in options]
    for name in query:
        if name not in names:
            valid = ", ".join(names) or "none"
            raise InputError(f"{name}: no such option; {did_you_mean(name, names)}valid are: {valid}")
    values: dict[str, Any] = {}
    for option in options:
        text = query.get(option.name, "")
        if text.strip():
            values[option.name] = _value(option, text)
    return tuple(command_line(options, values))


def _value(option: Option, text: str) -> Any:
    """What was typed, as the option's type where it can be: the default is then known when it is seen."""
    if option.many:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > MOST_LINES:
            raise InputError(f"{option.flag}: {len(lines)} lines; give at most {MOST_LINES}")
        return option.default if lines == list(map(str, option.default or [])) else lines
    if option.type is bool:
        return True
    try:
        return option.type(text)
    except ValueError:
        return text  # the lesson says what is wrong with it


def fields_of(options: list[Option], query: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the template needs for each field of the form."""
    return [_field(option, query.get(option.name, "")) for option in options]


def _field(option: Option, given: str) -> dict[str, Any]:
    default = option.default if option.default is not None and option.type is not bool else ""
    value = "\n".join(map(str, default)) if option.many and default else str(default)
    kinds = {int: "number", float: "number", bool: "checkbox"}
    kind = "lines" if option.many else "choice" if option.choices else kinds.get(option.type, "text")
    return {
        "name": option.name,
        "label": option.name.replace("_", " "),
        "help": option.help + (f" ({option.valid})" if option.valid else ""),
        "kind": kind,
        "value": given or value,
        "initial": value,
        "choices": option.choices,
        "minimum": option.minimum,
        "maximum": option.maximum,
        "step": "1" if option.type is int else "any",
    }


# --- the runs ----------------------------------------------------------------------------------------------------


@dataclass
class Runs:
    """Runs of lessons on one model. One runs, the others wait in line; the last results are kept."""

    model: "Model"
    source: str | None = None  # the model, as --model names it
    where: "Provenance | None" = None  # where it comes from, if `source` does not say it
    _results: "OrderedDict[Key, Document]" = field(default_factory=OrderedDict)
    _line: list[object] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def result(self, path: Path, arguments: tuple[str, ...]) -> Document | None:
        """What the lesson said, if it has run with these arguments."""
        return self._results.get((path.read_text("utf-8"), arguments))

    def carry_out(self, path: Path, arguments: tuple[str, ...], tell: Callable[[str, str], object]) -> None:
        """Run a lesson, and tell of it as `follow` does. What `tell` raises cancels the run."""
        with closing(self.follow(path, arguments)) as events:
            for event, text in events:
                tell(event, text)

    def follow(self, path: Path, arguments: tuple[str, ...]) -> Events:
        """Run a lesson, and tell of it five times a second: (event, text).

        waiting: how many are before it; running: how far it is; done; problem: why it ended. Whoever closes this
        iterator cancels the run.
        """
        ticket = object()
        with self._lock:
            if len(self._line) >= MOST_WAITING:
                raise InputError(f"lessons: {len(self._line)} wait already; try again when one is done")
            self._line.append(ticket)
        try:
            while ahead := self._line.index(ticket):
                yield "waiting", f"{ahead} before yours" if ahead > 1 else "one lesson before yours"
                time.sleep(PAUSE)
            yield from self._run(path, arguments)
        finally:
            self._line.remove(ticket)

    def _run(self, path: Path, arguments: tuple[str, ...]) -> Events:
        told = [""]
        run = self.prepare(path, arguments, lambda text: told.__setitem__(0, text))
        problems: list[str] = []
        worker = threading.Thread(target=lambda: problems.append(execute(run)), daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                yield "running", told[0]
                worker.join(PAUSE)
        finally:  # the next one in the line begins when this one has ended
            run.cancel()
            worker.join()
        yield self.keep(run, arguments, problems[0])

    def prepare(self, path: Path, arguments: tuple[str, ...], on_progress: Callable[[str], object]) -> Run:
        """A run on the model."""
        source = () if self.source is None else ("--model", self.source)
        run = Run(path, (*arguments, *source), self.model, self.where)
        run.on_progress = lambda what, done, total: on_progress(
            f"{what}: {done:,}" + ("" if total is None else f" of {total:,}")
        )
        return run

    def keep(self, run: Run, arguments: tuple[str, ...], problem: str) -> tuple[str, str]:
        """Keep what a run said. Returns the last event that tells of it."""
        if run.document is None:
            return "problem", problem or "the lesson ended without lesson.finish()"
        self._results[run.path.read_text("utf-8"), arguments] = run.document
        while len(self._results) > MOST_RESULTS:
            self._results.popitem(last=False)
        return "done", ""


def execute(run: Run) -> str:
    """Run it in this thread. What it raises becomes a line, which is returned."""
    try:
        run.execute()
    except TinymiError as error:
        return str(error)
    except CancelledError:
        return "cancelled"
    except (Exception, SystemExit) as error:  # a bug in a lesson ends that lesson alone
        return one_line(f"{type(error).__name__}{_place(run.path, line_of(error, run.path))}: {error}")
    return ""


def _place(path: Path, line: int | None) -> str:
    """The line of the lesson that ended it, as it reads."""
    lines = [] if line is None else path.read_text("utf-8").splitlines()[line - 1 : line]
    return "".join(f" in `{text.strip()}`" for text in lines)
