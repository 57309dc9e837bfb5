"""Prompts of unequal length in one batch: each gets what it gets alone, at every hook point."""

from pathlib import Path

import tinymi
from tests.variants import VARIANTS, hugging_face, save_variant
from tinymi import KeyValueCache, Model, logit_difference
from tinymi.errors import InputError
from tinymi.hooks import hook_points

import numpy as np
import pytest
import torch

LENGTHS = (9, 1, 4)
RNG = np.random.default_rng(5)
ROWS = [RNG.integers(0, 200, length) for length in LENGTHS]
PADDED = np.array([[-1] * (max(LENGTHS) - len(row)) + row.tolist() for row in ROWS])


def of_prompt(value: tinymi.arrays.Array, axes: tuple[str, ...], row: int) -> tinymi.arrays.Array:
    """One prompt's part of a value: its row, and of every axis of positions what is not padding."""
    start = max(LENGTHS) - LENGTHS[row]
    return value[tuple([row] + [slice(start, None) if axis.endswith("pos") else slice(None) for axis in axes[1:]])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_and_gradient_is_that_of_the_prompt_alone(variant: str, tmp_path: Path) -> None:
    model = tinymi.load(save_variant(tmp_path, variant), dtype=np.float64)

    def run(tokens: tinymi.arrays.Tokens) -> tuple[tinymi.ActivationCache, tinymi.ActivationCache]:
        return model.run_with_gradients(tokens, lambda logits: logit_difference(logits, 7, 9)[1])[1:]

    points = hook_points(range(model.config.n_layers))
    together = run(PADDED)
    for row, tokens in enumerate(ROWS):
        for batch, alone in zip(together, run(tokens[None])):
            assert list(batch) == list(alone)
            for name, value in alone.items():
                expected = value[0]
                got = of_prompt(batch[name], points[name].point.axes, row)
                assert got.shape == expected.shape, name
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11, err_msg=name)


def test_float32_equals_hugging_face_with_its_mask(tmp_path: Path) -> None:
    folder = save_variant(tmp_path, "qwen3-free-head")
    mask = torch.from_numpy(PADDED >= 0).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        peer = hugging_face(folder)(
            torch.from_numpy(PADDED).clamp(min=0), attention_mask=mask, position_ids=positions
        ).logits.numpy()
    logits = tinymi.load(folder)(PADDED)
    real = PADDED >= 0
    np.testing.assert_allclose(logits[real], peer[real], atol=2e-5 * np.ptp(peer))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_generation_goes_on_as_each_prompt_alone(use_past_kv_cache: bool, tmp_path: Path) -> None:
    model = tinymi.load(save_variant(tmp_path, "llama3-rope"))
    together = model.generate(PADDED, 12, use_past_kv_cache=use_past_kv_cache, stop_at_end=False)
    for row, tokens in enumerate(ROWS):
        alone = model.generate(tokens[None], 12, stop_at_end=False)[0]
        assert together[row, -len(alone) :].tolist() == alone.tolist()


def test_several_endings_of_padded_beginnings(tiny: Model) -> None:
    past = KeyValueCache(3, 11, tiny.config)
    tiny(PADDED, past_kv_cache=past)
    endings = RNG.integers(0, 200, (6, 2))
    logits = tiny(endings, past_kv_cache=past.repeat(2))
    for row, ending in enumerate(endings):
        whole = np.hstack([ROWS[row // 2], ending])
        np.testing.assert_allclose(logits[row], tiny(whole[None])[0, -2:], atol=1e-5)


def test_texts_of_different_lengths(default_model: Model) -> None:
    prompts = ["The capital of France is", "Paris", "Once upon a time there was a"]
    tokens = default_model.to_tokens(prompts, padding=True)
    logits = default_model(tokens)
    for row, prompt in enumerate(prompts):
        alone = default_model(prompt)[0]
        np.testing.assert_allclose(logits[row, -len(alone) :], alone, atol=2e-5 * np.ptp(alone))
        assert default_model.to_string(tokens[row]) == prompt
    assert default_model.to_str_tokens(tokens[1]) == ["<padding>"] * (tokens.shape[1] - 1) + ["Paris"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[5, -1]], "padding .-1. after a token"),
        ([[-1, 5, -1, 5]], "padding .-1. after a token"),
        ([[-1, -1]], "padding .-1. after a token"),
        ([[-2, 5]], "id -2 is outside the vocabulary"),
    ],
)
def test_padding_elsewhere_is_refused(tokens: list[list[int]], message: str, tiny: Model) -> None:
    with pytest.raises(InputError, match=message):
        tiny(tokens)


def test_padding_after_earlier_positions_is_refused(tiny: Model) -> None:
    past = KeyValueCache(3, 20, tiny.config)
    tiny(PADDED, past_kv_cache=past)
    with pytest.raises(InputError, match="after the positions of past_kv_cache"):
        tiny(PADDED, past_kv_cache=past)
