"""Lesson 11 on the default model, recomputed with transformers, and on tiny models."""

from pathlib import Path
from typing import Any

import tinymi
from tests.running import default_lesson_json, refusal
from tests.variants import hugging_face
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

NAME = "11_steering_dose_response"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(NAME, tmp_path_factory.mktemp("steering"))


def test_odds_with_transformers(
    lesson: dict[str, Any], default_model_folder: Path, default_model: tinymi.Model
) -> None:
    peer = hugging_face(default_model_folder)
    praise, blame = (
        [default_model.to_single_token(f" {word}") for word in column]
        for column in zip(*prompts("sentiment_words"), strict=True)
    )
    direction = torch.tensor(lesson["direction"], dtype=torch.float32)
    dose = [0.0]

    def add(module: Any, args: Any) -> Any:
        return (args[0] + dose[0] * lesson["size"] * direction, *args[1:])

    peer.model.layers[17].register_forward_pre_hook(add)
    for position in (0, 2, 4):
        dose[0] = lesson["doses"][position]
        odds = []
        for (prompt,) in prompts("sentiment_neutral"):
            with torch.no_grad():
                probs = peer(torch.from_numpy(default_model.to_tokens(prompt))).logits[0, -1].softmax(-1).numpy()
            odds.append(np.log2(probs[praise].sum() / probs[blame].sum()))
        assert lesson["odds"][position] == pytest.approx(np.mean(odds), rel=1e-3, abs=1e-3)


def test_the_text_turns_and_the_odds_alone_say_too_much(lesson: dict[str, Any]) -> None:
    """The control that the lesson warns of: its odds swing as far, its text does not turn."""
    swings = next(item for item in lesson["report"] if item["kind"] == "bars")["series"][""]
    assert swings[0] == pytest.approx(lesson["odds"][-1] - lesson["odds"][0])
    texts, _, control = (item["rows"] for item in lesson["report"] if item["kind"] == "table")
    assert "waste of money" in texts[0][1]
    assert "wonderful" in texts[-1][1]
    assert "The hotel was a hotel" in control[0][1]
    assert max(map(abs, swings[1:])) > 0.9 * swings[0]


def test_what_cannot_be_is_refused(tiny_folder: Path) -> None:
    assert "1 or more" in refusal(NAME, "--model", str(tiny_folder), "--layer", "-1")


def test_the_deeper_lesson(default_model_folder: Path, default_model: tinymi.Model, tmp_path: Path) -> None:
    """The swing on the prompts that measure, with transformers; all 35 relabellings are there."""
    lesson = default_lesson_json(f"deeper/{NAME}", tmp_path)
    peer = hugging_face(default_model_folder)
    praise, blame = (
        [default_model.to_single_token(f" {word}") for word in column]
        for column in zip(*prompts("sentiment_words"), strict=True)
    )
    vector = 0.4 * lesson["size"] * torch.tensor(lesson["direction"], dtype=torch.float32)
    sign = [0]
    peer.model.layers[lesson["layer"]].register_forward_pre_hook(
        lambda module, args: (args[0] + sign[0] * vector, *args[1:])
    )
    for (prompt,), swing in zip(prompts("sentiment_neutral")[1::2], lesson["swing"], strict=True):
        odds = []
        for sign[0] in (-1, 1):
            with torch.no_grad():
                probs = peer(torch.from_numpy(default_model.to_tokens(prompt))).logits[0, -1].softmax(-1)
            odds.append(float(torch.log2(probs[praise].sum() / probs[blame].sum())))
        assert odds[1] - odds[0] == pytest.approx(swing, rel=1e-3)
    assert np.shape(lesson["controls"]) == (35, 4)
