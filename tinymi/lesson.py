'''The frame of a lesson: options, talk, checks, findings, and the files --json and --html.

How to write a lesson
---------------------
A lesson is a flat script in `# %%` cells that also runs as a notebook. Its docstring is its title (the first
line, a question), its `--help` and the head of its page: paragraphs of the form `Name: text` (What you will
learn, Hook points used, Needs, Time, Paper) become a list there.

    """How does an answer build up over the layers?

    What you will learn: to read the residual stream with the model's own unembedding.

    Hook points used: blocks.i.hook_resid_post
    """
    # %% Set-up
    from tinymi.lesson import Lesson, Token

    lesson = Lesson(__doc__)
    lesson.option("--prompt", default="The Eiffel Tower is in", help="the prompt to explain")
    options = lesson.start()          # reads the command line; in a notebook: the defaults
    model = lesson.load_model()       # what --model names, or the default model

    # %% 1. The question
    lesson.section("Where does the answer come from?")
    lesson.say("Look for the layer at which ... Names such as `hook_z` stand in backticks.")
    lesson.table(["layer", "token", "probability"], rows, formats={"probability": ".3f"})
    lesson.json["layers"] = [...]     # the lesson's own JSON fields

    # %% 2. Checks and findings
    lesson.check("the last row of the lens is the logits", error, 1e-4)
    lesson.finding("...", established=gap > 3 * spread, evidence="...", control="...")
    lesson.exercise("...", answer="0.773", hint="...", minutes=5, difficulty="easy")
    lesson.finish()                   # writes the files; exit status 1 when a check failed

- Say what to look for before each table or picture. Each call prints at once (in a notebook it displays
  inline) and goes into the JSON file and the page, so nothing is said twice and nothing is left out.
- Pieces of text that come from a tokenizer go into cells and labels as `Token(piece)`: spaces, newlines and
  control characters become visible. In running text use `show_token(piece)`. What else comes from outside (a
  prompt in a caption) may be passed as it is: control characters never reach the terminal, nor markup the page.
- Cells are text, int, float, None (nothing there) or Token. Floats of a column get the same digits, by size;
  `formats={"column": "+.2f"}` or `format="+.2f"` say otherwise.
- A heatmap takes `texts=` when its cells should say something else than their value: the tokens of a logit
  lens, coloured by probability (`color="probability"`). An axis of depth is called "layer": the page has a
  slider for it then. Large integers read better with `formats={"parameters": ","}`.
- `# %% [markdown]` above the docstring makes it the notebook's first text cell.
- A check is an identity that holds for every model; the largest error is given as a number. A finding is a
  claim about this model: `established` is computed from the numbers, never written down as True.
- Errors meant for the user are `tinymi.errors.TinymiError`s: raised anywhere in the lesson they end it with
  one line and exit status 2.
'''

import ast
import errno
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tinymi import kernels
from tinymi.errors import InputError, TinymiError, WeightsWarning
from tinymi.lesson_files import read_docstring
from tinymi.report import data, items, terminal
from tinymi.report.tokens import Token, show_text, show_token

if TYPE_CHECKING:
    from tinymi.model import Model
    from tinymi.sweep import Sweep

__all__ = ["CheckError", "Lesson", "Token", "show_token"]

T = TypeVar("T")


class CheckError(TinymiError):
    """At the end of a notebook, in place of the exit status 1 of a script: a check of the lesson failed."""


