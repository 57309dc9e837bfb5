"""Lesson 0 on a tiny random model (mechanics) and on the default model (findings)."""

from pathlib import Path

from tests.running import default_lesson_json, lesson_json, refusal
from tinymi import Model

import numpy as np
import pytest


def test_runs_on_any_model(tiny_folder: Path, tmp_path: Path) -> None:
    found = lesson_json("00_quick_start", tmp_path, "--model", str(tiny_folder), "--prompt", "abc abd")
    assert found["model"]["n_layers"] == 2
    assert len(found["top"]) == 5


def test_a_prompt_that_is_too_long_is_one_line_and_status_2(tiny_folder: Path) -> None:
    line = refusal("00_quick_start", "--model", str(tiny_folder), "--prompt", "a" * 1000)
    assert "512" in line  # the positions that the tiny model takes


def test_the_capital_of_france(default_model: Model, tmp_path: Path) -> None:
    found = default_lesson_json("00_quick_start", tmp_path)
    assert found["top"][0]["token"] == " Paris"
    assert found["top"][0]["probability"] == pytest.approx(0.773, abs=0.005)  # through Hugging Face
    probabilities = {cut["token"]: cut["answer_probability"] for cut in found["cuts"]}
    assert probabilities[" France"] < 0.3
    assert min(probabilities[" capital"], probabilities[" of"], probabilities[" is"]) > 0.5
    assert found["findings"][0]["established"]


def test_a_cut_is_what_the_lesson_says(default_model: Model, tmp_path: Path) -> None:
    """The same edge cut in the scores, before softmax, where no rescaling is needed."""
    tokens = default_model.to_tokens("The capital of France is")
    answer = default_model.to_single_token(" Paris")
    scores = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(15, 30)]

    def cut(value: np.ndarray, hook: object) -> np.ndarray:
        edited = value.copy()
        edited[:, :, -1, 3] = -np.inf
        return edited

    logits = default_model.run_with_hooks(tokens, [(scores, cut)])[0, -1]
    probability = float(np.exp(logits[answer] - logits.max()) / np.exp(logits - logits.max()).sum())
    found = default_lesson_json("00_quick_start", tmp_path)
    assert found["cuts"][3]["answer_probability"] == pytest.approx(probability, abs=1e-4)
