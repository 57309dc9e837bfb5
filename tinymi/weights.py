"""Weights: a checkpoint's tensors under our names, oriented so that formulas read `x @ W`.

Every matrix is a view of the mapped file where the file holds the type that the model computes in; nothing is
copied, folded or centred. Hugging Face stores linear layers as [d_out, d_in], so ours are their transposes.
Files in BF16 or F16 are converted: once (`Weights`), or again at each use (`MappedWeights`), for a model that does not
fit into memory in float32.
"""

import difflib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from tinymi import memory
from tinymi.arrays import Array
from tinymi.config import Config
from tinymi.errors import WeightsError, WeightsWarning
from tinymi.tensor_files import DTYPES, StoredTensor, open_folder

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class HeadWeights:
    """One layer's attention matrices cut into heads, as views."""

    W_Q: Array  # [n_heads, d_model, d_head]
    W_K: Array  # [n_kv_heads, d_model, d_head]
    W_V: Array  # [n_kv_heads, d_model, d_head]
    W_O: Array  # [n_heads, d_head, d_model]


@dataclass(frozen=True)
class BlockWeights:
    """One transformer block. Heads lie side by side in the attention matrices; `heads` cuts them apart."""

    d_head: int
    ln1: Array  # [d_model]
    W_Q: Array  # [d_model, n_heads * d_head]
    W_K: Array  # [d_model, n_kv_heads * d_head]
    W_V: Array  # [d_model, n_kv_heads * d_head]
    W_O: Array  # [n_heads * d_head, d_model]
    ln2: Array  # [d_model]
    W_gate: Array  # [d_model, d_mlp]
    W_in: Array  # [d_model, d_mlp], Hugging Face's up_proj
    W_out: Array  # [d_mlp, d_model], Hugging Face's down_proj
    b_Q: Array | None = None  # [n_heads * d_head], Qwen2 only
    b_K: Array | None = None  # [n_kv_heads * d_head]
    b_V: Array | None = None  # [n_kv_heads * d_head]
    q_norm: Array | None = None  # [d_head], Qwen3 only
    k_norm: Array | None = None  # [d_head]

    @property
    def heads(self) -> HeadWeights:
        """The attention matrices with an axis of heads in front: `z[head] @ heads.W_O[head]`."""

        def columns(W: Array) -> Array:
            return W.reshape(W.shape[0], -1, self.d_head).swapaxes(0, 1)

        W_O = self.W_O.reshape(-1, self.d_head, self.W_O.shape[-1])
        return HeadWeights(columns(self.W_Q), columns(self.W_K), columns(self.W_V), W_O)