class Lesson:
    """One lesson: it collects what is said, and prints it as it is said.

    `lesson.json` takes the lesson's own JSON fields; `model`, `options`, `checks`, `findings` and `report` (all
    that was printed, in order) are added by the frame.
    """

    def __init__(self, docstring: str | None) -> None:
        if _in_notebook():
            docstring = _notebook_docstring()
        self.title, self.intro = read_docstring(docstring or "")
        self.json: dict[str, Any] = {}
        self._items: list[items.Item] = []
        self._model: dict[str, Any] = {}
        self._options = Namespace()
        self._screen = terminal.Screen()
        self._parser = _Parser(formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
        self.option("--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model")
        self.option(
            "--weights", choices=["loaded", "mapped"], default="loaded", help="mapped: slower, for models beyond memory"
        )
        self.option("--json", metavar="FILE", help="write everything as JSON")
        self.option("--html", metavar="FILE", help="write everything as one page for the browser")

    # --- options and model ---------------------------------------------------------------------------------

    def option(self, *names: str, help: str, default: Any = None, **settings: Any) -> None:
        """Add an option, as `ArgumentParser.add_argument` does (type, nargs, choices, action, metavar)."""
        text = help.replace("%", "%%")
        if default is not None and default is not False:
            text += f" (default: {show_text(str(default))})".replace("%", "%%")
        self._parser.add_argument(*names, help=text, default=default, **settings)

    def start(self, arguments: Sequence[str] | None = None) -> Namespace:
        """Read the options and print the title.

        In a script they come from the command line. A notebook has none: it takes the defaults, and a reader
        who wants others edits this call: `lesson.start(["--prompt", "..."])`.
        """
        if _shell() is None:
            speak_to_users()
        self._screen = terminal.Screen.of(sys.stdout)
        self._parser.description = terminal.paragraphs(_help(self.title, self.intro), self._screen)
        self._options = self._parser.parse_args([] if arguments is None and _in_notebook() else arguments)
        for option, path in (("--json", self._options.json), ("--html", self._options.html)):
            if path is not None:
                data.require_writable(path, option)
        if self._options.json is not None and self._options.json == self._options.html:
            raise InputError(f"--json and --html both name {self._options.json}; give each a file of its own")
        if self.title:
            self._put(items.Section(self.title), keep=False)
        return self._options

    def load_model(self) -> "Model":
        """The model that --model names (a folder, a hub id, a .gguf file), or the default model."""
        import tinymi

        source = self._options.model
        model = tinymi.load(source, weights=self._options.weights)
        config = model.config
        self._model = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(vars(config))
        self.say(
            f"Model: {source or 'the default model'}, {config.n_layers} layers, {config.n_heads} heads"
            f" ({config.n_kv_heads} for keys and values), d_model {config.d_model}, d_mlp {config.d_mlp},"
            f" {config.d_vocab:,} tokens."
        )
        if kernels.chosen():
            self.say(f"Speed: {kernels.chosen()}.")
        return model

    def sweep_options(self) -> None:
        """Add the options of a lesson whose sweep may run elsewhere: --jobs, --dask, --resume."""
        self.option("--jobs", type=int, metavar="N", help="sweep with N processes, each with one BLAS thread")
        self.option("--dask", metavar="ADDRESS", help="sweep on a Dask cluster, such as tcp://127.0.0.1:8786")
        self.option("--resume", metavar="FILE", help="write down what is finished, and go on from there next time")

    def sweep(self, model: "Model", prompts: Sequence[str]) -> "Sweep":
        """A Sweep as the options say, for `run(work, tasks, what)`; prompts: what its --resume file must be about."""
        from tinymi import __version__
        from tinymi.sweep import Journal, Sweep, dask_cluster, digest, identity, process_pool

        if self._options.jobs is not None and self._options.dask is not None:
            raise InputError("--jobs and --dask: both name workers; give one of them")
        source = self._options.model
        if source is not None and os.path.exists(source):
            source = os.path.abspath(source)  # a worker may stand in another folder
        journal, executor = None, None
        if self._options.resume is not None:
            about = {
                "tinymi": __version__,
                "lesson": self._parser.prog,
                "model": f"{source or 'the default model'} ({identity(model)})",
                "prompts": f"{len(prompts)} from {prompts[0]!r} on ({digest(list(prompts))})",
            }
            journal = Journal(Path(self._options.resume), about)
        if self._options.jobs is not None:
            executor = process_pool(self._options.jobs)
        elif self._options.dask is not None:
            executor = dask_cluster(self._options.dask)
        return Sweep(model, source, executor, journal, self.progress, self._options.weights)

    # --- talk ----------------------------------------------------------------------------------------------

    def section(self, title: str) -> None:
        """A heading."""
        self._put(items.Section(title))

    def say(self, text: str) -> None:
        """Prose: paragraphs separated by blank lines, `code` in backticks."""
        self._put(items.Prose(text))

    def code(self, text: str, caption: str = "") -> None:
        """Text that keeps its line breaks and columns: a formula, the drawing of a circuit."""
        self._put(items.Preformatted(text.strip("\n"), caption))

    def step(
        self,
        name: str,
        meaning: str,
        code: str,
        *,
        result: Iterable[tuple[str, int]],
        numbers: Any,
        where: str,
        more: bool = False,
        factors: Iterable[Iterable[tuple[str, int]]] = (),
        times: str = "",
        multiply_adds: int = 0,
    ) -> None:
        """One step of a run. Shapes are given as (name, size) of each axis; `factors` are those of its matmul.

        `numbers` is an excerpt of the result, `where` says which; `times` how often the matmul is done.
        """
        shapes = tuple(tuple(factor) for factor in factors)
        excerpt = items.numbers(numbers)
        self._put(items.Step(name, meaning, code, shapes, times, tuple(result), multiply_adds, where, excerpt, more))

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Any]],
        caption: str = "",
        formats: Mapping[str, str] | None = None,
    ) -> None:
        """A table; `formats` maps a header to a format specification such as "+.2f" or ".1%"."""
        self._put(items.make_table(headers, rows, caption, formats or {}))

    def bars(self, labels: Sequence[Any], values: Any, caption: str = "", format: str = "") -> None:
        """Signed bars, one per label; `values` is a sequence, or {"attention": [...], "MLP": [...]} side by side."""
        made = tuple(items.plain(label) for label in labels)
        self._put(items.Bars(made, items.make_series(values, len(made), "bars"), caption, format))

    def heatmap(
        self,
        values: Any,
        row_labels: Sequence[Any] | None = None,
        column_labels: Sequence[Any] | None = None,
        caption: str = "",
        row_axis: str = "",
        column_axis: str = "",
        center: float | None = 0.0,
        format: str = "",
        texts: Sequence[Sequence[Any]] | None = None,
        color: str = "",
    ) -> None:
        """A grid of numbers [rows, columns]; labels default to 0, 1, 2 ...

        Colours are two-sided around `center`; with `center=None` they run from the smallest to the largest value.
        With `texts` [rows, columns] the cells say these (Tokens, say) and the numbers only colour them; `color`
        names what these are. An axis called "layer" gets a slider on the page.
        """
        about = {
            "caption": caption,
            "row_axis": row_axis,
            "column_axis": column_axis,
            "center": center,
            "format": format,
            "color": color,
        }
        self._put(items.make_heatmap(values, row_labels, column_labels, texts, **about))

    def attention(
        self, str_tokens: Sequence[str], patterns: Any, caption: str = "", heads: Iterable[Any] | None = None
    ) -> None:
        """Attention patterns [n_heads, query_pos, key_pos] of one prompt, or {layer: patterns}.

        The page has a picker for layer and head. The terminal shows `heads`, a list of head numbers or of
        (layer, head); without it, the head that looks away from position 0 and from itself most.
        """
        self._put(items.make_attention(str_tokens, patterns, caption, heads))

    def lines(
        self, x: Sequence[Any], series: Any, caption: str = "", x_label: str = "x", y_label: str = "", format: str = ""
    ) -> None:
        """Curves over a common x: {"name": values} or one sequence of values."""
        made = tuple(float(value) for value in x)
        self._put(items.Lines(made, items.make_series(series, len(made), "lines"), caption, x_label, y_label, format))

    def check(self, name: str, error: Any, tolerance: float) -> None:
        """An identity that holds for every model: passed when `error` (the largest difference) <= `tolerance`."""
        self._put(items.Check(name, items.numbers([error])[0], float(tolerance)))

    def finding(self, text: str, *, established: Any, evidence: str, control: str) -> None:
        """A claim about this model, with the numbers for it and the control it was held against."""
        self._put(items.Finding(text, bool(established), evidence, control))

    def exercise(
        self, question: str, answer: Any, hint: str = "", minutes: int | None = None, difficulty: str = ""
    ) -> None:
        """A question to work on; `answer` is the number to match."""
        self._put(items.Exercise(question, str(answer), hint, minutes, difficulty))

    def progress(self, iterable: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """`iterable` with a progress bar on standard error, shown on a terminal once it has taken two seconds."""
        from tqdm import tqdm

        return tqdm(iterable, desc=what, total=total, delay=2, leave=False, disable=not _shows_progress())

    def finish(self) -> None:
        """Write the files, sum up the checks; exit status 1 (in a notebook: `CheckError`) when one failed."""
        checks = [item for item in self._items if isinstance(item, items.Check)]
        failed = [check.name for check in checks if not check.passed]
        print(flush=True)
        self._write_files()
        print(f"{len(checks) - len(failed)} of {len(checks)} checks passed.", flush=True)
        if not failed:
            return
        summary = f"failed: {'; '.join(failed)}"
        if _in_notebook():
            raise CheckError(summary)
        print(show_text(summary), file=sys.stderr)
        sys.exit(1)

    # --- inner workings ------------------------------------------------------------------------------------

    def _put(self, item: items.Item, keep: bool = True) -> None:
        text = terminal.render(item, self._screen)
        if _in_notebook():
            _shell().display_pub.publish({"text/html": item._repr_html_(), "text/plain": text})
        else:
            self._print(text, isinstance(item, items.Check))

        if keep:
            self._items.append(item)

    def _print(self, text: str, is_check: bool) -> None:
        """Items stand apart by an empty line; checks stand together."""
        after_check = bool(self._items) and isinstance(self._items[-1], items.Check)
        print("" if after_check and is_check else "\n", text, sep="", flush=True)

    def _document(self) -> items.Document:
        from tinymi import __version__

        options = {name: value for name, value in vars(self._options).items() if name not in ("json", "html")}
        return items.Document(
            self.title, self.intro, self._command(options), options, self._model, tuple(self._items), __version__
        )

    def _command(self, options: Mapping[str, Any]) -> str:
        """The command line that says the same again: the script and the options that are not defaults."""
        import shlex

        words = ["python", f"lessons/{self._parser.prog}"]
        positional = {action.dest for action in self._parser._actions if not action.option_strings}
        for name, value in options.items():
            if value == self._parser.get_default(name):
                continue
            if name not in positional:
                words.append("--" + name.replace("_", "-"))
            if value is not True:
                words += [str(entry) for entry in (value if isinstance(value, (list, tuple)) else [value])]
        return shlex.join(words)

    def _write_files(self) -> None:
        document = self._document()
        if self._options.json is not None:
            data.write_text(self._options.json, data.to_json(document, self.json))
            print(f"JSON: {show_text(self._options.json)}")
        if self._options.html is not None:
            from tinymi.report.page import page

            data.write_text(self._options.html, page(document))
            print(f"Page: {show_text(self._options.html)}")


def _help(title: str, intro: Iterable[tuple[str, str]]) -> str:
    """The docstring, its paragraphs free to be filled again."""
    return "\n\n".join([title, *(f"{name}: {text}" if name else text for name, text in intro)])


class _Parser(ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{show_text(message)}; --help lists the options")


def _shell() -> Any:
    """IPython's shell, or None in plain Python."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _in_notebook() -> bool:
    shell = _shell()
    return shell is not None and "IPKernelApp" in shell.config


def _notebook_docstring() -> str:
    """The docstring of a lesson that runs as a notebook: the text at the top of the first cell that has one.

    There `__doc__` is IPython's own. A lesson whose docstring became a Markdown cell has none to find, and shows
    its title there.
    """
    for cell in _shell().user_ns.get("In", []):
        try:
            docstring = ast.get_docstring(ast.parse(cell))
        except SyntaxError:  # a cell with a %magic
            continue
        if docstring:
            return docstring
    return ""


def _shows_progress() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def speak_to_users() -> None:
    """Errors and warnings in one line; a character that the terminal's encoding lacks is spelled out."""
    sys.excepthook = _explain
    warnings.showwarning = _show_warning
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, or a program without a console
            setattr(sys, name, os.fdopen(_nowhere(), "w"))
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _nowhere() -> int:
    """A file descriptor that swallows what is written."""
    return os.open(os.devnull, os.O_WRONLY)


_python_shows = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Warnings meant for the user in one line; others as Python shows them, with their place in the code."""
    if issubclass(category, WeightsWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *where, **more)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The excepthook of a lesson: explained errors in one line (exit status 2); bugs keep their traceback."""
    if issubclass(kind, TinymiError):
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # standard output is a file
        print(f"error: standard output: cannot be written ({error.strerror}); make room", file=sys.stderr)
        os.dup2(_nowhere(), sys.stdout.fileno())
        sys.exit(2)
    if issubclass(kind, BrokenPipeError):  # the reader (head, less) has seen enough
        os.dup2(_nowhere(), sys.stdout.fileno())
        sys.exit(141)
    sys.__excepthook__(kind, error, trace)
