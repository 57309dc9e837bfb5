"""Model: the parts of a run, and the checks of what a run is given."""

from pathlib import Path
from typing import Any

import tinymi
from tests.variants import random_tokens

import numpy as np
import pytest


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -3])
def test_start_at_layer_from_a_cached_residual(tiny: tinymi.Model, layer: int) -> None:
    tokens = random_tokens(2, 9)
    logits, cache = tiny.run_with_cache(tokens)
    assert np.array_equal(tiny(cache["resid_pre", layer], start_at_layer=layer), logits)


def test_start_at_the_end_is_the_unembedding(tiny: tinymi.Model) -> None:
    tokens = random_tokens(2, 9)
    logits, cache = tiny.run_with_cache(tokens)
    assert np.array_equal(tiny(cache["resid_post", -1], start_at_layer=tiny.config.n_layers), logits)


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -3])
def test_stop_at_layer_gives_the_cached_residual(tiny: tinymi.Model, layer: int) -> None:
    tokens = random_tokens(2, 9)
    _, cache = tiny.run_with_cache(tokens)
    assert np.array_equal(tiny(tokens, stop_at_layer=layer), cache["resid_pre", layer])


def test_stop_at_the_end_and_a_middle_part(tiny: tinymi.Model) -> None:
    tokens = random_tokens(2, 9)
    _, cache = tiny.run_with_cache(tokens)
    assert np.array_equal(tiny(tokens, stop_at_layer=3), cache["resid_post", 2])
    middle = tiny(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=2)
    assert np.array_equal(middle, cache["resid_post", 1])
    assert np.array_equal(tiny(cache["resid_pre", 1], start_at_layer=1, stop_at_layer=1), cache["resid_pre", 1])


@pytest.mark.parametrize("positions", [-1, 0, 8, [0, -1, 3], np.array([2, 1]), slice(-3, None), slice(None, None, 2)])
def test_positions_give_the_same_rows(tiny: tinymi.Model, positions: Any) -> None:
    tokens = random_tokens(2, 9)
    rows = positions if isinstance(positions, slice) else np.atleast_1d(positions)
    logits, cache = tiny.run_with_cache(tokens, positions=positions)
    expected = tiny(tokens)[:, rows]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * float(np.ptp(expected)))
    assert cache["unembed.hook_out"].shape == logits.shape
    assert cache["resid_post", -1].shape[1] == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start_at_layer": 4}, "start_at_layer: layer 4"),
        ({"start_at_layer": -4}, "layers 0 to 2"),
        ({"stop_at_layer": 99}, "stop_at_layer: layer 99"),
        ({"stop_at_layer": 1, "positions": -1}, "positions"),
        ({"positions": 9}, "positions: 9"),
        ({"positions": [0, -10]}, "positions: -10"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(tiny: tinymi.Model, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(tinymi.InputError, match=words):
        tiny(random_tokens(1, 9), **arguments)


def test_a_start_after_the_stop_is_refused(tiny: tinymi.Model) -> None:
    with pytest.raises(tinymi.InputError, match="start_at_layer: 2 comes after stop_at_layer 1"):
        tiny(np.zeros((1, 4, 32), np.float32), start_at_layer=2, stop_at_layer=1)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.array([1, 2]), "without the batch axis; write tokens"),
        (np.array([[1.0, 2.0]]), "float64"),
        (np.array([[True, False]]), "bool"),
        (np.zeros((1, 0), np.int64), "no token"),
        (np.zeros((0, 3), np.int64), "no token"),
        (np.array([[1, 300]]), "id 300 is outside the vocabulary, 0 to 299"),
        (np.array([[-2, 3]]), "id -2 is outside the vocabulary"),
        (np.ones((1, 129), np.int64), "129 positions, but the model takes 1 to 128"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tiny: tinymi.Model, tokens: Any, words: str) -> None:
    with pytest.raises(tinymi.InputError, match=words):
        tiny(tokens)


@pytest.mark.parametrize(
    "shape_and_type",
    [((1, 4, 31), np.float32), ((4, 32), np.float32), ((1, 4, 32), np.int64), ((1, 0, 32), np.float32)],
)
def test_a_residual_that_does_not_fit_is_refused(tiny: tinymi.Model, shape_and_type: tuple[Any, Any]) -> None:
    shape, kind = shape_and_type
    with pytest.raises(tinymi.InputError, match="residual stream, floats"):
        tiny(np.zeros(shape, kind), start_at_layer=1)


def test_a_residual_over_n_ctx_is_refused(tiny: tinymi.Model) -> None:
    with pytest.raises(tinymi.InputError, match="129 positions, but the model takes 1 to 128"):
        tiny(np.ones((1, 129, 32), np.float32), start_at_layer=1)


def test_a_list_of_ids_and_every_integer_type_will_do(tiny: tinymi.Model) -> None:
    tokens = random_tokens(1, 5)
    for same in (tokens.tolist(), tokens.astype(np.int32), tokens.astype(np.uint16)):
        assert np.array_equal(tiny(same), tiny(tokens))


def test_one_token_and_a_full_context_run(tiny: tinymi.Model) -> None:
    assert tiny(random_tokens(1, 1)).shape == (1, 1, 300)
    assert np.isfinite(tiny(random_tokens(1, 128))).all()


def test_a_dtype_of_another_kind_is_refused(free_head_folder: Path) -> None:
    with pytest.raises(tinymi.InputError, match=r"float16.*float32 or float64"):
        tinymi.load(free_head_folder, dtype=np.float16)
