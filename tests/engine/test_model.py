"""The forward pass against transformers, and what must hold for every input."""

import dataclasses
from pathlib import Path
from typing import Any

import tinymi
from tests.variants import (
    VARIANTS,
    Reference,
    edit_json,
    error,
    hugging_face,
    random_tokens,
    reference,
    save_variant,
)
from tinymi.arrays import Tokens
from tinymi.checkpoint.config_json import read_config

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = (
    "A transformer reads a text as a row of tokens. Each token becomes a vector, and every layer adds to it what "
    "its heads gather from earlier tokens and what its neurons make of that. At the end the vector at the last "
    "position is compared with the direction of every word in the vocabulary, and the closest one is the guess. "
) * 4
PROMPTS = ("The capital of France is", "When Mary and John went to the store, John gave a drink to", LONG)


def assert_equal_runs(model: tinymi.Model, tokens: Tokens, expected: Reference, tolerance: float) -> None:
    logits, cache = model.run_with_cache(tokens)
    assert error(logits, expected.logits) <= tolerance
    assert len(expected.resid_pre) == len(expected.patterns) == model.config.n_layers
    for layer, (resid_pre, pattern) in enumerate(zip(expected.resid_pre, expected.patterns)):
        assert error(cache["resid_pre", layer], resid_pre) <= tolerance
        assert error(cache["pattern", layer], pattern) <= tolerance
    assert error(cache["resid_post", -1], expected.resid_post) <= tolerance


@pytest.fixture(scope="module")
def default_reference(default_model_folder: Path) -> Any:
    return hugging_face(default_model_folder)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "names", "long"])
def test_default_model_equals_transformers(default_model: tinymi.Model, default_reference: Any, prompt: str) -> None:
    tokens = default_model.to_tokens(prompt)
    assert tokens.shape[1] > 200 or prompt is not LONG
    assert_equal_runs(default_model, tokens, reference(default_reference, tokens), 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_equals_transformers(name: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path, name)
    tokens = random_tokens(2, 100)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-6)):
        expected = reference(hugging_face(folder, getattr(torch, dtype.__name__)), tokens)
        model = tinymi.load(folder, dtype=dtype)
        assert model(tokens).dtype == dtype
        assert_equal_runs(model, tokens, expected, tolerance)


def test_variants_are_what_they_say(tmp_path: Path) -> None:
    sharded = save_variant(tmp_path / "sharded", "llama-sharded")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    free = tinymi.load(save_variant(tmp_path / "free", "qwen3-free-head")).config
    assert free.d_head * free.n_heads != free.d_model
    biased = tinymi.load(save_variant(tmp_path / "biased", "qwen2-gqa2")).weights.blocks[0].b_Q
    assert biased is not None
    assert np.abs(biased).min() > 0


# What each field of the config adds to the formulas. Were it ignored, the comparison above would fail: by how much?
IGNORED: dict[str, dict[str, Any]] = {
    "llama3-rope": {"rope_scaling": None},
    "llama-eps-base": {"rms_eps": 1e-6},
    "llama-gqa2": {"rope_base": 500.0},
}


@pytest.mark.parametrize("name", IGNORED)
def test_comparison_notices_an_ignored_field(name: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path, name)
    tokens = random_tokens(2, 100)
    model = tinymi.load(folder)
    wrong = tinymi.Model(dataclasses.replace(model.config, **IGNORED[name]), model.weights)
    expected = reference(hugging_face(folder), tokens).logits
    assert error(model(tokens), expected) <= 1e-5
    assert error(wrong(tokens), expected) > 1e-2


@pytest.mark.parametrize(
    ("name", "absent"),
    [("qwen2-gqa2", ["b_Q", "b_K", "b_V"]), ("qwen2-gqa2", ["b_K"]), ("qwen3-free-head", ["q_norm", "k_norm"])],
)
def test_comparison_notices_absent_weights(name: str, absent: list[str], tmp_path: Path) -> None:
    model = tinymi.load(save_variant(tmp_path, name))
    tokens = random_tokens(2, 20)
    nothing: dict[str, Any] = dict.fromkeys(absent)
    blocks = tuple(dataclasses.replace(w, **nothing) for w in model.weights.blocks)
    assert isinstance(model.weights, tinymi.Weights)
    wrong = tinymi.Model(model.config, dataclasses.replace(model.weights, blocks=blocks))
    assert error(wrong(tokens), model(tokens)) > 1e-2


@pytest.mark.parametrize("name", ["llama3-rope", "llama-eps-base"])
def test_both_styles_of_rope_fields(name: str, tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters; 4 wrote rope_theta and rope_scaling beside each other."""
    folder = save_variant(tmp_path, name)
    newer = read_config(folder)

    def older_style(config: dict[str, Any]) -> None:
        fields = config.pop("rope_parameters")
        config["rope_theta"] = fields.pop("rope_theta")
        config["rope_scaling"] = fields if fields.get("rope_type") == "llama3" else None

    edit_json(folder / "config.json", older_style)
    assert read_config(folder) == newer
    tokens = random_tokens(1, 100)
    assert_equal_runs(tinymi.load(folder), tokens, reference(hugging_face(folder), tokens), 1e-5)


few = settings(max_examples=15, deadline=None)


@few
@given(seed=st.integers(0, 2**32 - 1), n_pos=st.integers(2, 24), data=st.data())
def test_no_position_sees_a_later_one(tiny: tinymi.Model, seed: int, n_pos: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, n_pos - 1))
    first, second = random_tokens(2, n_pos, seed)
    second[:cut] = first[:cut]
    second[cut] = (first[cut] + 1) % 300
    one, other = tiny(first[None]), tiny(second[None])
    assert np.array_equal(one[:, :cut], other[:, :cut])
    assert error(one[:, cut:], other[:, cut:]) > 1e-3


@few
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(2, 5), n_pos=st.integers(1, 12))
def test_rows_of_a_batch_are_independent(tiny: tinymi.Model, seed: int, batch: int, n_pos: int) -> None:
    tokens = random_tokens(batch, n_pos, seed)
    together = tiny(tokens)
    alone = np.concatenate([tiny(row[None]) for row in tokens])
    assert error(together, alone) <= 1e-5
