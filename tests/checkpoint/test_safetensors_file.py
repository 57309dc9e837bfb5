"""Weights: what is mapped, what is converted, and what does not fit. Broken files: test_bad_input.py."""

import mmap
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Literal

import tinymi
from tests.engine import mutations
from tests.variants import hugging_face, save_variant
from tinymi.arrays import Array
from tinymi.checkpoint.safetensors_file import open_file, write_file

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

WEIGHTS: tuple[Literal["loaded", "mapped"], ...] = ("loaded", "mapped")
MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out")


def origin(x: Array) -> object:
    """What the memory of an array belongs to in the end."""
    base: Any = x
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base


def weights_of(model: tinymi.Model) -> dict[str, Array]:
    """Every weight by name: W_E, ..., and blocks.0.W_Q, ..."""
    found = {name: getattr(model.weights, name) for name in ("W_E", "ln_final", "W_U")}
    for layer, w in enumerate(model.weights.blocks):
        found |= {f"blocks.{layer}.{name}": value for name, value in vars(w).items() if isinstance(value, np.ndarray)}
    return found


def test_the_library_reads_the_same_files(tmp_path: Path) -> None:
    """Broken headers by the thousand: each is read by both, or by neither."""
    path, random, verdicts = tmp_path / "model.safetensors", Random(0), Counter[tuple[bool, bool | None]]()
    shapes = {"a": ((3, 4), np.float32), "b": ((2,), np.int8), "c": ((0, 3), np.float16), "d": ((2, 2), np.float64)}
    save_file({name: np.ones(*shape) for name, shape in shapes.items()}, path, metadata={"format": "pt"})
    good = path.read_bytes()
    for number in range(1500):
        path.write_bytes((mutations.safetensors if number % 3 else mutations.some_bytes)(good, random))
        verdicts[library_reads(path), we_read(path)] += 1
    assert min(verdicts[True, True], verdicts[False, False]) > 80, verdicts
    assert not verdicts[True, False] + verdicts[False, True], verdicts
    assert verdicts[True, None] + verdicts[False, None] < 20, verdicts


