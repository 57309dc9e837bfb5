"""Lesson 10: its directions, odds and losses against Hugging Face, its findings with margins."""

from pathlib import Path
from typing import Any

from tests.analyses import kl_bits
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "10_steering_dose_response"


class Steered:
    """A transformers model whose layers can have a vector added."""

    def __init__(self, folder: Path, model: Model, found: dict[str, Any]) -> None:
        self.reference, self.model, self.found = hugging_face(folder), model, found

    def streams(self, prompt: str) -> Any:
        """After each layer but the last: [layer, pos, d_model]; the last one of hidden_states is normed."""
        with torch.no_grad():
            out = self.reference(torch.from_numpy(self.model.to_tokens(prompt)), output_hidden_states=True)
        return torch.stack(out.hidden_states[1:-1])[:, 0]

    def direction(self, layer: int) -> Any:
        ends = {
            name: torch.stack([self.streams(prompt)[layer, -1] for prompt in self.found["prompts"][name]]).mean(dim=0)
            for name in ("praise", "blame")
        }
        difference = ends["praise"] - ends["blame"]
        return difference / difference.norm()

    def norm(self, layer: int) -> float:
        rows = [self.streams(prompt)[layer, 1:].norm(dim=-1) for prompt in self.found["prompts"]["neutral"]]
        return float(torch.cat(rows).mean())

    def log_p(self, tokens: Any, layer: int, vector: Any) -> Any:
        def add(module: Any, args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            value[:, 1:] += vector
            return (value, *output[1:]) if isinstance(output, tuple) else value

        handle = self.reference.model.layers[layer].register_forward_hook(add)
        with torch.no_grad():
            logits = self.reference(tokens).logits[0].double()
        handle.remove()
        return torch.log_softmax(logits, dim=-1)

    def odds(self, log_p: Any) -> float:
        sums = [
            float(log_p[[self.model.to_single_token(word) for word in self.found["words"][kind]]].exp().sum())
            for kind in ("good", "bad")
        ]
        return float(np.log2(sums[0]) - np.log2(sums[1]))


def check_cells(steered: Steered, layers: list[int], n_prompts: int) -> None:
    found = steered.found
    for layer in layers:
        direction, norm = steered.direction(layer), steered.norm(layer)
        assert found["direction"][layer]["residual_norm"] == pytest.approx(norm, rel=1e-4)
        for i, prompt in enumerate(found["prompts"]["neutral"][:n_prompts]):
            tokens = torch.from_numpy(steered.model.to_tokens(prompt))
            clean = steered.log_p(tokens, layer, 0 * direction)[-1]
            for d, dose in enumerate(found["doses"]):
                log_p = steered.log_p(tokens, layer, dose * norm * direction)[-1]
                change = steered.odds(log_p) - steered.odds(clean)
                assert found["odds_change"][layer][d][i] == pytest.approx(change, abs=5e-3)
                assert found["kl"][layer][d][i] == pytest.approx(kl_bits(clean, log_p), abs=5e-3)


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--tokens", "4", "--layer", "0")
    assert found["layer"] == 0
    check_cells(Steered(tiny_folder, tiny_model, found), [0], 3)
    assert [len(row["token_ids"]) for row in found["continuations"]] == [4] * 9


@pytest.mark.parametrize("options", [["--layer", "2"], ["--tokens", "0"], ["--prompt", ""]])
def test_wrong_options_are_one_line_and_status_2(options: list[str], tiny_folder: Path) -> None:
    refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("10"))


def test_the_doses_are_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    check_cells(Steered(default_model_folder, default_model, found), [12, 19], 2)


def test_the_losses_are_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    reference = hugging_face(default_model_folder)
    prompt = torch.from_numpy(default_model.to_tokens("Yesterday we watched a new film. It was"))
    for row in found["continuations"]:
        written = torch.tensor([row["token_ids"]])
        with torch.no_grad():
            logits = reference(torch.cat([prompt, written], dim=1)).logits[0, prompt.shape[1] - 1 : -1].double()
        loss = torch.nn.functional.cross_entropy(logits, written[0]) / np.log(2)
        assert row["loss"] == pytest.approx(float(loss), abs=1e-3)


def test_findings(found: dict[str, Any]) -> None:
    answer = np.array(found["odds_change"]).mean(axis=-1)  # [layer, dose]
    half = [found["doses"].index(dose) for dose in (-0.5, 0.5)]
    swing = answer[:, half[1]] - answer[:, half[0]]
    assert found["layer"] == 19
    assert swing[19] > 8
    assert swing[26] > 25  # late: almost straight into the logits
    random = {row["layer"]: np.array(row["odds_change"]).mean(axis=-1) for row in found["random"]}
    assert np.abs(random[19][:, 1] - random[19][:, 0]).max() < 5
    losses = {row["dose"]: row["loss"] for row in found["continuations"]}
    assert (losses[-1.0] + losses[1.0]) / 2 > 2 * losses[0.0] * 0.95
    written = {row["dose"]: row["text"] for row in found["continuations"]}
    assert "disaster" in written[-0.25]
    assert "disaster" not in written[0.0]
    steers, orders, _ = found["findings"]
    assert steers["established"]
    assert not orders["established"]  # beyond a quarter of the norm the response turns back
