"""Weights: a model's matrices under our names, oriented so that formulas read `x @ W`.

Nothing is copied, folded or centred. Hugging Face stores linear layers as [d_out, d_in], so ours are their transposes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tinymi.arrays import Array

import numpy as np


def _shapes(matrices: object) -> str:
    """The fields of a dataclass that are arrays, with their shapes."""
    arrays = {name: value for name, value in vars(matrices).items() if isinstance(value, np.ndarray)}
    return ", ".join(f"{name} {list(value.shape)}" for name, value in arrays.items())


@dataclass(frozen=True, repr=False)
class HeadWeights:
    """One layer's attention matrices cut into heads, as views."""

    W_Q: Array  # [n_heads, d_model, d_head]
    W_K: Array  # [n_kv_heads, d_model, d_head]
    W_V: Array  # [n_kv_heads, d_model, d_head]
    W_O: Array  # [n_heads, d_head, d_model]

    def __repr__(self) -> str:
        return f"HeadWeights({_shapes(self)})"


@dataclass(frozen=True, repr=False)
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
    b_Q: Array | None = None  # [n_heads * d_head], in Qwen2 and some LLaMA
    b_K: Array | None = None  # [n_kv_heads * d_head]
    b_V: Array | None = None  # [n_kv_heads * d_head]
    b_O: Array | None = None  # [d_model], like the rest in some LLaMA
    b_gate: Array | None = None  # [d_mlp]
    b_in: Array | None = None  # [d_mlp]
    b_out: Array | None = None  # [d_model]
    q_norm: Array | None = None  # [d_head], Qwen3 only
    k_norm: Array | None = None  # [d_head]

    def __repr__(self) -> str:
        return f"BlockWeights({_shapes(self)})"

    @property
    def heads(self) -> HeadWeights:
        """The attention matrices with an axis of heads in front: `z[head] @ heads.W_O[head]`."""

        def columns(W: Array) -> Array:
            return W.reshape(W.shape[0], -1, self.d_head).swapaxes(0, 1)

        W_O = self.W_O.reshape(-1, self.d_head, self.W_O.shape[-1])
        return HeadWeights(columns(self.W_Q), columns(self.W_K), columns(self.W_V), W_O)


@dataclass(frozen=True, repr=False)
class Weights:
    """A whole model."""

    W_E: Array  # [d_vocab, d_model], one row per token
    blocks: Sequence[BlockWeights]  # n_layers of them
    ln_final: Array  # [d_model]
    W_U: Array  # [d_model, d_vocab], one column per token

    def __repr__(self) -> str:
        return f"Weights({len(self.blocks)} blocks, {_shapes(self)}, {self.dtype})"

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type that the model computes in."""
        return self.ln_final.dtype


class AnyWeights(Protocol):
    """What a run needs: `Weights`, or weights that are read from their file at each use."""

    @property
    def W_E(self) -> Array: ...
    @property
    def blocks(self) -> Sequence[BlockWeights]: ...
    @property
    def ln_final(self) -> Array: ...
    @property
    def W_U(self) -> Array: ...
    @property
    def dtype(self) -> np.dtype[np.floating]: ...
