"""Lesson 4: the lens against Hugging Face's own layers, its findings on the default model with margins."""

from pathlib import Path
from typing import Any

from tests.analyses import logit_lens
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "04_token_prediction_sweep"
PROMPTS = [
    "The capital of France is",
    "Barack Obama was born in",
    "The largest planet in the solar system is",
    "Water freezes at zero degrees",
    "def fibonacci(n):",
]


def check_against(found: dict[str, Any], reference: Any, model: Model) -> None:
    for entry in found["prompts"]:
        logits = logit_lens(reference, model.to_tokens(entry["prompt"]))[:, -1]
        probabilities = torch.softmax(logits, dim=-1)
        rows = [entry["embed"], *entry["layers"]]
        assert [row["layer"] for row in rows] == [None, *range(model.config.n_layers)]
        tops = logits.topk(2, dim=-1)
        for row, p, top, values in zip(rows, probabilities, tops.indices, tops.values, strict=True):
            if float(values[0] - values[1]) > 1e-3:  # no tie
                assert row["token_id"] == int(top[0])
            assert row["probability"] == pytest.approx(float(p.max()), abs=1e-4)
            assert row["answer_probability"] == pytest.approx(float(p[entry["answer_id"]]), abs=1e-4)
            above = (p > p[entry["answer_id"]] * (1 + 1e-3)).sum(), (p > p[entry["answer_id"]] * (1 - 1e-3)).sum()
            assert 1 + int(above[0]) <= row["answer_rank"] <= 1 + int(above[1])
            entropy = float(-(p * torch.log2(p.clamp_min(1e-300))).sum())
            assert row["entropy_bits"] == pytest.approx(entropy, abs=1e-3)
        hits = [row["token_id"] == entry["answer_id"] for row in entry["layers"]]
        assert entry["first_layer"] == (hits.index(True) if any(hits) else None)
        stable = entry["stable_layer"]
        assert all(hits[stable:]) if stable is not None else not hits[-1]
        assert stable in (None, 0) or not hits[stable - 1]


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    options = ["--model", str(tiny_folder), "--prompt", "one more=>!", "--prompt", "and one without an answer"]
    found = lesson_json(LESSON, tmp_path, *options)
    assert [entry["prompt"] for entry in found["prompts"]] == [*PROMPTS, "one more", "and one without an answer"]
    assert found["prompts"][5]["answer"] == "!"
    assert found["prompts"][6]["answer"] == found["prompts"][6]["final"]["token"]
    check_against(found, hugging_face(tiny_folder), tiny_model)


@pytest.mark.parametrize("given", ["abc=>", "abc=>two tokens"], ids=["no answer", "an answer of many tokens"])
def test_a_wrong_answer_is_one_line_and_status_2(tiny_folder: Path, given: str) -> None:
    refusal(LESSON, "--model", str(tiny_folder), "--prompt", given)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("04"))


def test_the_lens_is_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    check_against(found, hugging_face(default_model_folder), default_model)


def test_what_the_model_knows(found: dict[str, Any]) -> None:
    answered = {entry["prompt"]: entry["answered_right"] for entry in found["prompts"]}
    assert answered == {prompt: prompt != "Barack Obama was born in" for prompt in PROMPTS}
    paris = found["prompts"][0]
    assert paris["answer"] == " Paris"
    assert paris["layers"][-1]["probability"] == pytest.approx(0.773, abs=0.005)
    assert paris["stable_layer"] >= 27
    assert "the model does not give the right answer" in str(found["report"])


def test_facts_crystallise_late(found: dict[str, Any]) -> None:
    settled = [fact["stable_layer"] for fact in found["facts"] if fact["answered_right"]]
    assert len(settled) >= 24
    assert min(settled) >= 20
    assert np.median(settled) >= 27
    assert found["later_than_ordinary"]["interval"][0] > 0
    assert found["told_apart"]["from_layer"] <= 23
    assert found["answer_before_top_1"]["share"] > 0.8
    assert found["answer_before_top_1"]["others"] < 0.1
    assert [finding["established"] for finding in found["findings"]] == [True] * 5


def test_the_lens_reads_no_answer_from_nothing(found: dict[str, Any]) -> None:
    controls = {row["control"]: row for row in found["controls"]}
    assert controls["real lens"]["top_10"] > 0.05
    assert max(controls[name]["top_10"] for name in ("random direction", "shuffled stream")) < 0.01
    assert controls["random direction"]["mean_probability"] > 0.3  # sure of nothing, all the same