def library_reads(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return True
    except SafetensorError:
        return False


def we_read(path: Path) -> bool | None:
    """None for a name that is there twice, which we refuse. The library takes the last entry."""
    try:
        open_file(path)
    except tinymi.WeightsError as error:
        return None if "twice" in str(error) else False
    return True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_what_the_library_reads(dtype: type, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    a: Array = np.arange(12, dtype=dtype).reshape(3, 4)
    tensors = {"a": a, "é": np.ones((2, 0), dtype), "c": np.ones((), dtype)}
    pieces = [a.copy(order="F")[:1], a[1:], tensors["é"], tensors["c"]]
    write_file(path, {name: values.shape for name, values in tensors.items()}, pieces, dtype)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == dtype and np.array_equal(found[name], tensors[name]) for name in tensors)


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    save_variant(tmp_path, "llama-sharded")
    both = {name: value * 2 for file in tmp_path.glob("*.safetensors") for name, value in load_file(file).items()}
    save_file(both, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = hugging_face(tmp_path).model.norm.weight.detach().numpy()
    assert np.array_equal(tinymi.load(tmp_path).weights.ln_final, expected)
    assert np.array_equal(expected, both["model.norm.weight"])


@pytest.mark.parametrize("name", ["llama-free-head", "qwen2-gqa2", "qwen3-free-head", "llama-sharded", "llama-tied"])
def test_float32_is_a_view_of_the_file(name: str, tmp_path: Path) -> None:
    weights = weights_of(tinymi.load(save_variant(tmp_path, name)))
    for value in weights.values():
        assert isinstance(origin(value), mmap.mmap)
        assert not value.flags.writeable


@pytest.mark.parametrize("name", ["llama-bf16", "llama-f16"])
def test_half_precision_is_widened_exactly(name: str, tmp_path: Path) -> None:
    model = tinymi.load(save_variant(tmp_path, name))
    stored = {key: value.numpy() for key, value in hugging_face(tmp_path).state_dict().items()}
    assert {value.dtype for value in weights_of(model).values()} == {np.dtype(np.float32)}
    assert np.array_equal(model.weights.W_E, stored["model.embed_tokens.weight"])
    assert np.array_equal(model.weights.W_U.T, stored["lm_head.weight"])
    assert np.array_equal(model.weights.blocks[1].W_out.T, stored["model.layers.1.mlp.down_proj.weight"])


def test_weights_are_those_that_transformers_names(tmp_path: Path) -> None:
    w = tinymi.load(save_variant(tmp_path, "qwen3-free-head")).weights.blocks[2]
    layer = hugging_face(tmp_path).model.layers[2]
    modules = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.self_attn.o_proj]
    modules += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    for name, module in zip(MATRICES, modules, strict=True):
        assert np.array_equal(getattr(w, name), module.weight.detach().numpy().T)
    assert w.q_norm is not None
    assert np.array_equal(w.q_norm, layer.self_attn.q_norm.weight.detach().numpy())


@pytest.mark.parametrize("name", ["llama-bf16", "llama-tied", "qwen2-bf16-sharded", "qwen3-free-head"])
def test_mapped_weights_are_the_same_weights(name: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path, name)
    loaded, mapped = tinymi.load(folder), tinymi.load(folder, weights="mapped")
    found = weights_of(mapped)
    assert found.keys() == weights_of(loaded).keys()
    for key, value in weights_of(loaded).items():
        assert np.array_equal(found[key], value)
        assert not found[key].flags.writeable
    tokens = np.arange(12).reshape(2, 6)
    assert np.array_equal(mapped(tokens), loaded(tokens))
    with pytest.raises(IndexError):
        mapped.weights.blocks[len(loaded.weights.blocks)]
    assert len(mapped.weights.blocks[1:]) == len(loaded.weights.blocks) - 1


def test_mapped_weights_are_kept_nowhere(tmp_path: Path) -> None:
    weights = tinymi.load(save_variant(tmp_path, "llama-bf16"), weights="mapped").weights
    assert not np.shares_memory(weights.W_E, weights.W_E)
    assert not np.shares_memory(weights.blocks[0].W_in, weights.blocks[0].W_in)


def test_an_unknown_kind_of_weights_is_refused(free_head_folder: Path) -> None:
    with pytest.raises(tinymi.InputError, match=r"'lazy'.*'loaded' or 'mapped'"):
        tinymi.load(free_head_folder, weights="lazy")  # type: ignore[arg-type]


def test_tied_unembedding_is_the_embedding(tmp_path: Path) -> None:
    weights = tinymi.load(save_variant(tmp_path, "llama-tied")).weights
    assert np.shares_memory(weights.W_E, weights.W_U)
    assert np.array_equal(weights.W_E.T, weights.W_U)


def test_heads_are_views_and_slices_of_the_whole(tiny: tinymi.Model) -> None:
    w, config = tiny.weights.blocks[0], tiny.config
    heads, d_head = w.heads, config.d_head
    assert heads.W_Q.shape == (config.n_heads, config.d_model, d_head)
    assert heads.W_K.shape == heads.W_V.shape == (config.n_kv_heads, config.d_model, d_head)
    assert heads.W_O.shape == (config.n_heads, d_head, config.d_model)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert np.shares_memory(getattr(heads, name), getattr(w, name))
    for head in range(config.n_heads):
        part = slice(head * d_head, (head + 1) * d_head)
        assert np.array_equal(heads.W_Q[head], w.W_Q[:, part])
        assert np.array_equal(heads.W_O[head], w.W_O[part])


def test_float64_is_a_converted_copy(free_head_folder: Path, tiny: tinymi.Model) -> None:
    wide = weights_of(tinymi.load(free_head_folder, dtype=np.float64))
    for name, value in weights_of(tiny).items():
        assert wide[name].dtype == np.float64
        assert not wide[name].flags.writeable
        assert np.array_equal(wide[name], value)


@pytest.mark.parametrize("name", ["llama-free-head", "qwen2-gqa2", "qwen3-free-head"])
def test_every_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    path = save_variant(tmp_path, name) / "model.safetensors"
    tensors = load_file(path)
    assert len(tensors) >= 3 * 9 + 3
    for absent in tensors:
        save_file({key: value for key, value in tensors.items() if key != absent}, path)
        for weights in WEIGHTS:
            with pytest.raises(tinymi.WeightsError, match=f"^tensor {absent}: missing; expected one of shape"):
                tinymi.load(tmp_path, weights=weights)


@pytest.mark.parametrize("name", ["llama-free-head", "qwen2-gqa2", "qwen3-free-head"])
def test_every_wrong_shape_is_named(name: str, tmp_path: Path) -> None:
    path = save_variant(tmp_path, name) / "model.safetensors"
    tensors = load_file(path)
    for wrong, value in tensors.items():
        save_file(tensors | {wrong: np.ascontiguousarray(value[:-1])}, path)
        found = [value.shape[0] - 1, *value.shape[1:]]
        with pytest.raises(tinymi.WeightsError) as caught:
            tinymi.load(tmp_path)
        words = str(caught.value)
        assert words.startswith(f"tensor {wrong}: has shape {found}, but the config asks for {list(value.shape)}")
