"""An answer typed without its leading space, with real tokenizers."""

from pathlib import Path

import tinymi
from tinymi.teaching.running import run_lesson
from tinymi.teaching.words import with_space

import pytest

PROMPT = "The capital of France is"


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("Paris", PROMPT, " Paris"),
        (" Paris", PROMPT, " Paris"),
        ("␣Paris", PROMPT, " Paris"),
        ("Paris", "In France, the capital:", " Paris"),
        ("Paris", PROMPT + " ", "Paris"),
        ("Paris", "(", "Paris"),
        ("Paris", "", "Paris"),
        ("Paris", "2 + 2 =", "Paris"),
        (".", PROMPT, "."),
        ("4", "2 and 2 is", "4"),
        ("Ouagadougou", PROMPT, "Ouagadougou"),
        ("ation", "More inform", "ation"),
        ("", PROMPT, ""),
        ("\n", PROMPT, "\n"),
    ],
)
def test_a_word_gets_its_space_where_only_that_makes_sense(
    text: str, prompt: str, expected: str, default_model: tinymi.Model
) -> None:
    assert with_space(text, prompt, default_model) == expected


def test_without_the_space_it_would_be_another_token(default_model: tinymi.Model) -> None:
    with_it, without = default_model.to_single_token(" Paris"), default_model.to_single_token("Paris")
    assert with_it != without


SCRIPT = '''"""Which?"""
# %%
from tinymi.teaching import Lesson
lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt")
lesson.option("--answer", default=" Paris", help="the answer")
options = lesson.start()
model = lesson.load_model()
lesson.keep(answer=lesson.token(options.answer), foil=lesson.token("Rome", "It is ("))
lesson.finish()
'''


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    path = tmp_path / "which.py"
    path.write_text(SCRIPT)
    return path


def test_a_lesson_reads_the_word_and_says_so(lesson: Path, default_model: tinymi.Model) -> None:
    plain, typed = (run_lesson(lesson, [f"--answer={text}"], default_model) for text in (" Paris", "Paris"))
    assert plain.fields == typed.fields
    assert plain.fields["answer"] == default_model.to_single_token(" Paris")
    assert plain.fields["foil"] == default_model.to_single_token("Rome")
    assert plain.document is not None
    assert typed.document is not None
    said = [item for item in typed.document.items if item not in plain.document.items]
    assert [getattr(item, "text", "") for item in said] == ["Paris: read as ␣Paris, with the space before a word."]


def test_two_tokens_are_refused(lesson: Path, default_model: tinymi.Model, tiny_model: tinymi.Model) -> None:
    with pytest.raises(tinymi.InputError, match=r"'Ouagadougou': is \d tokens"):
        run_lesson(lesson, ["--answer=Ouagadougou"], default_model)
    with pytest.raises(tinymi.InputError, match="' Paris': is 6 tokens"):
        run_lesson(lesson, [], tiny_model)
