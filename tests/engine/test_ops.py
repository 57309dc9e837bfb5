"""Each operation against its formula in float64, and RoPE against rotation in the complex plane."""

from pathlib import Path

import tinymi
from tests.variants import hugging_face, save_variant
from tinymi.arrays import Array
from tinymi.checkpoint.config_json import read_config
from tinymi.ops import causal_mask, linear, rms, rms_norm, rope, rope_angles, rope_frequencies, silu, softmax

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

few = settings(max_examples=30, deadline=None)
rows = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-50, 50, width=32))


@few
@given(x=rows)
def test_softmax_is_its_formula(x: Array) -> None:
    e = np.exp(x.astype(np.float64))
    y = softmax(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, e / e.sum(axis=-1, keepdims=True), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-5)


def test_softmax_takes_huge_and_masked_numbers() -> None:
    x = np.array([[1e30, 1e30, -np.inf], [-1e30, -np.inf, -np.inf]], np.float32)
    assert softmax(x).tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]


@few
@given(x=rows)
def test_silu_is_its_formula(x: Array) -> None:
    wide = x.astype(np.float64)
    y = silu(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wide / (1 + np.exp(-wide)), rtol=1e-5, atol=1e-37)


def test_silu_far_below_zero_is_zero() -> None:
    assert silu(np.array([-1e4, -100, 0, 1e4], np.float32)).tolist() == [0, 0, 0, 1e4]


@few
@given(x=rows, eps=st.floats(1e-6, 1.0))
def test_rms_norm_is_its_formula(x: Array, eps: float) -> None:
    wide = x.astype(np.float64)
    weight = np.linspace(-1, 2, x.shape[-1], dtype=np.float32)
    scale = np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps)
    assert rms(x, eps).dtype == rms_norm(x, weight, eps).dtype == np.float32
    np.testing.assert_allclose(rms(x, eps), scale, rtol=1e-5)
    np.testing.assert_allclose(rms_norm(x, weight, eps), wide / scale * weight, rtol=1e-4, atol=1e-6)


def test_linear_is_a_sum_of_products() -> None:
    rng = np.random.default_rng(0)
    x, W, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    expected = (x[..., :, None] * W).sum(axis=2)
    np.testing.assert_allclose(linear(x, W), expected, rtol=1e-12)
    np.testing.assert_allclose(linear(x, W, b), expected + b, rtol=1e-12)


def test_causal_mask_lets_each_query_see_itself_and_what_came_before() -> None:
    inf = np.inf
    none = np.zeros(1, int)
    assert causal_mask(none, 0, 3).tolist() == [[[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]]
    assert causal_mask(none, 2, 2).tolist() == [[[0, 0, 0, -inf], [0, 0, 0, 0]]]
    assert causal_mask(none, 0, 1).dtype == np.float32


def test_padding_is_seen_by_itself_only() -> None:
    inf = np.inf
    first, second = causal_mask(np.array([2, 0]), 0, 3)
    assert first.tolist() == [[0, -inf, -inf], [-inf, 0, -inf], [-inf, -inf, 0]]
    assert second.tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
    assert causal_mask(np.array([2]), 3, 1).tolist() == [[[-inf, -inf, 0, 0]]]


def config_of(name: str, folder: Path) -> tinymi.Config:
    return read_config(save_variant(folder, name))


def turned(x: Array, config: tinymi.Config, start: int) -> Array:
    """x [d_head], as it would be at position `start`."""
    return rope(x[None, None, None], *rope_angles(config, np.array([[start]]), np.float64)).reshape(-1)


@pytest.fixture(scope="module", params=["llama-gqa2", "llama3-rope"])
def rope_config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tinymi.Config:
    return config_of(request.param, tmp_path_factory.mktemp("rope"))


@few
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(0, 200), n=st.integers(0, 200), shift=st.integers(1, 200))
def test_rope_depends_on_relative_position_only(
    rope_config: tinymi.Config, seed: int, m: int, n: int, shift: int
) -> None:
    q, k = np.random.default_rng(seed).normal(size=(2, rope_config.d_head))
    here = turned(q, rope_config, m) @ turned(k, rope_config, n)
    there = turned(q, rope_config, m + shift) @ turned(k, rope_config, n + shift)
    bound = float(np.linalg.norm(q) * np.linalg.norm(k))
    assert abs(here - there) <= 1e-4 * bound  # the angles are float32: 400 radians are known to 3e-5


def test_rope_does_depend_on_relative_position(rope_config: tinymi.Config) -> None:
    q, k = np.random.default_rng(0).normal(size=(2, rope_config.d_head))
    products = [turned(q, rope_config, 0) @ turned(k, rope_config, n) for n in range(5)]
    assert min(np.abs(np.diff(products))) > 1e-2
    assert np.array_equal(turned(q, rope_config, 0), q)


def test_rope_is_a_rotation_in_the_complex_plane(rope_config: tinymi.Config) -> None:
    half = rope_config.d_head // 2
    x = np.random.default_rng(0).normal(size=rope_config.d_head)
    angles = 7 * rope_frequencies(rope_config).astype(np.float64)
    expected = (x[:half] + 1j * x[half:]) * np.exp(1j * angles)
    rotated = turned(x, rope_config, 7)
    np.testing.assert_allclose(rotated, np.concatenate([expected.real, expected.imag]), atol=1e-6)


@pytest.mark.parametrize("name", ["llama-gqa2", "llama-eps-base", "llama3-rope"])
def test_rope_frequencies_equal_transformers(name: str, tmp_path: Path) -> None:
    frequencies = rope_frequencies(config_of(name, tmp_path))
    expected = hugging_face(tmp_path).model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)


def test_llama3_scaling_keeps_short_wavelengths_and_stretches_long_ones(tmp_path: Path) -> None:
    config = config_of("llama3-rope", tmp_path)
    plain = config.rope_base ** -(np.arange(0, config.d_head, 2) / config.d_head)
    stretch = plain / rope_frequencies(config)
    assert stretch[0] == pytest.approx(1, rel=1e-6)
    assert stretch[-1] == pytest.approx(8, rel=1e-6)
    assert ((stretch > 1.01) & (stretch < 7.99)).any()
    assert (np.diff(stretch) > -1e-5).all()
