"""A model's weights in its checkpoint folder, checked and under our names.

Files in BF16 or F16 are converted: once (`MappedWeights.loaded`), or again at each use, for a model that does not fit
into memory in float32.
"""

import dataclasses
import difflib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from tinymi.arrays import Array
from tinymi.checkpoint.safetensors_file import DTYPES, StoredTensor, as_float, open_folder
from tinymi.config import Config
from tinymi.errors import WeightsError, WeightsWarning
from tinymi.machine import memory
from tinymi.weights import BlockWeights, Weights

import numpy as np
import numpy.typing as npt

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FIRST = "layers.0.input_layernorm.weight"  # what comes before it in a file comes before every name
_NUMBERS_AT_ONCE = 1 << 22


def map_weights(folder: Path, config: Config, dtype: npt.DTypeLike = np.float32) -> "MappedWeights":
    """The tensors of a checkpoint folder. Presence and shape of each are checked now.

    dtype: the type to compute in, float32 or float64. Where the config ties the unembedding to the embedding but the
    file has one of its own, the config of the result says so. Raises WeightsError for a tensor that does not fit.
    """
    stored, config = _untied(_renamed(open_folder(folder), config), config)
    for name, shape in tensor_shapes(config):
        _check(stored, name, shape)
    return MappedWeights(folder, config, np.dtype(dtype), stored)


@dataclass(frozen=True)
class MappedWeights:
    """A whole model under the same names, of which nothing is kept: each use of a tensor converts it anew.

    A run then needs memory for one block at a time and for the embedding, and reads the whole file each time. Each use
    warns (WeightsWarning) of NaN and infinite numbers.
    """

    folder: Path
    config: Config
    dtype: np.dtype[Any]
    stored: Mapping[str, StoredTensor]

    def loaded(self) -> Weights:
        """All of them: views of the file where it holds the type to compute in, otherwise converted once.

        Raises MemoryShortageError when converted ones would not fit into memory.
        """
        memory.require(
            f"{self.folder}: to convert its weights to {self.dtype}",
            self._bytes_to_convert(),
            'leave them in their file with weights="mapped" (--weights mapped in a lesson), which is slower, load a '
            "smaller model",
        )
        W_E = self.W_E
        return Weights(W_E, tuple(self.blocks), self.ln_final, W_E.T if self.config.tied_embeddings else self.W_U)

    def _bytes_to_convert(self) -> int:
        shapes = [shape for name, shape in tensor_shapes(self.config) if not self._is_in_place(name)]
        return sum(map(math.prod, shapes)) * self.dtype.itemsize

    @property
    def W_E(self) -> Array:
        return self._read(EMBED)

    @property
    def blocks(self) -> Sequence[BlockWeights]:
        return _MappedBlocks(self._read, self.config)

    @property
    def ln_final(self) -> Array:
        return self._read("model.norm.weight")

    @property
    def W_U(self) -> Array:
        return self._read(EMBED if self.config.tied_embeddings else HEAD).T

    def _is_in_place(self, name: str) -> bool:
        stored = self.stored[name]
        return stored.dtype == {4: "F32", 8: "F64"}[self.dtype.itemsize] and stored.values.flags.aligned

    def _read(self, name: str) -> Array:
        values = as_float(self.stored[name], self.dtype)
        warn_unless_finite(name, values)
        return values


def tensor_shapes(config: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that a checkpoint must hold: Hugging Face's name, and the shape in which it is stored."""
    d_model, d_mlp, d_head = config.d_model, config.d_mlp, config.d_head
    d_q, d_kv = config.n_heads * d_head, config.n_kv_heads * d_head
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (d_model,),
        "self_attn.q_proj.weight": (d_q, d_model),
        "self_attn.k_proj.weight": (d_kv, d_model),
        "self_attn.v_proj.weight": (d_kv, d_model),
        "self_attn.o_proj.weight": (d_model, d_q),
        "post_attention_layernorm.weight": (d_model,),
        "mlp.gate_proj.weight": (d_mlp, d_model),
        "mlp.up_proj.weight": (d_mlp, d_model),
        "mlp.down_proj.weight": (d_model, d_mlp),
    }
    if config.qkv_bias:
        block |= {"self_attn.q_proj.bias": (d_q,), "self_attn.k_proj.bias": (d_kv,), "self_attn.v_proj.bias": (d_kv,)}
    if config.out_bias:
        block |= {"self_attn.o_proj.bias": (d_model,)}
    if config.mlp_bias:
        block |= {"mlp.gate_proj.bias": (d_mlp,), "mlp.up_proj.bias": (d_mlp,), "mlp.down_proj.bias": (d_model,)}
    if config.qk_norm:
        block |= {"self_attn.q_norm.weight": (d_head,), "self_attn.k_norm.weight": (d_head,)}
    yield EMBED, (config.d_vocab, d_model)
    for layer in range(config.n_layers):
        yield from ((f"model.layers.{layer}.{name}", shape) for name, shape in block.items())
    yield "model.norm.weight", (d_model,)
    if not config.tied_embeddings:
        yield HEAD, (config.d_vocab, d_model)


