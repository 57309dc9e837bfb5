"""Lesson 13: its gradients, slopes and removals against torch's autograd through transformers; its deeper file."""

from pathlib import Path
from typing import Any

import tinymi
from tests.engine.torch_gradients import torch_gradients
from tests.lessons.analyses import Writes
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model
from tinymi.arrays import Array, Tokens
from tinymi.ops import rope_angles

import numpy as np
import pytest
import torch

LESSON, DEEPER = "13_backward_pass", "deeper/13_backward_pass"
FRANCE = "The capital of France is"


class Reference:
    """Values, gradients and removals in a transformers model; components write at the last position."""

    def __init__(self, folder: Path, model: Model, tokens: Tokens, answers: tuple[int, int]) -> None:
        self.model, self.tokens, self.answers = hugging_face(folder).requires_grad_(False), tokens, answers
        self.angles = rope_angles(model.config, np.arange(tokens.shape[1])[None])
        self.writes = Writes(self.model)

    def difference(self, removed: str | None = None, dose: float = 0.0) -> float:
        """The logit difference, with one component turned down."""
        self.writes.removed, self.writes.dose = removed, dose
        with torch.no_grad():
            logits = self.model(torch.from_numpy(self.tokens)).logits[0, -1].double()
        self.writes.removed = None
        return float(logits[self.answers[0]] - logits[self.answers[1]])

    def gradients(self) -> dict[str, Array]:
        def metric(logits: Array) -> Array:
            d_logits = np.zeros_like(logits)
            d_logits[:, -1, self.answers] = 1, -1
            return d_logits

        return dict(torch_gradients(self.model, self.tokens, metric, angles=self.angles)[1])

    def check(self, lesson: dict[str, Any]) -> None:
        grads, whole, layer = self.gradients(), self.difference(), lesson["layer"]
        expected = grads[f"blocks.{layer}.hook_resid_mid"][0]
        assert np.array(lesson["d_resid_mid"]) == pytest.approx(expected, abs=1e-4 * float(abs(expected).max()))
        expected = grads[f"blocks.{layer}.attn.hook_attn_scores"][0, lesson["head"], -1]
        assert lesson["d_scores"] == pytest.approx(expected, abs=1e-4 * float(abs(expected).max()))
        slopes, effects = np.array(lesson["slope"][1:]), lesson["effect"]
        names = [name for name in grads if name.endswith(("attn_out", "mlp_out"))]
        expected_slopes = [self.writes.values[name].numpy() @ grads[name][0, -1] for name in names]
        assert slopes == pytest.approx(expected_slopes, abs=1e-4 * float(abs(slopes).max()))
        for i in (0, 1, len(names) // 2, len(names) - 1):
            assert effects[i] == pytest.approx(whole - self.difference(names[i]), abs=1e-4 * max(map(abs, effects)))
        worst = names[int(np.argmax(abs(np.array(effects) - slopes)))]
        curve = [self.difference(worst, dose) for dose in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        assert lesson["curves"]["the model"] == pytest.approx(curve, abs=1e-3 * max(map(abs, curve)))


@pytest.mark.parametrize("family", ["llama-free-head", "llama-biases", "qwen2-gqa2", "qwen3-tied-mha"])
def test_any_model(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    options = ["--prompt", "abcabc", "--answer", "a", "--wrong", "z"]
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), *options)
    model = tinymi.load(folder)
    answers = (model.to_single_token("a"), model.to_single_token("z"))
    Reference(folder, model, model.to_tokens("abcabc"), answers).check(lesson)


@pytest.mark.parametrize("options", [["--prompt", "a"], ["--wrong", "x"]], ids=["one token", "the same answer"])
def test_wrong_options_are_one_line_and_status_2(options: list[str], tiny_folder: Path) -> None:
    assert "two tokens or more" in refusal(
        LESSON, "--model", str(tiny_folder), "--answer", "x", "--wrong", "y", *options
    )


def test_a_model_without_these_facts_is_told_so(tiny_folder: Path) -> None:
    assert "facts: the model answers none" in refusal(DEEPER, "--model", str(tiny_folder))


@pytest.fixture(scope="module")
def france(default_model: Model, default_model_folder: Path) -> Reference:
    answers = (default_model.to_single_token(" Paris"), default_model.to_single_token(" Rome"))
    return Reference(default_model_folder, default_model, default_model.to_tokens(FRANCE), answers)


def test_the_lesson_is_autograds(france: Reference, tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    france.check(lesson)
    assert (lesson["layer"], lesson["head"]) == (23, 4)
    effects, slopes = lesson["effect"], lesson["slope"][1:]
    assert effects[1] > 10 > 1 > abs(slopes[1])  # MLP 0
    assert abs(sum(lesson["slope"])) < 0.01
    assert lesson["curves"]["patterns held"][0] > 6.5 > 0 > lesson["curves"]["the model"][0]
    gradient, moves = lesson["scores"]["gradient expects"], lesson["scores"]["moves"]
    slope = france.gradients()["blocks.23.attn.hook_attn_scores"][0, 4, -1, 3]
    assert gradient == pytest.approx([slope * step for step in (-4, -2, 2, 4)], rel=1e-3)
    assert abs(moves[0]) > 2 * abs(gradient[0])  # down from the plateau
    assert abs(moves[3]) < abs(gradient[3]) / 2  # and up, where there is nowhere to go


def test_the_deeper_file(default_model: Model, default_model_folder: Path, tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    assert all(finding["established"] for finding in deeper["findings"])
    assert len(deeper["facts"]) >= 9
    assert sum(deeper["worth"][0]) == pytest.approx(deeper["difference"], rel=1e-4)
    for fact in (0, -1):
        tokens, answers = default_model.to_tokens(deeper["facts"][fact]), tuple(deeper["answers"][fact])
        reference = Reference(default_model_folder, default_model, tokens, answers)
        grads, whole = reference.gradients(), reference.difference()
        names = [name for name in grads if name.endswith(("attn_out", "mlp_out"))]
        slopes = [reference.writes.values[name].numpy() @ grads[name][0, -1] for name in names]
        assert deeper["slopes"][fact][0] == pytest.approx(slopes, abs=1e-3)
        for i in (0, 3, 46, 59):
            expected = whole - reference.difference(names[i])
            assert deeper["effects"][fact][0][i] == pytest.approx(expected, abs=2e-3)
