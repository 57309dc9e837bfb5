"""The command line: `tinymi`, or `python -m tinymi`."""

import runpy
import sys
from argparse import REMAINDER, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tinymi.errors import InputError, did_you_mean
from tinymi.teaching.glossary import GROUPS, Term, look_up
from tinymi.teaching.report import items, terminal
from tinymi.text import show_text
from tinymi.version import __version__

DESCRIPTION = """Learn what happens inside a language model. Start with: tinymi run 0

  tinymi run                the lessons, and how long they take
  tinymi run 0              a lesson, by its number or a part of its name; its
                            options come after it
  tinymi run 7 --deeper     the same subject with more evidence: does it hold?
  tinymi points             every value of the forward pass that can be hooked
  tinymi glossary residual  a word of the field, and the lessons that show it
  tinymi doctor             versions and settings to include in a bug report
  tinymi serve              your own prompts in the browser: explorer, lessons
  tinymi explore "A prompt" what the explorer shows; --html FILE: as a page
  tinymi site OUT           all lessons as pages, with an index; --browser: and
                            to run in a browser's tab, without a server
  tinymi answer 7.1 VALUE   is this the answer to exercise 7.1?
  tinymi hint 7.1           the next hint for it; the answer comes last
  tinymi progress           the exercises that you have tried
  tinymi compare 4 default MODEL  a lesson on several models, side by side
  tinymi notebook 6         lesson 6 as a notebook; with --exercises, for you
                            to fill in
"""
INSTALL = "what the notebook installs where tinymi is missing: a clone's folder, or git+ and the address of one"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; errors meant for the user are one line, and 2."""
    from tinymi.teaching.user_errors import install_user_facing_errors

    install_user_facing_errors()
    given = sys.argv[1:] if arguments is None else arguments
    name = given[0] if given else ""
    if name and not name.startswith("-") and name not in COMMANDS:
        raise InputError(f"no command {name!r}; {did_you_mean(name, COMMANDS)}the commands are {', '.join(COMMANDS)}")
    if name == "run" and set(given[1:]) - {"-h", "--help", "--deeper"}:
        return run(given[1:])  # all that follows is the lesson's
    if name == "explore":
        return explore(given[1:])  # which options there are depends on the model
    options = parser().parse_args(given)
    status: int = COMMANDS[options.name][0](options) if options.name else overview()
    return status


def parser() -> ArgumentParser:
    top = _Parser("tinymi", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tinymi {__version__}")
    subparsers = top.add_subparsers(metavar="COMMAND", dest="name")
    by_name = {
        name: subparsers.add_parser(name, help=help, description=help, allow_abbrev=False)
        for name, (_, help) in COMMANDS.items()
    }
    by_name["run"].add_argument("lesson", nargs="?", help="its number, its name or a part of it; its options follow")
    by_name["run"].add_argument("--deeper", action="store_true", help="run its deeper file: does the result hold?")
    by_name["glossary"].add_argument("term", nargs="*", help="a word or a part of it, such as residual")
    site = by_name["site"]
    site.add_argument("out", metavar="OUT", help="the folder for the pages; created if it does not exist")
    site.add_argument("--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model")
    site.add_argument("--browser", action="store_true", help="also write OUT/browser: they run in a browser's tab")
    site.add_argument("--pyodide", metavar="FOLDER", help="Pyodide's distribution; without it, it is fetched")
    site.add_argument("--jobs", metavar="N", type=int, default=1, help="processes that run lessons at the same time")
    site.add_argument("--only", metavar="LESSONS", help="some lessons, such as 0,3,6")
    served = by_name["serve"]
    served.add_argument("--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model")
    served.add_argument("--port", metavar="N", type=int, default=0, help="of 127.0.0.1; without it, one that is free")
    served.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    several = by_name["compare"]
    several.add_argument("lesson", help="its number, its name or a part of it")
    several.add_argument("models", metavar="MODEL", nargs="+", help="folder, hub id, .gguf file, or default")
    several.add_argument("--deeper", action="store_true", help="compare its deeper file")
    written = by_name["notebook"]
    written.add_argument("lesson", nargs="?", help="its number, its name or a part of it")
    written.add_argument("--all", metavar="FOLDER", help="write all lessons, and an index, into this folder")
    written.add_argument("--exercises", action="store_true", help="without the solutions: blanks to fill in")
    written.add_argument("--run", action="store_true", help="run it, and keep what it shows")
    written.add_argument(
        "--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model"
    )
    written.add_argument("--install", metavar="SOURCE", default="", help=INSTALL)
    exercise = by_name["answer"]
    exercise.add_argument("exercise", metavar="EXERCISE", help="lesson and number, such as 7.1")
    exercise.add_argument("value", metavar="VALUE", nargs=REMAINDER, help="your answer: a number or a few words")
    by_name["hint"].add_argument("exercise", metavar="EXERCISE", help="lesson and number, such as 7.1")
    return top


class _Parser(ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{show_text(message)}; --help lists the commands and options")


def show(*shown: items.Item) -> int:
    """Print items as a lesson prints them."""
    screen = terminal.Screen.of(sys.stdout)
    print("\n\n".join(terminal.render(item, screen) for item in shown))
    return 0


# --- the commands ----------------------------------------------------------------------------------------------


def overview() -> int:
    print(DESCRIPTION)
    return list_lessons()


def list_lessons(options: Namespace | None = None) -> int:
    from tinymi.teaching.catalogue import all_lessons

    lessons = all_lessons()
    columns = {
        "lesson": [lesson.number for lesson in lessons],
        "question": [lesson.title for lesson in lessons],
        "to read": [lesson.times[0] for lesson in lessons],
        "to run": [lesson.times[1] for lesson in lessons],
    }
    return show(items.columns_table(columns, None, "", ""))


def run(arguments: Sequence[str]) -> int:
    """Run a lesson as a script, or its deeper file. arguments: its name and its options."""
    name, *options = [word for word in arguments if word != "--deeper"]
    path = lesson_file(name, "--deeper" in arguments)
    sys.argv = [str(path), *options]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    return 0


def lesson_file(name: str, deeper: bool) -> Path:
    from tinymi.teaching.catalogue import find

    lesson = find(name)
    path = lesson.deeper if deeper else lesson.path
    if path is None:
        raise InputError(f"lesson {lesson.path.stem}: has no deeper file; run it without --deeper")
    return path


def points(options: Namespace) -> int:
    from tinymi.hooks import POINTS

    text = "\n".join(f"{p.template.format(layer='i'):<30} [{', '.join(p.axes)}]\n    {p.meaning}" for p in POINTS)
    note = (
        "i is a layer, from 0. Callbacks and caches take these names; caches also the short form of any of them, such "
        'as `cache["pattern", 5]`. `hook_result` is computed only when someone asks for it.'
    )
    return show(items.Preformatted(text), items.Prose(note))


def glossary(options: Namespace) -> int:
    """All terms in reading order, or those that have the given words in their names."""
    if not options.term:
        groups = [(items.Section(title), items.Prose(_paragraphs(terms))) for title, terms in GROUPS.items()]
        return show(*(item for group in groups for item in group))
    terms = look_up(" ".join(options.term))
    if len(terms) > 1:
        return show(items.Prose(_paragraphs(terms)))
    (term,) = terms
    lessons = ", ".join(term.lessons)
    shown = [items.Section(term.name), items.Prose(term.meaning), items.Prose(f"Lessons that show it: {lessons}")]
    if term.paper:
        shown.append(items.Prose("\n\n".join(term.paper.split("; "))))
    return show(*shown)


def _paragraphs(terms: Iterable[Term]) -> str:
    return "\n\n".join(f"{term.name}: {term.meaning}" for term in terms)


def doctor(options: Namespace) -> int:
    from tinymi.commands.doctor import facts

    for name, value in facts():
        print(f"{name + ':':<16} {show_text(value)}", flush=True)
    return 0


def site(options: Namespace) -> int:
    from tinymi.browser.build import FOLDER
    from tinymi.browser.build import edition as browser_edition
    from tinymi.teaching.catalogue import all_lessons, find
    from tinymi.teaching.report.site import build

    chosen = all_lessons() if options.only is None else [find(name) for name in options.only.split(",")]
    edition = browser_edition(options.model, options.pyodide) if options.browser else None
    live = f"{FOLDER}/index.html" if options.browser else ""
    built = build(Path(options.out), chosen, options.model, lambda line: print(line, flush=True), live, options.jobs)
    if edition is not None:
        page = edition.write(Path(options.out), [one.name for one in built if one.document is not None])
        print(f"In the browser, from a web server: {show_text(str(page))}")
    for one in built:
        print(f"{one.name}: {show_text(one.problem) or 'done'}")
    print(f"Site: {show_text(str(Path(options.out) / 'index.html'))}")
    return max(one.status != 0 for one in built)


def serve(options: Namespace) -> int:
    from tinymi.serve.server import serve

    if not 0 <= options.port <= 65535:
        raise InputError(f"--port: {options.port}, but valid is 0 to 65535; give such a number, or none")
    return serve(options.model, options.port, not options.no_browser)


def explore(arguments: Sequence[str]) -> int:
    from tinymi.commands.explore import explore

    return explore(arguments)


def answer(options: Namespace) -> int:
    from tinymi.commands.answer import answer

    return answer(options.exercise, " ".join(options.value))


def hint(options: Namespace) -> int:
    from tinymi.commands.answer import show_hint

    return show_hint(options.exercise)


def progress(options: Namespace) -> int:
    from tinymi.commands.answer import show_progress

    return show_progress()


def compare(options: Namespace) -> int:
    from tinymi.commands.compare import compare

    return compare(lesson_file(options.lesson, options.deeper), options.models)


def notebook(options: Namespace) -> int:
    from tinymi.commands.notebook import notebooks
    from tinymi.teaching.catalogue import all_lessons, find

    if (options.lesson is None) == (options.all is None):
        raise InputError("notebook: give one lesson, such as 6, or --all FOLDER")
    lessons = all_lessons() if options.lesson is None else [find(options.lesson)]
    folder = Path(options.all or ".")
    return notebooks(lessons, folder, not options.exercises, options.run, options.model, options.install)


COMMANDS: Mapping[str, tuple[Callable[[Namespace], int], str]] = {
    "run": (list_lessons, "run a lesson; without one, list the lessons"),
    "points": (points, "list the hook points in the order of execution"),
    "glossary": (glossary, "list the field's words, or explain one"),
    "answer": (answer, "check your answer to an exercise; without one, print the exercise"),
    "hint": (hint, "print the next hint for an exercise; its answer comes last"),
    "progress": (progress, "list the exercises that you have tried"),
    "doctor": (doctor, "print the versions and settings to include in a bug report"),
    "notebook": (notebook, "write a lesson, or all of them, as Jupyter notebooks"),
    "compare": (compare, "run a lesson on several models and print their answers side by side"),
    "serve": (serve, "open the lessons in your browser, with your own prompts"),
    "explore": (lambda options: explore([]), "print what the explorer of `serve` shows of a prompt"),
    "site": (site, "run all lessons and write them as pages with an index"),
}
