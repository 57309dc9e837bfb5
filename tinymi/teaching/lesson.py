"""The frame of a lesson: its options, what it shows, its checks, findings and exercises.

How to write a lesson
---------------------
A lesson is a flat script in cells. Markdown cells are its prose, code cells are short, and the picture comes right
after the code that computes it:

    # %% [markdown]
    \"\"\"How does an answer build up over the layers?

    What you will learn: to read the residual stream with the model's own unembedding.

    Time: 10 minutes to read, 5 seconds to run
    \"\"\"

    # %% Set-up
    from tinymi.teaching import Lesson, Token

    lesson = Lesson(__doc__)
    lesson.option("--prompt", default="The Eiffel Tower is in", help="the prompt to explain")
    options = lesson.start()  # reads the command line; in a notebook: the defaults
    model = lesson.load_model()  # what --model names, or the default model

    # %% [markdown]
    # ## 1. Where does the answer come from?
    #
    # Look for the layer at which ...

    # %%
    logits, cache = model.run_with_cache(model.to_tokens(options.prompt))
    picture = lesson.bars(labels, values, "what each layer writes", "+.2f")
    lesson.equal("the parts sum to the whole", parts.sum(axis=0), whole)

    # %%
    lesson.headline(f"Head {layer}.{head} writes it.", picture)  # the page begins with this
    lesson.finish()

- Run as a script, each Markdown cell is printed before what is shown next. A notebook shows the cells itself. The page
  shows text, code and picture in this order. A code cell with a title, such as `# %% Set-up`, is folded there.
- Each picture and table is one call with arrays. Pieces of a tokenizer go into cells and labels as `Token(piece)`, so
  that spaces and line breaks are visible; in running text, `show_token(piece)`.
- `equal` is a check: an identity that holds for every model. `finding` is a claim about this model, established by
  its numbers alone, with a bar set before looking and a control. `keep` puts arrays into the JSON file by name.
- An exercise is a Markdown cell, "Exercise (easy, 5 minutes): ..." with "Hint: ..." as its last paragraphs, which
  `tinymi hint 7.1` shows one at a time. The code cell below it shows nothing and ends in `lesson.answer(value)`: a
  number, or a few words, with a reason after a colon ("layer 0: it sees only the token"). It is not printed. `tinymi
  answer 7.1 VALUE` says whether a reader's is right; an answer of more than six words is shown there, for the reader
  to compare.
- `lesson.token(options.answer)` is the id of an answer that a reader typed, with or without its leading space.
- Errors meant for the user are `tinymi.TinymiError`s. Raised anywhere in the lesson they end it with one line and exit
  status 2.
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence, Sized
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from tinymi.errors import TinymiError
from tinymi.teaching import files, notebook, running, words
from tinymi.teaching.catalogue import read_docstring
from tinymi.teaching.cells import Cell, Question, Script, as_items, question
from tinymi.teaching.display import Display, Notebook, Nowhere, Terminal
from tinymi.teaching.exercises import make_exercise
from tinymi.teaching.options import COMMON, Option, Parser, command_line
from tinymi.teaching.pictures import Pictures
from tinymi.teaching.report import items, terminal
from tinymi.teaching.stats import Estimate
from tinymi.teaching.user_errors import install_user_facing_errors
from tinymi.text import show_text, show_token
from tinymi.version import __version__

import numpy as np

if TYPE_CHECKING:
    from tinymi.checkpoint.provenance import Provenance
    from tinymi.run import Model
    from tinymi.sweep import Sweep

T = TypeVar("T")


class CheckError(TinymiError):
    """At the end of a notebook, in place of the exit status 1 of a script: a check of the lesson failed."""


class Lesson(Pictures):
    """One lesson. Whatever it shows is printed at once, and goes into the JSON file and the page."""

    def __init__(self, docstring: str | None) -> None:
        if notebook.in_notebook():
            docstring = notebook.docstring()
        self.title, self.intro = read_docstring(docstring or "")
        self._script = Script(sys._getframe(1).f_globals)
        self._run = running.current.get()
        self._display: Display = Nowhere()
        self._options: list[Option] = []
        self._values = Namespace()
        self._model: Model | None = None
        self._about_model: dict[str, Any] = {}
        self._items: list[items.Item] = []
        self._fields: dict[str, Any] = {}
        self._question: Question | None = None  # waits for its answer

    # --- options and model ---------------------------------------------------------------------------------

    def option(
        self, flag: str, *, help: str, type: type = str, default: Any = None, choices: Sequence[str] = (), **more: Any
    ) -> None:
        """Add an option. type: str, int, float or bool; more: minimum, maximum, many, metavar (see Option).

        Where there is a --prompt, the first word of the command line that is no option is the prompt, too.
        """
        name = flag.removeprefix("--").replace("-", "_")
        self._options.append(Option(name, type, default, help, tuple(choices), **more))

    def start(self, arguments: Sequence[str] | None = None) -> Namespace:
        """Read the options and show the title.

        In a script they come from the command line. A notebook has none: it takes the defaults, and a reader
        who wants others edits this call: `lesson.start(["--prompt", "..."])`.
        """
        options = [*self._options, *COMMON]
        if self._run is not None:
            arguments = self._run.begin(options)
            self._run.on_print = self._printed
        elif notebook.in_notebook():
            arguments, self._display = arguments or [], Notebook()
        else:
            if notebook.shell() is None:
                install_user_facing_errors()
            self._display = Terminal()
        self._values = Parser(options, self._help()).read(arguments)
        files.check(self._values)
        if self.title:
            self._display.show(items.Section(self.title))
        return self._values

    def load_model(self) -> "Model":
        """The model that --model names (a folder, a hub id, a .gguf file), or the default model."""
        self._model, where = self._find_model()
        about = {"source": where.source, "stored_as": where.stored_as, "description": str(where)}
        self._about_model = about | asdict(self._model.config)
        self._display.show(items.Prose(f"Model: {where}."))
        return self._model

    def _find_model(self) -> "tuple[Model, Provenance]":
        from tinymi.checkpoint import load
        from tinymi.checkpoint.find import folder_for
        from tinymi.checkpoint.provenance import provenance

        run = self._run
        if run is not None and run.model is not None and run.where is not None:
            return run.model, run.where
        folder = folder_for(self._values.model)
        model = run.model if run is not None else None
        model = model or load(folder, weights=self._values.weights)
        return model, provenance(self._values.model, folder)

    def token(self, text: str, prompt: str | None = None) -> int:
        """The id of an answer that is one token, such as " Paris". Raises InputError.

        prompt: what it answers; without it, the value of the option --prompt. Where the prompt ends in a word, "Paris"
        is read as " Paris", and the lesson says so. The token's text is `model.to_str_tokens([id])[0]`.
        """
        assert self._model is not None, "lesson.token needs lesson.load_model()"
        before = self._values.prompt if prompt is None else prompt
        spaced = words.with_space(text, before, self._model)
        if spaced != text:
            self.say(f"{show_token(text)}: read as {show_token(spaced)}, with the space before a word.")
        return self._model.to_single_token(spaced)

    def sweep_options(self) -> None:
        """Add the options of a lesson whose sweep may run elsewhere: --jobs, --dask, --resume."""
        from tinymi.teaching.sweeps import OPTIONS

        self._options += OPTIONS

    def sweep(self, model: "Model", prompts: Sequence[str]) -> "Sweep":
        """A Sweep as the options say, for `run(work, tasks, what)`; prompts: what its --resume file must be about."""
        from tinymi.teaching.sweeps import sweep

        return sweep(model, prompts, self._script.name, self._values, self.progress)

    # --- what it shows -------------------------------------------------------------------------------------

    def say(self, text: str) -> items.Item:
        """One short sentence with numbers; all other prose stands in Markdown cells."""
        return self._put(items.Prose(text))

    def headline(self, text: str, picture: items.Item | None = None) -> items.Item:
        """The answer to the lesson's question in one sentence. The page begins with it and with the picture."""
        return self._put(items.Headline(text, picture))

    # --- what it claims ------------------------------------------------------------------------------------

    def equal(self, name: str, actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
        """A check: two arrays that are the same for every model, to `tolerance` times the largest number expected."""
        reference = np.asarray(expected, dtype=np.float64)
        errors = np.abs(np.asarray(actual, dtype=np.float64) - reference)
        self.check(name, errors.max(initial=0) / (np.abs(reference).max(initial=0) or 1.0), tolerance)

    def check(self, name: str, error: Any, tolerance: float) -> None:
        """An identity that holds for every model: passed when `error` (the largest difference) <= `tolerance`."""
        self._put(items.Check(name, items.numbers([error])[0], float(tolerance)))

    def finding(
        self,
        text: str,
        estimate: Estimate | None = None,
        above: float = 0.0,
        *,
        control: str,
        format: str = ".2f",
        evidence: str = "",
        established: Any = None,
    ) -> None:
        """A claim about this model. With an Estimate it is established where the whole interval is above the bar.

        control: what the claim was held against, with its number. evidence, established: for a claim that is no
            single estimate; `established` is computed from the numbers, never written down as True.
        """
        if estimate is not None:
            established = estimate.low > above
            evidence = (
                f"{estimate:{format}}, n = {estimate.n}; the bar: all of the 95 % interval above {above:{format}}"
            )
        self._put(items.Finding(text, bool(established), evidence, control))

    # --- exercises, progress, end --------------------------------------------------------------------------

    def answer(self, value: Any, tolerance: float | None = None) -> None:
        """The answer to the exercise whose cell is above. tolerance: relative; 0.01 for a float, and 0 for an int."""
        self._put_cells(self._script.passed())
        count = 1 + sum(isinstance(item, items.Exercise) for item in self._items)
        name = f"{self._script.number}.{count}".removeprefix(".")
        exercise = make_exercise(name, self._question or Question(), value, tolerance, self._take_code())
        self._question = None
        self._put(exercise)
        if self._values.answers:
            self._display.show(items.Prose(f"Answer to exercise {name}: {exercise.answer}"))

    def _take_code(self) -> str:
        """The code of the cell that computes an answer: it belongs to the exercise, not above it."""
        match self._items[-1:]:
            case [items.Code(text=code)]:
                self._items.pop()
                return code.removesuffix("lesson.finish()").rstrip()
        return ""

    def keep(self, **fields: Any) -> None:
        """Arrays and lists for the JSON file, by name."""
        self._fields |= fields

    def progress(self, iterable: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
        """`iterable` with a progress bar on standard error, shown on a terminal once it has taken two seconds."""
        if self._run is not None:
            total = len(iterable) if total is None and isinstance(iterable, Sized) else total
            return self._run.watch(iterable, what, total)
        if not sys.stderr.isatty():
            return iterable
        from tqdm import tqdm

        return tqdm(iterable, desc=what, total=total, delay=2, leave=False)

    def finish(self) -> None:
        """Write the files, sum up the checks; exit status 1 (in a notebook: `CheckError`) when one failed."""
        self._put_cells(self._script.rest())
        document = self._document()
        for line in files.write(self._values, document, self._fields):
            self._display.line(line)
        if self._run is not None:
            self._run.document, self._run.fields = document, self._fields
            return
        self._sum_up()

    def _sum_up(self) -> None:
        """How to check an answer, and how many checks passed."""
        names = [item.name for item in self._items if isinstance(item, items.Exercise)]
        if names and self._script.number and not self._values.answers:
            self._display.line(
                f"To check your answer: tinymi answer {names[0]} VALUE. For a hint: tinymi hint {names[0]}."
            )
            self._display.line("To see all answers: --answers.")
        checks = [item for item in self._items if isinstance(item, items.Check)]
        failed = [check.name for check in checks if not check.passed]
        if checks:
            self._display.line(f"{len(checks) - len(failed)} of {len(checks)} checks passed.")
        if not failed:
            return
        summary = f"failed: {'; '.join(failed)}"
        if notebook.in_notebook():
            raise CheckError(summary)
        print(show_text(summary), file=sys.stderr)
        sys.exit(1)

    # --- inner workings ------------------------------------------------------------------------------------

    def _help(self) -> str | None:
        """The docstring, filled to the screen; None where nobody can ask for it."""
        if self._run is not None:
            return None
        paragraphs = [self.title, *(f"{name}: {text}" if name else text for name, text in self.intro)]
        return terminal.paragraphs("\n\n".join(paragraphs), terminal.Screen.of(sys.stdout))

    def _put(self, item: items.Item) -> items.Item:
        """Show an item, after the cells of the source that are above it."""
        if self._run is not None:
            self._run.go_on()
        self._put_cells(self._script.passed())
        self._display.show(item)
        self._items.append(item)
        return item

    def _printed(self, text: str) -> None:
        """A reader's own print, where it stands."""
        self._put_cells(self._script.passed())
        match self._items[-1:]:
            case [items.Preformatted(text=before)]:
                self._items[-1] = items.Preformatted(before + text)
            case _:
                self._put(items.Preformatted(text))

    def _put_cells(self, passed: Iterable[Cell]) -> None:
        for cell in passed:
            if asked := question(cell):
                self._question = asked
                continue
            for item in as_items(cell):
                self._items.append(item)
                if not isinstance(item, items.Code):  # the terminal leaves code out
                    self._display.show(item)

    def _document(self) -> items.Document:
        options = {name: value for name, value in vars(self._values).items() if name not in ("json", "html", "answers")}
        words = ["python", self._script.name, *command_line([*self._options, *COMMON], options)]
        command = shlex.join(words) if self._script.name else ""
        return items.Document(
            self.title, self.intro, command, options, self._about_model, tuple(self._items), __version__
        )
