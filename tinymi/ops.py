"""One formula each: the operations that a transformer is made of, for arrays of any float type.

Nothing here knows of layers, heads or hooks. Scalars stay Python floats (`math.sqrt`, not `np.sqrt`): a NumPy
float64 scalar would silently turn every float32 array that it meets into float64.
"""

import math

from tinymi.arrays import Array, Tokens
from tinymi.config import Config

import numpy as np
import numpy.typing as npt


def embed(tokens: Tokens, W_E: Array) -> Array:
    """W_E[tokens]: the row of each token id, [batch, pos] -> [batch, pos, d_model].

    Laid out in memory as `linear` lays out what it gives, each number beside the same number of the next position:
    the residual stream is a sum of both, and sums of arrays that lie alike are faster.
    """
    rows = W_E[tokens.reshape(-1)].copy(order="F")  # [batch * pos, d_model]
    return rows.reshape(*tokens.shape, -1)


def linear(x: Array, W: Array, b: Array | None = None) -> Array:
    """x @ W + b, for x [..., d_in] and W [d_in, d_out]: one large matmul instead of one per batch row.

    Written as (W.T @ rows.T).T, which is the same: W.T lies in memory as the checkpoint stores it, and with it as the
    first operand BLAS is up to 1.3 times faster where the rows are few.
    """
    rows = x.reshape(-1, x.shape[-1])
    y: Array = (W.T @ rows.T).T.reshape(*x.shape[:-1], W.shape[-1])
    return y if b is None else y + b


def rms(x: Array, eps: float) -> Array:
    """The root mean square of each row: [..., d] -> [..., 1]."""
    scale: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    return scale


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm (Zhang and Sennrich 2019): each row divided by its root mean square, times a learned weight."""
    return x / rms(x, eps) * weight


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. The maximum is taken out first, so that nothing overflows.

    One array is made and changed in place: fewer passes over memory.
    """
    y: Array = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def silu(x: Array) -> Array:
    """x * sigmoid(x) = x / (1 + exp(-x)) (Elfwing et al. 2017), the gate's non-linearity in SwiGLU (Shazeer 2020)."""
    y: Array = np.negative(x)
    with np.errstate(over="ignore"):  # exp(-x) may reach infinity; x / infinity is the right limit, 0
        np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def causal_mask(n_query: int, n_key: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """0 where a query may look, -inf where the key lies in its future: [query_pos, key_pos].

    The queries are the last `n_query` of the `n_key` positions.
    """
    future = np.arange(n_key) > np.arange(n_key - n_query, n_key)[:, None]
    zero = np.zeros((), dtype)
    return np.where(future, zero - math.inf, zero)


def rope_frequencies(config: Config) -> Array:
    """How far RoPE turns each pair of numbers per position, in radians: [d_head / 2].

    In float32 like Hugging Face's, whatever the model's own type: the angles are part of what the model is.
    With LLaMA 3.1's scaling, wavelengths longer than the original context are stretched by `factor`, short
    ones are kept, and those between are blended (Dubey et al. 2024).
    """
    exponent = np.arange(0, config.d_head, 2, dtype=np.float32) / config.d_head
    frequencies: Array = 1.0 / np.float32(config.rope_base) ** exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    turns = scaling.original_n_ctx * frequencies / (2 * math.pi)  # in the original context
    width = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / width, 0.0, 1.0)
    blended: Array = keep * frequencies + (1 - keep) * frequencies / scaling.factor
    return blended


def rope_angles(config: Config, positions: Tokens, dtype: npt.DTypeLike = np.float32) -> tuple[Array, Array]:
    """Cosine and sine of RoPE's angle at positions [batch, pos]: [batch, pos, 1, 1, d_head / 2], and the sine twice,
    first with a minus: [batch, pos, 1, 2, d_head / 2]. Neighbours along pos lie together in memory, as `linear` gives
    them.
    """
    angles = rope_frequencies(config)[:, None] * positions.reshape(-1).astype(np.float32)  # [d_head / 2, batch * pos]
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    signed = np.stack([-sin, sin]).transpose(2, 0, 1)
    return cos.T.reshape(*positions.shape, 1, 1, -1), signed.reshape(*positions.shape, 1, 2, -1)


def rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary position embedding (Su et al. 2021): number i of a head and number i + d_head / 2 are a pair (a, b), and
    each pair is turned by an angle that grows with the position: (a cos - b sin, b cos + a sin).

    x is [batch, pos, heads, d_head], cos and sin are as `rope_angles` gives them.
    """
    pairs = x.reshape(*x.shape[:-1], 2, -1)  # [batch, pos, heads, 2, d_head / 2]
    turned = pairs * cos
    turned += pairs[..., ::-1, :] * sin
    return turned.reshape(x.shape)