@dataclass(frozen=True)
class Weights:
    """A whole model."""

    W_E: Array  # [d_vocab, d_model], one row per token
    blocks: Sequence[BlockWeights]  # n_layers of them
    ln_final: Array  # [d_model]
    W_U: Array  # [d_model, d_vocab], one column per token

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type that the model computes in."""
        return self.ln_final.dtype

    @classmethod
    def from_folder(cls, folder: Path, config: Config, dtype: npt.DTypeLike = np.float32) -> "Weights":
        """Map the safetensors of a checkpoint folder.

        dtype: the type to compute in, float32 or float64. Tensors stored in it stay in the file.
        Raises WeightsError for a tensor that does not fit, MemoryShortageError when converted ones would not fit
        into memory. Warns (WeightsWarning) of NaN and infinite numbers.
        """
        mapped = MappedWeights.from_folder(folder, config, dtype)
        memory.require(
            f"{folder}: to convert its weights to {mapped.dtype}",
            mapped.bytes_to_convert(),
            'leave them in their file with weights="mapped" (--weights mapped in a lesson), which is slower, load a '
            "smaller model",
        )
        W_E = mapped.W_E
        return cls(W_E, tuple(mapped.blocks), mapped.ln_final, W_E.T if config.tied_embeddings else mapped.W_U)


@dataclass(frozen=True)
class MappedWeights:
    """A whole model under the same names, of which nothing is kept: each use of a tensor converts it anew.

    A run then needs memory for one block at a time and for the embedding, and reads the whole file each time.
    """

    config: Config
    dtype: np.dtype[Any]
    stored: Mapping[str, StoredTensor]

    @classmethod
    def from_folder(cls, folder: Path, config: Config, dtype: npt.DTypeLike = np.float32) -> "MappedWeights":
        """See Weights.from_folder. Every tensor's presence and shape are checked now, its numbers are read later."""
        weights = cls(config, np.dtype(dtype), open_folder(folder))
        for name, shape in tensor_shapes(config):
            _check(weights.stored, name, shape)
        return weights

    def bytes_to_convert(self) -> int:
        """What all tensors take that are not stored in the type to compute in."""
        shapes = [shape for name, shape in tensor_shapes(self.config) if not self._is_in_place(name)]
        return sum(map(math.prod, shapes)) * self.dtype.itemsize

    @property
    def W_E(self) -> Array:
        return self._read("model.embed_tokens.weight")

    @property
    def blocks(self) -> Sequence[BlockWeights]:
        return _MappedBlocks(self._read, self.config)

    @property
    def ln_final(self) -> Array:
        return self._read("model.norm.weight")

    @property
    def W_U(self) -> Array:
        return self._read("model.embed_tokens.weight" if self.config.tied_embeddings else "lm_head.weight").T

    def _is_in_place(self, name: str) -> bool:
        stored = self.stored[name]
        return stored.dtype == {4: "F32", 8: "F64"}[self.dtype.itemsize] and stored.values.flags.aligned

    def _read(self, name: str) -> Array:
        values = _as_float(self.stored[name], self.dtype)
        _warn_unless_finite(name, values)
        return values


AnyWeights = Weights | MappedWeights


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
    if config.qk_norm:
        block |= {"self_attn.q_norm.weight": (d_head,), "self_attn.k_norm.weight": (d_head,)}
    yield "model.embed_tokens.weight", (config.d_vocab, d_model)
    for layer in range(config.n_layers):
        yield from ((f"model.layers.{layer}.{name}", shape) for name, shape in block.items())
    yield "model.norm.weight", (d_model,)
    if not config.tied_embeddings:
        yield "lm_head.weight", (config.d_vocab, d_model)


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

        qkv_bias, qk_norm = self.config.qkv_bias, self.config.qk_norm
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
            b_Q=tensor("self_attn.q_proj.bias") if qkv_bias else None,
            b_K=tensor("self_attn.k_proj.bias") if qkv_bias else None,
            b_V=tensor("self_attn.v_proj.bias") if qkv_bias else None,
            q_norm=tensor("self_attn.q_norm.weight") if qk_norm else None,
            k_norm=tensor("self_attn.k_norm.weight") if qk_norm else None,
        )


def _check(stored: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]) -> None:
    if name not in stored:
        near = difflib.get_close_matches(name, stored, n=1)
        raise WeightsError(
            f"tensor {name}: missing; expected one of shape {list(shape)}"
            + (f" (the nearest name found is {near[0]})" if near else "")
            + "; the checkpoint does not fit its config.json: download it again"
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
            "config.json and weights belong to different models: download both again"
        )


def _as_float(tensor: StoredTensor, dtype: npt.DTypeLike) -> Array:
    """The tensor in `dtype`: the mapped file itself where it holds that type, otherwise a converted copy."""
    values = tensor.values
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):  # too large for `dtype`: infinite, of which the caller warns
        converted: Array = np.require(values.astype(dtype, copy=False), requirements="A")
    converted.flags.writeable = False
    return converted


def _warn_unless_finite(name: str, values: Array) -> None:
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        squares = np.dot(flat, flat)  # one fast pass
    if np.isfinite(squares):
        return
    n_wrong = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_wrong:
        message = (
            f"tensor {name}: {n_wrong:,} of {values.size:,} numbers are NaN or infinite, and what the model computes "
            "from them will be too; download the checkpoint again"
        )
        warnings.warn(message, WeightsWarning, stacklevel=2)
