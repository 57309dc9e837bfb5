"""Lesson 4: every rank of its grid against Hugging Face's own layers; what its deeper file holds up."""

from pathlib import Path
from typing import Any

from tests.lessons.analyses import logit_lens
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model
from tinymi.teaching import prompts, show_token

import numpy as np
import pytest

LESSON, DEEPER = "04_token_prediction_sweep", "deeper/04_token_prediction_sweep"
FIVE = [line[0].partition("=>")[0] for line in prompts("token_prediction_sweep")]


def item(lesson: dict[str, Any], kind: str, number: int = 0) -> dict[str, Any]:
    return [dict(entry) for entry in lesson["report"] if entry["kind"] == kind][number]


def check_grid(lesson: dict[str, Any], texts: list[str], answers: list[str | None], folder: Path, model: Model) -> None:
    """Ranks, first tokens, and from which layer on the followed token comes first, through transformers."""
    reference = hugging_face(folder)
    cells, table = item(lesson, "heatmap")["texts"], item(lesson, "table")["rows"]
    for column, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        logits = logit_lens(reference, model.to_tokens(text))[:, -1].numpy()  # [1 + n_layers, d_vocab]
        token = int(logits[-1].argmax()) if answer is None else model.to_single_token(answer)
        for row, values in zip(cells, logits, strict=True):
            rank, first = row[column].split(" ", 1)
            before = [int((values > values[token] + near).sum()) for near in (1e-3, -1e-3)]
            assert 1 + before[0] <= int(rank.replace(",", "")) <= before[1]
            if np.diff(np.sort(values)[-2:]) > 1e-3:  # no tie
                assert first == show_token(model.to_str_tokens([int(values.argmax())])[0])
        prompt, _, first_at, stays_from, rank, probability = table[column]
        hits = (logits[1:].argmax(axis=1) == token).tolist()
        assert prompt == text
        assert first_at == (hits.index(True) if True in hits else None)
        assert (
            stays_from is None
            if not hits[-1]
            else all(hits[stays_from:]) and not any(hits[stays_from - 1 : stays_from])
        )
        p = np.exp(logits[-1] - logits[-1].max())
        assert probability == pytest.approx(p[token] / p.sum(), abs=1e-4)


def test_prompts_of_a_reader(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    given = ["one more=>!", "and one without an answer", "a", "\x1b[31m\u202e<b>"]
    options = [word for prompt in given for word in ("--prompt", prompt)]
    lesson = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), *options)
    assert "\x1b" not in lesson["stdout"]
    texts = ["one more", *given[1:]]
    check_grid(lesson, texts[:3], ["!", None, None], tiny_folder, tiny_model)
    assert lesson["options"]["prompt"] == given


def test_another_family_and_the_first_word(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", "qwen2-gqa2")
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), "abc=>d")
    assert item(lesson, "table")["rows"][0][:2] == ["abc", "d"]
    assert "too little" in refusal(DEEPER, "--model", str(folder))


@pytest.mark.parametrize("given", ["abc=>", "abc=>two tokens", ""], ids=["no answer", "many tokens", "no prompt"])
def test_what_cannot_be_followed_is_one_line_and_status_2(tiny_folder: Path, given: str) -> None:
    refusal(LESSON, "--model", str(tiny_folder), "--prompt", given)


@pytest.fixture(scope="module")
def lesson(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("04"))


@pytest.fixture(scope="module")
def deeper(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("04_deeper"))


def test_the_five_prompts(lesson: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    assert FIVE[0] == "The capital of France is"
    check_grid(lesson, FIVE, [" Paris", " Hawaii", " Jupiter", " Celsius", None], default_model_folder, default_model)
    stays = [row[3] for row in item(lesson, "table")["rows"]]
    assert stays == [29, None, 29, 29, 28]
    entropy = [row[1] for row in item(lesson, "table", 1)["rows"]]
    assert entropy[2] < 5  # of 15.6: sure of noise


def test_what_holds(deeper: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    assert all(finding["established"] for finding in deeper["findings"])
    reference = hugging_face(default_model_folder)
    facts = prompts("lens_facts")
    for number in (0, 25, 50, 75):
        template, subject, answer = facts[number]
        token = default_model.to_single_token(f" {answer}")
        tokens = default_model.to_tokens(template.replace("{}", subject))
        logits = logit_lens(reference, tokens)[1:, -1].numpy()
        fact = deeper["facts"][number]
        assert fact["right"] == (int(logits[-1].argmax()) == token)
        near = np.array([(logits > logits[:, [token]] + edge).sum(axis=1) for edge in (1e-3, -1e-3)])
        assert np.all(1 + near[0] <= fact["ranks"])
        assert np.all(fact["ranks"] <= near[1])
    assert 25 < np.mean(np.concatenate(deeper["ordinary"])) < 27  # text settles late, too
    assert min(deeper["settled"]) >= 20
