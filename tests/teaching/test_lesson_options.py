"""Options: what a program can ask of them, what a reader may type, and what nobody should give."""

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.running import ROOT, run_lesson_often
from tinymi.errors import InputError
from tinymi.teaching.options import COMMON, Option, Parser, command_line
from tinymi.teaching.running import options_of

import pytest

PROMPT = Option("prompt", str, " 50% of it", "what to say, 100% of it")
PROMPTS = Option("prompt", str, ["a", " b"], "what to say", many=True)
LAYER = Option("layer", int, 3, "a layer", minimum=0, maximum=29)
DOSE = Option("dose", float, [0.5, 1.0], "doses", minimum=0, many=True)
QUICK = Option("be_quick", bool, False, "leave things out")
KIND = Option("kind", str, "head", "what to cut", ("head", "layer"))


def read(options: list[Option], *arguments: str) -> Namespace:
    return Parser(options, "").read(arguments)


def test_without_arguments_the_defaults() -> None:
    values = read([PROMPT, LAYER, DOSE, QUICK, KIND])
    assert vars(values) == {"prompt": " 50% of it", "layer": 3, "dose": [0.5, 1.0], "be_quick": False, "kind": "head"}


@pytest.mark.parametrize(
    "arguments",
    [["hi you"], ["--prompt", "hi you"], ["--prompt=hi you"], ["hi you", "--layer", "3"], ["--layer", "3", "hi you"]],
)
def test_a_word_of_its_own_is_the_prompt(arguments: list[str]) -> None:
    assert read([PROMPT, LAYER], *arguments).prompt == "hi you"


def test_several_words_are_several_prompts() -> None:
    assert read([PROMPTS, LAYER], "x", "y z", "--prompt=w").prompt == ["x", "y z", "w"]


def test_values_given_replace_the_defaults() -> None:
    assert read([DOSE], "--dose", "2", "--dose", "3").dose == [2.0, 3.0]
    assert DOSE.default == [0.5, 1.0]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ([LAYER], ["--layer", "30"], "--layer: 30, but valid is 0 to 29"),
        ([LAYER], ["--layer=-1"], "--layer: -1, but valid is 0 to 29"),
        ([LAYER], ["--layer", "1.5"], "--layer.*1.5"),
        ([DOSE], ["--dose", "1", "--dose", "nan"], "--dose: nan, but valid is 0 or more"),
        ([DOSE], ["--dose", "inf"], "--dose: inf, but valid is 0 or more"),
        ([KIND], ["--kind", "neuron"], "--kind.*neuron.*head"),
        ([PROMPT], ["a", "b"], "arguments: b"),
        ([PROMPT], ["a", "--prompt", "b"], "--prompt: 'b', but 'a' is a prompt, too"),
        ([LAYER], ["a"], "arguments: a"),
        ([PROMPT], ["--prom", "x"], "arguments: --prom"),
        ([QUICK], ["--be-quick", "x"], "arguments: x"),
    ],
)
def test_what_cannot_be_is_refused(options: list[Option], arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(options, *arguments)


def test_help_says_type_range_and_default_with_its_spaces() -> None:
    text = " ".join(Parser([PROMPT, LAYER, DOSE, QUICK, KIND], "A lesson").format_help().split())
    assert "--prompt TEXT what to say, 100% of it (default: ␣50%␣of␣it)" in text
    assert "--layer N a layer (0 to 29; default: 3)" in text
    assert "--dose X doses (0 or more; default: 0.5, 1.0; may be repeated)" in text
    assert "--be-quick leave things out" in text
    assert "--kind {head,layer} what to cut (default: head)" in text
    assert "[PROMPT] A lesson" in text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prompt": "it's", "layer": 0, "dose": [2.0], "be_quick": True, "kind": "layer"},
        {"prompt": "--layer"},
        {"prompt": "-x=\n", "dose": [0.5, 1.0, 2.0]},
        {"prompt": ""},
    ],
)
def test_a_command_line_gives_the_values_that_it_was_made_from(values: dict[str, Any]) -> None:
    options = [PROMPT, LAYER, DOSE, QUICK, KIND]
    words = command_line(options, values)
    assert vars(read(options, *words)) == vars(read(options)) | values
    assert bool(words) == bool(values)


# --- the lessons -------------------------------------------------------------------------------------------------

LESSONS = sorted(
    str(path.relative_to(ROOT / "lessons").with_suffix("")) for path in (ROOT / "lessons").rglob("[0-9]*_*.py")
)
VALUES = [
    "",
    " ",
    "0",
    "-1",
    "7",
    "9" * 30,
    "nan",
    "1e999",
    "x" * 300,
    "../..",
    "\udcff",
    "é\u0301\u0301 عربي 💥\u200d",
    "\x1b[2J\x9b31m\u202e<script>alert(1)</script>\n",
]
FOREIGN = VALUES[-2:]
ELSEWHERE = ("jobs", "dask")  # with the value 7: a pool of processes; an address to wait for
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def own_options(lesson: str) -> Iterator[Option]:
    yield from (option for option in options_of(ROOT / "lessons" / f"{lesson}.py") if option not in COMMON)


def hostile_runs(lesson: str, folder: Path) -> Iterator[list[str]]:
    for option in own_options(lesson):
        for number, value in enumerate(VALUES if option.type is not bool else []):
            if option.name not in ELSEWHERE or value != "7":
                page = ["--html", str(folder / f"{option.name}{number}.html")] if value in FOREIGN else []
                yield [f"{option.flag}={value}", *page]


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_programs_question_for_options_is_answered(lesson: str) -> None:
    for option in own_options(lesson):
        assert option.help
        assert option.name.isidentifier()
        option.check(option.default)


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_takes_or_refuses_any_value(lesson: str, small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    runs = [["--model", str(small_folder), *run] for run in hostile_runs(lesson, tmp_path)]
    for run, done in zip(runs, run_lesson_often(lesson, runs, out, NO_COLOR="1"), strict=True):
        shown = f"{run}: {done.stdout[-300:]} {done.stderr}"
        assert done.returncode in (0, 1, 2), shown
        assert "Traceback" not in done.stderr, shown
        assert not RAW.search(done.stdout + done.stderr), shown
        if done.returncode:
            assert len(done.stderr.splitlines()) == 1, shown
            assert done.stderr.startswith("error: " if done.returncode == 2 else "failed: "), shown
        if done.returncode == 0 and "--html" in run:
            page = Path(run[-1]).read_text("utf-8")
            assert not RAW.search(page), shown
            assert "<script>alert" not in page, shown
    assert not list(tmp_path.rglob("*.lock"))


def test_what_all_lessons_take(small_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    runs = []
    for option in COMMON[:-1]:  # --answers takes no value
        prefix = str(tmp_path / "x") if option.name in ("json", "html") else ""
        runs += [[f"--model={small_folder}", f"{option.flag}={prefix}{value}"] for value in VALUES]
    for run, done in zip(runs, run_lesson_often("00_quick_start", runs, out, HF_HUB_OFFLINE="1"), strict=True):
        shown = f"{run}: {done.stdout[-300:]} {done.stderr}"
        assert done.returncode in (0, 2), shown
        assert "Traceback" not in done.stderr, shown
        assert not RAW.search(done.stdout + done.stderr), shown
        assert len(done.stderr.splitlines()) == done.returncode // 2, shown
