"""Lesson 9 on the default model, recomputed with transformers, and on tiny models."""

from pathlib import Path
from typing import Any

import tinymi
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

NAME = "09_neuron_activations"
LAYER, NEURON = 27, 334


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(NAME, tmp_path_factory.mktemp("neurons"))


def test_the_neuron_and_its_removal(
    lesson: dict[str, Any], default_model_folder: Path, default_model: tinymi.Model
) -> None:
    peer = hugging_face(default_model_folder)
    tokens = torch.from_numpy(default_model.to_tokens("I know that she didn"))
    seen = []

    def take_out(module: Any, args: Any) -> Any:
        seen.append(args[0][0, :, NEURON].numpy().copy())
        without = args[0].clone()
        without[..., NEURON] = 0
        return (without,)

    with torch.no_grad():
        before = peer(tokens).logits[0, -1].softmax(dim=-1).numpy()
        peer.model.layers[LAYER].mlp.down_proj.register_forward_pre_hook(take_out)
        after = peer(tokens).logits[0, -1].softmax(dim=-1).numpy()
    np.testing.assert_allclose(lesson["activation"], seen[0], rtol=1e-3, atol=1e-3)
    columns = next(item for item in lesson["report"] if item["kind"] == "table")["rows"]
    for token, row in zip(lesson["promoted"], columns, strict=True):
        assert row[2:] == pytest.approx([before[token], after[token]], rel=1e-3, abs=1e-6)
    assert after[lesson["promoted"][0]] < 0.5 * before[lesson["promoted"][0]]


def test_every_layer_has_five_neurons_and_a_guess_for_each(lesson: dict[str, Any]) -> None:
    assert [guess["layer"] for guess in lesson["hypotheses"]] == [layer for layer in range(30) for _ in range(5)]
    assert len({(guess["layer"], guess["neuron"]) for guess in lesson["hypotheses"]}) == 150
    assert {guess["hypothesis"].split(" (")[0] for guess in lesson["hypotheses"]} > {"code", "poetry"}


@pytest.mark.parametrize("name", ["llama-gqa3", "qwen3-free-head"])
def test_other_models(name: str, tmp_path: Path) -> None:
    lesson_json(
        NAME, tmp_path, "--model", str(save_variant(tmp_path / "model", name, max_position_embeddings=256)), "x"
    )


@pytest.mark.parametrize("lesson", [NAME, f"deeper/{NAME}"])
def test_an_mlp_with_biases_is_refused(lesson: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", "llama-biases")
    assert "its MLP adds biases" in refusal(lesson, "--model", str(folder))


def test_the_deeper_lesson(default_model_folder: Path, default_model: tinymi.Model, tmp_path: Path) -> None:
    """Its massive activation with transformers; random directions pass its rule as often as random neurons."""
    lesson = default_lesson_json(f"deeper/{NAME}", tmp_path)
    peer, seen = hugging_face(default_model_folder), []
    module = peer.model.layers[lesson["sink"]].mlp.down_proj
    module.register_forward_pre_hook(lambda module, args: seen.append(float(args[0][0, 0].abs().max())))
    for _, text in prompts("five_kinds")[:3]:
        with torch.no_grad():
            peer(torch.from_numpy(default_model.to_tokens(text.encode().decode("unicode_escape"))))
    assert lesson["at_start"][:3] == pytest.approx(seen, rel=1e-3)
    most_active, neurons, directions = lesson["survivors"]
    assert most_active > max(lesson["shifted"][0])
    assert directions >= neurons
