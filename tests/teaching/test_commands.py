"""The command `tinymi`: lessons, hook points, glossary, doctor."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import tinymi
from tests.running import ROOT
from tinymi.commands.doctor import facts
from tinymi.commands.explore import explore
from tinymi.commands.main import COMMANDS
from tinymi.commands.main import run as run_command
from tinymi.hooks import POINTS
from tinymi.machine import blas
from tinymi.serve.explorer import read
from tinymi.teaching import catalogue
from tinymi.teaching.catalogue import all_lessons, find
from tinymi.teaching.glossary import GROUPS, TERMS, forms, look_up, pattern

import pytest


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"} | environment
    command = [sys.executable, "-m", "tinymi", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=600, check=False)


def output(*arguments: str, **environment: str) -> str:
    done = run(*arguments, cwd=ROOT, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_alone_it_lists_the_commands_and_the_lessons() -> None:
    text = output()
    for command in COMMANDS:
        assert f"tinymi {command}" in text
    assert text.endswith(output("run"))


def test_every_lesson_is_listed_with_its_question_and_time() -> None:
    text = " ".join(output("run", COLUMNS="100").split())
    assert len(all_lessons()) == len(list((ROOT / "lessons").glob("[0-9]*.py"))) > 10
    for lesson in all_lessons():
        assert lesson.number in text
        assert lesson.field("Time")
        assert lesson.title.split()[0] in text


def test_the_version() -> None:
    assert output("--version") == f"tinymi {tinymi.__version__}\n"


def test_a_lesson_on_several_models(tiny_folder: Path, small_folder: Path) -> None:
    """Each as the lesson alone says it; a model that a lesson refuses is named, and the status is 1."""
    done = run("compare", "6", str(small_folder), "default", str(tiny_folder))
    text = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{small_folder} ...", "default ...", f"{tiny_folder} ..."]
    for model in ([], ["--model", str(small_folder)]):
        (answer,) = re.findall(r"\nAnswer: (.*?)\n\n", output("run", "6", *model), flags=re.DOTALL)
        assert " ".join(answer.split()) in text
    assert re.search(r"default 30 9 576 (\d) of \1", text)
    assert f"{tiny_folder}: ' Paris': is 6 tokens, not one" in text


def test_findings_side_by_side(small_folder: Path) -> None:
    """The same model twice: the same evidence twice, under the claim."""
    done = run("compare", "7", "--deeper", str(small_folder), f"{small_folder}/", COLUMNS="200")
    assert done.returncode == 0
    rows = re.findall(rf"^{small_folder}/? +(yes|no) +(.*)$", done.stdout, re.MULTILINE)
    assert len(rows) >= 8
    assert rows[::2] == rows[1::2]


def test_nothing_is_wider_than_80_columns() -> None:
    texts = [
        output(),
        output("glossary"),
        output("glossary", "logit lens"),
        output("points"),
        output("run", "0", "--help"),
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80


def test_a_lessons_times_are_read_from_its_docstring() -> None:
    lesson = catalogue.LessonFile(Path("x.py"), "Why?", (("Time", "20 minutes to read, 3 seconds to run"),))
    assert lesson.times == ("20 minutes", "3 seconds")
    assert all(time for lesson in all_lessons() for time in lesson.times)


@pytest.mark.parametrize("name", ["0", "00", "quick", "quick_start", "00_quick_start", "lessons/00_quick_start.py"])
def test_a_lesson_is_found_by_many_names(name: str) -> None:
    assert find(name).path.name == "00_quick_start.py"


@pytest.mark.parametrize("name", ["12345", "", "uick", "²", "../tinymi/model.py"])
def test_another_lesson_is_refused(name: str) -> None:
    with pytest.raises(tinymi.InputError, match=r"no such lesson; .*`tinymi run` lists all$") as caught:
        find(name)
    assert len(str(caught.value)) < 100


def test_a_mistyped_or_ambiguous_lesson_is_asked_about() -> None:
    for name, nearest in (("knokout", "knockout"), ("actvation_patching", "activation_patching")):
        with pytest.raises(tinymi.InputError, match=rf"no such lesson; did you mean {nearest}\? `tinymi run` lists"):
            find(name)
    with pytest.raises(tinymi.InputError, match=r"one of 03_attention_patterns, 08_attention_knockout$"):
        find("attention")


def test_it_runs_a_lesson_as_the_script_runs(tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--model", str(tiny_folder), "--prompt", "abcd", "--html", str(tmp_path / "x.html")]
    by_command = output("run", "quick_start", *options)
    script = subprocess.run(
        [sys.executable, str(ROOT / "lessons/00_quick_start.py"), *options],
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert by_command == script.stdout
    assert "00_quick_start.py" in (tmp_path / "x.html").read_text("utf-8")
    assert "--prompt" in output("run", "0", "--help")
    assert "--deeper" in output("run", "--help")


@pytest.mark.parametrize("arguments", [["a", "--deeper", "--x", "1"], ["--deeper", "0", "--x", "1"]])
def test_deeper_runs_the_file_of_that_name_in_the_folder_deeper(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "folder", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "deeper").mkdir()
    for path in (tmp_path / "00_a.py", tmp_path / "01_b.py", tmp_path / "deeper" / "00_a.py"):
        path.write_text("import sys\nprint(sys.argv)\n")
    run_command(arguments)
    assert capsys.readouterr().out == f"{[str(tmp_path / 'deeper' / '00_a.py'), '--x', '1']}\n"
    with pytest.raises(tinymi.InputError, match="01_b: has no deeper file"):
        run_command(["b", "--deeper"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "99"], "lesson '99'"),
        (["run", "0", "--frob"], "--frob"),
        (["frob"], "no command 'frob'; the commands are run, points"),
        (["glosary"], "did you mean glossary?"),
        (["glossary", "logitlense"], "did you mean logit lens?"),
        (["glossary", "zzzzz"], "no term 'zzzzz'; `tinymi glossary` lists all"),
        (["site", "/dev/null/x"], "cannot be made"),
        (["site", "x", "--only", "0,77"], "lesson '77'"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_help_of_explore_has_the_options_of_the_model(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        explore(["--help", "--model", str(tiny_folder)])
    text = capsys.readouterr().out
    assert text.startswith("usage: tinymi explore [-h]")
    assert "of the attention shown (0 to 1)" in text
    assert "--model SOURCE " in text
    assert max(map(len, text.splitlines())) <= 80
    with pytest.raises(tinymi.InputError, match="--model: expected one argument; --help lists"):
        explore(["--model"])


def test_an_empty_prompt_is_refused_in_the_explorer_too(tiny_model: tinymi.Model) -> None:
    for prompt in ("", " "):
        with pytest.raises(tinymi.InputError, match="prompt: empty; type 1 to 40 tokens"):
            read(tiny_model.config, {"prompt": prompt})
    assert read(tiny_model.config, {}).prompt == "The capital of France is"


def test_every_hook_point_is_shown_in_80_columns() -> None:
    text = output("points")
    for point in POINTS:
        assert point.template.format(layer="i") in text
        assert f"[{', '.join(point.axes)}]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_term_is_explained_and_its_lessons_exist() -> None:
    listed = " ".join(output("glossary").split())
    numbers = {lesson.number for lesson in all_lessons()}
    for term in TERMS:
        assert f"{term.name}: " in listed
        assert look_up(term.name) == look_up(term.name.upper().replace(" ", "-")) == look_up(f"{term.name}s") == [term]
        assert term.lessons
        assert set(term.lessons) <= numbers
        assert term.meaning.endswith((".", "?"))
        for paper in filter(None, term.paper.split("; ")):
            assert re.fullmatch(r"\D+ \d{4}, .+, https://\S+", paper), paper
    assert all(title in listed for title in GROUPS)
    assert {lesson for term in TERMS for lesson in term.lessons} >= numbers


def test_no_two_terms_have_the_same_spelling() -> None:
    spellings = [form.lower() for term in TERMS for form in (term.name, *term.spellings)]
    assert len(set(spellings)) == len(spellings)


def test_a_part_of_a_term_is_enough() -> None:
    assert [term.name for term in look_up("residual")] == ["residual stream"]
    assert [term.name for term in look_up("lens")] == ["logit lens", "tuned lens", "Jacobian lens"]
    assert output("glossary", "residual").startswith("residual stream\n")
    assert "Lessons that show it: 04, 05" in output("glossary", "logit-lens")
    both = output("glossary", "lens")
    assert "logit lens: " in both
    assert "tuned lens: " in both


def test_terms_are_recognised_in_running_text() -> None:
    text = "Induction heads move it; a name mover, or a head of the S-inhibition kind? Tokenizers know no token."
    matches = [(match[0], forms()[match[0].lower()].name) for match in pattern().finditer(text)]
    assert matches == [("Induction heads", "induction head"), ("name mover", "name mover head"), ("token", "token")]


def test_the_doctor_says_what_a_report_needs(tmp_path: Path) -> None:
    text = output("doctor", TINYMI_HOME=str(tmp_path / "nowhere"))
    for words in (
        tinymi.__version__,
        "numpy: ",
        "cores: ",
        "GFLOP/s",
        "MiB available",
        str(tmp_path),
        "not fetched yet",
    ):
        assert words in re.sub(": +", ": ", text), words
    assert not (tmp_path / "nowhere").exists()


def test_the_doctor_says_what_it_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)  # importing it raises ImportError
    monkeypatch.setattr("tinymi.machine.memory.available_bytes", lambda: None)
    lines = dict(facts())
    assert "threadpoolctl would name its kernels" in lines["BLAS"]
    assert lines["memory"] == "unknown without psutil"


def test_the_doctor_says_what_tinymi_set() -> None:
    user = {name: value for name, value in os.environ.items() if name not in blas.THREADS}
    command = [sys.executable, "-m", "tinymi", "doctor"]
    text = subprocess.run(
        command, env=user | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"OPENBLAS_NUM_THREADS: '\d+', set by tinymi for \d+ cores with a load of", text)


def test_the_script_is_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"tinymi": "tinymi.commands.main:main"}