@dataclass(frozen=True)
class _MappedBlocks(Sequence[BlockWeights]):
    """The blocks of a model, each converted when it is asked for."""

    read: Callable[[str], Array]
    config: Config

    def __len__(self) -> int:
        return self.config.n_layers

    @overload
    def __getitem__(self, layer: int) -> BlockWeights: ...
    @overload
    def __getitem__(self, layer: slice) -> list[BlockWeights]: ...
    def __getitem__(self, layer: int | slice) -> BlockWeights | list[BlockWeights]:
        numbers = range(len(self))[layer]  # counts from the end, and raises IndexError, as a tuple does
        return self._block(numbers) if isinstance(numbers, int) else [self._block(i) for i in numbers]

    def _block(self, layer: int) -> BlockWeights:
        def tensor(name: str) -> Array:
            return self.read(f"model.layers.{layer}.{name}")

        def bias(name: str, there: bool) -> Array | None:
            return tensor(f"{name}.bias") if there else None

        config = self.config
        return BlockWeights(
            d_head=self.config.d_head,
            ln1=tensor("input_layernorm.weight"),
            W_Q=tensor("self_attn.q_proj.weight").T,
            W_K=tensor("self_attn.k_proj.weight").T,
            W_V=tensor("self_attn.v_proj.weight").T,
            W_O=tensor("self_attn.o_proj.weight").T,
            ln2=tensor("post_attention_layernorm.weight"),
            W_gate=tensor("mlp.gate_proj.weight").T,
            W_in=tensor("mlp.up_proj.weight").T,
            W_out=tensor("mlp.down_proj.weight").T,
            b_Q=bias("self_attn.q_proj", config.qkv_bias),
            b_K=bias("self_attn.k_proj", config.qkv_bias),
            b_V=bias("self_attn.v_proj", config.qkv_bias),
            b_O=bias("self_attn.o_proj", config.out_bias),
            b_gate=bias("mlp.gate_proj", config.mlp_bias),
            b_in=bias("mlp.up_proj", config.mlp_bias),
            b_out=bias("mlp.down_proj", config.mlp_bias),
            q_norm=tensor("self_attn.q_norm.weight") if config.qk_norm else None,
            k_norm=tensor("self_attn.k_norm.weight") if config.qk_norm else None,
        )


def _prefixes(stored: Mapping[str, StoredTensor]) -> list[str]:
    """What the file's names may begin with instead of "model."."""
    return [name.removesuffix(_FIRST) for name in stored if f".{name}".endswith(f".{_FIRST}")]


def _renamed(stored: Mapping[str, StoredTensor], config: Config) -> Mapping[str, StoredTensor]:
    """The tensors under Hugging Face's names, where one other prefix has all of them behind it."""

    def fits(prefix: str) -> bool:
        names = (name.removeprefix("model.") for name, _ in tensor_shapes(config) if ".layers." in name)
        return all(prefix + name in stored for name in names)

    fitting = [prefix for prefix in _prefixes(stored) if fits(prefix)]
    if len(fitting) != 1 or fitting == ["model."]:
        return stored
    heads = [name for name in stored if f".{name}".endswith(f".{HEAD}")]
    names = {name: f"model.{name.removeprefix(fitting[0])}" for name in stored if name.startswith(fitting[0])}
    names |= {heads[0]: HEAD} if len(heads) == 1 else {}
    return {names[name]: stored[name] for name in names}


def _untied(stored: Mapping[str, StoredTensor], config: Config) -> tuple[Mapping[str, StoredTensor], Config]:
    """What the file has decides, not the config: as in transformers 5, an unembedding that differs is used."""
    if not config.tied_embeddings or HEAD not in stored:
        return stored, config
    if EMBED not in stored:
        return {**stored, EMBED: stored[HEAD]}, config
    if _equal(stored[EMBED], stored[HEAD]):
        return stored, config
    message = f"{HEAD} differs from {EMBED}, though config.json ties them: the model unembeds with {HEAD}"
    warnings.warn(message, WeightsWarning, stacklevel=4)
    return stored, dataclasses.replace(config, tied_embeddings=False)


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers, in whatever types. Compared in parts: they may be large."""
    if one.shape != other.shape or not {one.dtype, other.dtype} <= DTYPES.keys():
        return False
    starts = range(0, math.prod(one.shape), _NUMBERS_AT_ONCE)
    return all(np.array_equal(_part(one, start), _part(other, start), equal_nan=True) for start in starts)


def _part(tensor: StoredTensor, start: int) -> Array:
    numbers = tensor.values.reshape(-1)[start : start + _NUMBERS_AT_ONCE]
    return as_float(dataclasses.replace(tensor, shape=numbers.shape, data=numbers.view(np.uint8)), np.float64)


def _check(stored: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in stored:
        near = [f"the nearest name is {close}" for close in difflib.get_close_matches(name, stored, n=1)]
        odd = [f"names begin with {prefix!r}" for prefix in _prefixes(stored) if prefix != "model."]
        raise WeightsError(
            f"tensor {name}: missing; expected one of shape {list(shape)}"
            + (f" ({'; '.join([*odd, *near])})" if odd or near else "")
            + "; take config.json and weights from one model"
        )
    tensor = stored[name]
    if tensor.dtype not in DTYPES:
        raise WeightsError(
            f"tensor {name}: has type {tensor.dtype}, but readable are {', '.join(DTYPES)}; "
            "load a checkpoint that is not quantised"
        )
    if tensor.shape != shape:
        raise WeightsError(
            f"tensor {name}: has shape {list(tensor.shape)}, but the config asks for {list(shape)}; "
            "take config.json and weights from one model"
        )


def warn_unless_finite(name: str, values: Array) -> None:
    flat = values.ravel(order="K")
    with np.errstate(all="ignore"):
        squares = np.dot(flat, flat)  # one fast pass
    if np.isfinite(squares):
        return
    n_wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_wrong:
        message = (
            f"tensor {name}: {n_wrong:,} of {values.size:,} numbers are NaN or infinite, and what the model computes "
            "from them will be too; compare it with its source"
        )
        warnings.warn(message, WeightsWarning, stacklevel=2)
