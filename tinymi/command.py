"""The command line: `tinymi`, or `python -m tinymi`."""

import runpy
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NoReturn

from tinymi.errors import InputError
from tinymi.report import items, terminal
from tinymi.report.tokens import show_text

DESCRIPTION = """Learn what happens inside a language model.

  tinymi                      this page, and the lessons
  tinymi run 0                a lesson, by number or name, its options behind it
  tinymi points               every value of the forward pass that can be hooked
  tinymi glossary logit-lens  a word of the field, and which lesson shows it
  tinymi doctor               what a report of a problem should say
  tinymi site OUT             all lessons as pages, with an index
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; errors meant for the user are one line, and 2."""
    from tinymi.lesson import speak_to_users

    speak_to_users()
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["run"] and len(given) > 1 and given[1] not in ("-h", "--help"):
        return run(given[1], given[2:])  # all that follows is the lesson's
    options = parser().parse_args(given)
    status: int = options.command(options)
    return status


def parser() -> ArgumentParser:
    found = _Parser("tinymi", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    found.set_defaults(command=overview)
    commands = found.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Any, help: str) -> ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        made.set_defaults(command=command)
        return made

    add("lessons", lessons, "list the lessons: their questions, and how long they take")
    add("run", run_nothing, "run a lesson: tinymi run LESSON [its options]; --help behind it lists these")
    add("points", points, "list the hook points in the order of execution")
    words = add("glossary", glossary, "list the field's words, or explain one")
    words.add_argument("term", nargs="*", help="a word, such as logit-lens")
    add("doctor", doctor, "print what a report of a problem should say: versions, BLAS, threads, memory, cache")
    pages = add("site", site, "run all lessons and write them as pages with an index")
    pages.add_argument("out", metavar="OUT", help="the folder for the pages; made if it is not there")
    pages.add_argument("--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model")
    pages.add_argument("--only", metavar="LESSONS", help="some lessons, such as 0,3,6")
    return found


class _Parser(ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{show_text(message)}; --help lists the commands and options")


def show(*said: items.Item) -> int:
    """Print items as a lesson prints them."""
    screen = terminal.Screen.of(sys.stdout)
    print("\n\n".join(terminal.render(item, screen) for item in said))
    return 0


# --- the commands ----------------------------------------------------------------------------------------------


def overview(options: Namespace) -> int:
    print(DESCRIPTION)
    return lessons(options)


def lessons(options: Namespace) -> int:
    from tinymi.lesson_files import all_lessons

    rows = [[lesson.number, lesson.title, *lesson.times] for lesson in all_lessons()]
    return show(items.make_table(["lesson", "question", "to read", "to run"], rows, "", {}))


def run(name: str, arguments: list[str]) -> int:
    from tinymi.lesson_files import find

    path = find(name).path
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    return 0


def run_nothing(options: Namespace) -> int:
    raise InputError("run: names no lesson; `tinymi lessons` lists them; give a number, as in: tinymi run 0")


def points(options: Namespace) -> int:
    from tinymi.hooks import POINTS

    text = "\n".join(f"{p.template.format(layer='i'):<30} [{', '.join(p.axes)}]\n    {p.meaning}" for p in POINTS)
    note = (
        "i is a layer, from 0. Callbacks and caches take these names; caches also the short form of any of them, such "
        'as cache["pattern", 5]. `hook_result` is computed only when someone asks for it.'
    )
    return show(items.Preformatted(text), items.Prose(note))


def glossary(options: Namespace) -> int:
    from tinymi.glossary import TERMS, look_up

    if not options.term:
        text = "\n\n".join(f"{term.name}: {term.meaning}" for term in TERMS)
        return show(items.Prose(text))
    term = look_up(" ".join(options.term))
    shown = f"Shown in lesson {', '.join(term.lessons)}."
    said = [term.meaning, shown, f"Source: {term.paper}." if term.paper else ""]
    return show(items.Section(term.name), items.Prose("\n\n".join(text for text in said if text)))


def doctor(options: Namespace) -> int:
    from tinymi.doctor import facts

    for name, value in facts():
        print(f"{name + ':':<16} {show_text(value)}", flush=True)
    return 0


def site(options: Namespace) -> int:
    from tinymi.lesson_files import all_lessons, find
    from tinymi.site import build

    chosen = all_lessons() if options.only is None else [find(name) for name in options.only.split(",")]
    built = build(Path(options.out), chosen, options.model, lambda line: print(line, flush=True))
    for one in built:
        print(f"{one.lesson.path.stem}: {show_text(one.summary)}")
    print(f"Site: {show_text(str(Path(options.out) / 'index.html'))}")
    return max(one.status != 0 for one in built)
