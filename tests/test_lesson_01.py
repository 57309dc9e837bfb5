"""Lesson 1: its numbers against the safetensors library and a plain recomputation, its findings with margins."""

from pathlib import Path

from tests.running import default_lesson_json, lesson_json

import numpy as np
import pytest
from safetensors.numpy import load_file

STORED = {
    "W_Q": "self_attn.q_proj",
    "W_K": "self_attn.k_proj",
    "W_V": "self_attn.v_proj",
    "W_O": "self_attn.o_proj",
    "W_gate": "mlp.gate_proj",
    "W_in": "mlp.up_proj",
    "W_out": "mlp.down_proj",
}


def check_against_file(found: dict[str, object], folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    layers = found["layers"]
    assert isinstance(layers, list)
    for row in layers:
        for name, stored in STORED.items():
            tensor = tensors[f"model.layers.{row['layer']}.{stored}.weight"].astype(np.float64)
            assert row[name]["shape"] == list(tensor.shape)
            assert row[name]["frobenius"] == pytest.approx(np.linalg.norm(tensor), rel=1e-5)
    embedding = tensors["model.embed_tokens.weight"].astype(np.float64)
    assert isinstance(found["embedding"], dict)
    assert found["embedding"]["mean"] == pytest.approx(embedding.mean(), abs=1e-9)
    assert found["embedding"]["std"] == pytest.approx(embedding.std(), rel=1e-6)
    assert found["embedding"]["norm"] == pytest.approx(np.linalg.norm(embedding), rel=1e-6)


def test_a_tiny_random_model(tiny_folder: Path, tmp_path: Path) -> None:
    found = lesson_json("01_inspect_weights", tmp_path, "--model", str(tiny_folder))
    check_against_file(found, tiny_folder)
    assert not any(finding["established"] for finding in found["findings"])  # two layers show no trend


def test_the_default_model(default_model_folder: Path, tmp_path: Path) -> None:
    found = default_lesson_json("01_inspect_weights", tmp_path)
    check_against_file(found, default_model_folder)
    assert found["embedding"]["tied"] is True
    rho = {name: entry["rho"] for name, entry in found["depth_correlation"].items()}
    assert rho["W_V"] > 0.9
    assert rho["W_O"] > 0.9
    assert rho["W_Q"] < -0.8
    assert rho["W_K"] < -0.8
    # The finding that surprises: folding the norm's weight in takes the trend of W_K away.
    assert abs(found["depth_correlation"]["W_K"]["as_used_rho"]) < 0.4
    norms = np.array([[row[name]["frobenius"] for name in STORED] for row in found["layers"]])
    order = norms.argsort(axis=0).argsort(axis=0)  # ranks; no ties among floats
    for column, name in enumerate(STORED):
        assert rho[name] == pytest.approx(np.corrcoef(order[:, column], np.arange(30))[0, 1], abs=1e-9)
