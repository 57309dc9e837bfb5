"""The options of a lesson: typed, with ranges, so that a command line, a program or a web form can ask for them."""

import math
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tinymi.errors import InputError
from tinymi.text import show_text, show_token

_METAVARS = {str: "TEXT", int: "N", float: "X"}


@dataclass(frozen=True)
class Option:
    """One option of a lesson."""

    name: str  # "prompt"; on the command line --prompt
    type: type  # str, int, float or bool
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    many: bool = False  # may be given several times; its value is then a list
    metavar: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def valid(self) -> str:
        """The range in words: "0 to 29", "1 or more", "at most 5"; "" where there is none."""
        match self.minimum, self.maximum:
            case None, None:
                return ""
            case low, None:
                return f"{low:,} or more"
            case None, high:
                return f"at most {high:,}"
        return f"{self.minimum:,} to {self.maximum:,}"

    def check(self, value: Any) -> None:
        """Raise InputError for a number outside the range, or one that is not finite."""
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float):
                continue
            low, high = self.minimum, self.maximum
            if (low is not None and number < low) or (high is not None and number > high):
                raise InputError(f"{self.flag}: {number}, but valid is {self.valid}; give such a number")
            if not math.isfinite(number):
                raise InputError(f"{self.flag}: {number}, but valid is {self.valid or 'a finite number'}; give one")


COMMON = (
    Option("model", str, None, "folder, hub id or .gguf file; without it, the default model", metavar="SOURCE"),
    Option("weights", str, "loaded", "mapped: slower, for models beyond memory", ("loaded", "mapped")),
    Option("json", str, None, "write everything as JSON", metavar="FILE"),
    Option("html", str, None, "write everything as one page for the browser", metavar="FILE"),
    Option("answers", bool, False, "print the answers to the exercises"),
)
"""What every lesson takes."""


class Parser(ArgumentParser):
    """argparse for a list of options, with errors of one line.

    Where there is a --prompt, a word that belongs to no option is the prompt, too: `tinymi run tour "My prompt"`.
    """

    def __init__(self, options: Sequence[Option], description: str | None = None) -> None:
        """Without a description there is no --help: nobody is there to read it."""
        super().__init__(
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            description=description,
            argument_default=SUPPRESS,
            add_help=description is not None,
        )
        self._options = options
        for option in options:
            if option.name == "prompt":
                words = "*" if option.many else "?"
                self.add_argument("words", nargs=words, default=[], metavar="PROMPT", help="the same as --prompt")
            self._add(option)

    def _add(self, option: Option) -> None:
        settings: dict[str, Any] = {"help": _help(option).replace("%", "%%")}
        if option.type is bool:
            settings["action"] = "store_true"
        else:
            settings["type"] = option.type
            settings["action"] = "append" if option.many else "store"
            settings |= {"choices": option.choices} if option.choices else {"metavar": _metavar(option)}
        self.add_argument(option.flag, **settings)

    def read(self, arguments: Sequence[str] | None) -> Namespace:
        """The options' values. Raises InputError."""
        given = vars(self.parse_intermixed_args(arguments))
        words = given.pop("words", [])
        if isinstance(words, str):  # one prompt
            if "prompt" in given:
                raise InputError(f"--prompt: {given['prompt']!r}, but {words!r} is a prompt, too; give one of them")
            given["prompt"] = words
        elif words:
            given["prompt"] = [*words, *given.get("prompt", [])]
        values = Namespace(**{option.name: option.default for option in self._options} | given)
        for option in self._options:
            option.check(getattr(values, option.name))
        return values

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{show_text(message)}; --help lists the options")


def command_line(options: Iterable[Option], values: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these values; options at their default are left out."""
    words = []
    for option in options:
        value = values.get(option.name, option.default)
        if value != option.default:
            for entry in value if isinstance(value, list) else [value]:
                words += _words(option, entry)
    return words


def _words(option: Option, entry: Any) -> list[str]:
    if entry is True:
        return [option.flag]
    text = str(entry)
    return [f"{option.flag}={text}"] if text.startswith("-") else [option.flag, text]


def _metavar(option: Option) -> str:
    return option.metavar or _METAVARS[option.type]


def _help(option: Option) -> str:
    """What the option means, its range, its default, and whether it may be repeated."""
    notes = [option.valid] if option.valid else []
    if option.default not in (None, False):
        entries = option.default if isinstance(option.default, list | tuple) else [option.default]
        notes.append(f"default: {', '.join(map(_shown, entries))}")
    if option.many:
        notes.append("may be repeated")
    return f"{option.help} ({'; '.join(notes)})" if notes else option.help


def _shown(default: Any) -> str:
    """A default as it would be typed: a leading space stays visible."""
    text = str(default)
    return show_token(text) if text != text.strip() else show_text(text)
