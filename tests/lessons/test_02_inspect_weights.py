"""Lesson 2: its numbers from the file and through Hugging Face's own modules; what its deeper file holds up."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal, run_lesson
from tests.variants import hugging_face, save_variant
from tinymi import Model

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

LESSON, DEEPER = "02_inspect_weights", "deeper/02_inspect_weights"
STORED = {
    "W_Q": "self_attn.q_proj",
    "W_K": "self_attn.k_proj",
    "W_V": "self_attn.v_proj",
    "W_O": "self_attn.o_proj",
    "W_gate": "mlp.gate_proj",
    "W_in": "mlp.up_proj",
    "W_out": "mlp.down_proj",
}


def check_against_file(lesson: dict[str, Any], folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, stored in STORED.items():
        for layer, norm in enumerate(lesson["frobenius"][name]):
            tensor = tensors[f"model.layers.{layer}.{stored}.weight"].astype(np.float64)
            assert norm == pytest.approx(np.linalg.norm(tensor), rel=1e-5)
    assert f"model.layers.{lesson['n_layers']}.{STORED['W_Q']}.weight" not in tensors
    embedding = tensors["model.embed_tokens.weight"].astype(np.float64)
    assert lesson["embedding"]["mean"] == pytest.approx(embedding.mean(), abs=1e-9)
    assert lesson["embedding"]["standard deviation"] == pytest.approx(embedding.std(), rel=1e-6)
    assert lesson["embedding"]["norm"] == pytest.approx(np.linalg.norm(embedding), rel=1e-6)
    assert lesson["embedding"]["norm of a row"] == pytest.approx(np.linalg.norm(embedding, axis=1).mean(), rel=1e-5)


def tables(lesson: dict[str, Any], header: str) -> list[list[Any]]:
    """The rows of the table that has a column of this name."""
    (table,) = [item for item in lesson["report"] if item["kind"] == "table" and header in item["headers"]]
    return list(table["rows"])


@pytest.mark.parametrize("prompt", ["abc", "a", "\x1b[31m\u202e \n|"])
def test_a_tiny_random_model(prompt: str, tiny_folder: Path, tmp_path: Path) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), prompt)
    check_against_file(lesson, tiny_folder)
    assert "\x1b" not in lesson["stdout"]


def test_another_family(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "qwen", "qwen2-gqa2")
    assert run_lesson(LESSON, "--model", str(folder)).returncode == 0
    assert "cuts too many words" in refusal(DEEPER, "--model", str(folder))


@pytest.fixture(scope="module")
def lesson(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("02"))


def test_the_default_model(lesson: dict[str, Any], default_model_folder: Path) -> None:
    check_against_file(lesson, default_model_folder)
    assert lesson["n_layers"] == 30
    alone, folded = zip(*(row[1:] for row in tables(lesson, "alone")), strict=True)
    assert alone[1] == pytest.approx(0.60, abs=0.01)
    assert folded[1] == pytest.approx(1.00, abs=0.01)  # the keys do not shrink
    assert folded[2] > 2.5  # the values grow, either way


def test_what_heads_make_of_words(lesson: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    """The same through Hugging Face's modules: embedding, first MLP, v_proj, o_proj of one head, norm and lm_head."""
    reference = hugging_face(default_model_folder).double()
    layers, d_head = reference.model.layers, 64
    rows = tables(lesson, "promotes")
    assert [row[:2] for row in rows][2] == [" France", "23.4"]
    with torch.no_grad():
        for word, name, listed, score, control in rows:
            token = default_model.to_single_token(word)
            x = reference.model.embed_tokens(torch.tensor([[token]]))
            x = x + layers[0].mlp(layers[0].post_attention_layernorm(x))
            best = {}
            for layer, block in enumerate(layers):
                values = block.self_attn.v_proj(block.input_layernorm(x))[0, 0]
                for head in range(9):
                    z = torch.zeros(576, dtype=torch.float64)
                    z[head * d_head : (head + 1) * d_head] = values[head // 3 * d_head : (head // 3 + 1) * d_head]
                    written = block.self_attn.o_proj(z) * reference.model.norm.weight
                    logits = reference.lm_head(written)
                    best[f"{layer}.{head}"] = float((logits[token] - logits.mean()) / logits.std(correction=0))
                    if f"{layer}.{head}" == name:
                        promoted = " ".join(default_model.to_str_tokens(logits.topk(6).indices.numpy()))
            assert max(best, key=lambda head: best[head]) == name
            assert score == pytest.approx(best[name], abs=1e-3)
            assert listed.replace("␣", " ") == promoted
            assert control < 4


def test_the_deeper_file(default_model: Model, tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    rho = {name: row[0] for name, row in deeper["trends"].items()}
    assert min(rho["W_V"], rho["W_O"], rho["W_V, folded"]) > 0.9
    assert max(rho["W_Q"], rho["W_K"]) < -0.8
    assert abs(rho["W_K, folded"]) < 0.4
    assert min(row[3] for row in deeper["trends"].values()) > 0.02  # no trend beats a random walk
    assert deeper["families"]["colours"] == ["29.7", "29.7"]
    assert deeper["families"]["numbers"] == ["26.1", "26.1"]
    assert deeper["capital"][0] == deeper["adjective"][0] == "23.4"
    assert [finding["established"] for finding in deeper["findings"]] == [False, True, True, True, True]
