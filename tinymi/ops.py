"""One formula each: the operations that a transformer is made of, for arrays of any float type.

Nothing here knows of layers, heads or hooks. Scalars stay Python floats (`math.sqrt`, not `np.sqrt`): a NumPy
float64 scalar would silently turn every float32 array that it meets into float64.
"""

import math

from tinymi.arrays import Array, Tokens
from tinymi.config import Config

import numpy as np
import numpy.typing as npt


def linear(x: Array, W: Array, b: Array | None = None) -> Array:
    """x @ W + b, for x [..., d_in] and W [d_in, d_out]."""
    rows = x.reshape(-1, x.shape[-1])  # one large matmul: 1.5 times as fast at 8 x 16 tokens as one per prompt
    # rows @ W turned round, so that W.T comes first as the file stores it: 1.3 times as fast at 6 to 14 tokens.
    y: Array = (W.T @ rows.T).T.reshape(*x.shape[:-1], -1)
    return y if b is None else y + b


def rms(x: Array, eps: float) -> Array:
    """The root mean square of each row: [..., d] -> [..., 1]."""
    scale: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    return scale


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm (Zhang and Sennrich 2019): each row divided by its root mean square, times a learned weight."""
    return x / rms(x, eps) * weight


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. The maximum is taken out first, so that nothing overflows."""
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def silu(x: Array) -> Array:
    """x * sigmoid(x) = x / (1 + exp(-x)) (Elfwing et al. 2017), the gate's non-linearity in SwiGLU (Shazeer 2020)."""
    with np.errstate(over="ignore"):  # exp may reach infinity; x / infinity is the right limit, 0
        y: Array = x / (1 + np.exp(-x))
    return y


def causal_mask(n_padding: Tokens, n_past: int, n_new: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """0 where one of the new positions may look, -inf where a key is in its future or no token.

    n_padding: how many positions at the start of each prompt are no tokens, [batch]. Each of them sees itself, as
        softmax needs something to weigh. Returns [batch, query_pos, key_pos].
    """
    keys = np.arange(n_past + n_new)
    queries = keys[n_past:, None]
    padding = (keys < n_padding[:, None, None]) & (keys != queries)
    return np.where((keys > queries) | padding, -math.inf, 0).astype(dtype)


def rope_frequencies(config: Config) -> Array:
    """How far RoPE turns each pair of numbers per position, in radians: [d_head / 2].

    In float32 like Hugging Face's, whatever the model's own type: the angles are part of what the model is.
    Scaling (`rope_scaling.py`) keeps a share of each frequency and divides the rest of it by `factor`.
    """
    exponent = np.arange(0, config.d_head, 2, dtype=np.float32) / config.d_head
    frequencies: Array = 1.0 / np.float32(config.rope_base) ** exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    keep = scaling.kept_share(frequencies, config.rope_base)
    scaled: Array = keep * frequencies + (1 - keep) * frequencies / scaling.factor
    return scaled


def rope_angles(config: Config, positions: Tokens, dtype: npt.DTypeLike = np.float32) -> tuple[Array, Array]:
    """Cosine and sine of RoPE's angles at positions [batch, pos]: [batch, pos, 1, d_head / 2] each."""
    steps = positions.astype(np.float32)  # [batch, pos]; int64 times float32 would be float64
    angles = np.multiply.outer(rope_frequencies(config), steps)  # [d_head / 2, batch, pos]
    angles = angles.transpose(1, 2, 0)[:, :, None]  # [batch, pos, 1, d_head / 2]
    factor = config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    return (factor * np.cos(angles)).astype(dtype), (factor * np.sin(angles)).astype(dtype)


def rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary position embedding (Su et al. 2021): turns each pair of numbers by an angle that grows with the position.

    Numbers i and i + d_head / 2 of a head are a pair. x is [batch, pos, heads, d_head].
    """
    half = x.shape[-1] // 2
    a = x[..., :half]  # [batch, pos, heads, d_head / 2]
    b = x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


# Derivatives. `d_y` is the derivative of some number with respect to what the formula gives; each function returns that
# with respect to what the formula reads.


def linear_back(d_y: Array, W: Array) -> Array:
    """Back through `linear`: x[i] reaches y[j] with the weight W[i, j]."""
    rows = d_y.reshape(-1, d_y.shape[-1])  # W.T lies as the file stores it: rows first, 1.4 times as fast at 14 rows
    d_x: Array = (rows @ W.T).reshape(*d_y.shape[:-1], -1)
    return d_x


def rms_back(d_y: Array, x: Array, eps: float) -> Array:
    """Back through `rms`: d rms / d x = x / (d * rms)."""
    d_x: Array = d_y * x / (x.shape[-1] * rms(x, eps))
    return d_x


def rms_norm_back(d_y: Array, x: Array, weight: Array, eps: float) -> Array:
    """Back through `rms_norm`: once through the division, once through the root mean square that divides."""
    scale = rms(x, eps)
    d_normalized = d_y * weight
    d_scale: Array = -(d_normalized * x).sum(axis=-1, keepdims=True) / scale**2
    return d_normalized / scale + rms_back(d_scale, x, eps)


def softmax_back(d_y: Array, x: Array) -> Array:
    """Back through `softmax`: raising one x lowers all other y, as they sum to 1."""
    y = softmax(x)
    total: Array = (d_y * y).sum(axis=-1, keepdims=True)
    return y * (d_y - total)


def silu_back(d_y: Array, x: Array) -> Array:
    """Back through `silu`: with s = sigmoid(x), its slope is s * (1 + x * (1 - s))."""
    with np.errstate(over="ignore"):  # as in silu: 1 / infinity is the right limit, 0
        s: Array = 1 / (1 + np.exp(-x))
    return d_y * s * (1 + x * (1 - s))


def rope_back(d_y: Array, cos: Array, sin: Array) -> Array:
    """Back through `rope`: turned by minus the angle."""
    return rope(d_y, cos, -sin)
