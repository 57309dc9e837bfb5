"""The forward pass of a LLaMA or Qwen model: token ids in, logits out.

Read `forward` at the end first, then upwards. Every value that a hook can see or change goes through
`tap(name, value)`, which hands it back unless someone listens; `hooks.py` has the table of names. A trailing comment
gives the axes of what its line computes.
"""

import math
from typing import NamedTuple

from tinymi.arrays import Array, Tokens
from tinymi.config import Config
from tinymi.generation import KeyValueCache, LayerKeyValues
from tinymi.hooks import Hooks, Tap
from tinymi.ops import causal_mask, linear, rms, rms_norm, rope, rope_angles, silu, softmax
from tinymi.weights import AnyWeights, BlockWeights

import numpy as np
import numpy.typing as npt


class Where(NamedTuple):
    """What attention must know about where the tokens stand. Batch is 1 where it is the same for all prompts."""

    cos: Array  # [batch, pos, 1, d_head / 2], of RoPE's angles
    sin: Array  # [batch, pos, 1, d_head / 2]
    mask: Array  # [batch, 1, query_pos, key_pos]: 0, or -inf for keys in the future and for padding
    past: KeyValueCache | None = None  # with the positions before these


def norm(x: Array, weight: Array, eps: float, name: str, tap: Tap) -> Array:
    """RMSNorm with its two hook points: x / scale, times the learned weight."""
    scale = tap(f"{name}.scale", rms(x, eps))  # [batch, pos, 1]
    normalized = tap(f"{name}.normalized", x / scale)  # [batch, pos, d_model]
    return normalized * weight


def split_heads(x: Array, d_head: int) -> Array:
    """[batch, pos, heads * d_head] -> [batch, pos, heads, d_head]"""
    return x.reshape(*x.shape[:2], -1, d_head)


def attention(x: Array, w: BlockWeights, eps: float, where: Where, tap: Tap, past: LayerKeyValues | None) -> Array:
    """Each position gathers values from the positions up to it, weighted by how well query and key agree."""
    q = tap("q", split_heads(linear(x, w.W_Q, w.b_Q), w.d_head))  # [batch, pos, n_heads, d_head]
    k = tap("k", split_heads(linear(x, w.W_K, w.b_K), w.d_head))  # [batch, pos, n_kv_heads, d_head]
    v = tap("v", split_heads(linear(x, w.W_V, w.b_V), w.d_head))  # [batch, pos, n_kv_heads, d_head]
    if w.q_norm is not None and w.k_norm is not None:  # Qwen3
        q = rms_norm(q, w.q_norm, eps)
        k = rms_norm(k, w.k_norm, eps)
    q = tap("rot_q", rope(q, where.cos, where.sin))
    k = tap("rot_k", rope(k, where.cos, where.sin))
    if past is not None:
        k, v = past.extend(k, v)  # [batch, key_pos, n_kv_heads, d_head]

    group = q.shape[2] // k.shape[2]  # so many neighbouring heads share a key-value head (Ainslie et al. 2023)
    q = q.swapaxes(1, 2)  # [batch, n_heads, query_pos, d_head]
    k = k.swapaxes(1, 2).repeat(group, axis=1)  # [batch, n_heads, key_pos, d_head]
    v = v.swapaxes(1, 2).repeat(group, axis=1)  # [batch, n_heads, key_pos, d_head]
    scores = tap("attn_scores", (q / math.sqrt(w.d_head)) @ k.mT + where.mask)  # [batch, n_heads, query_pos, key_pos]
    pattern = tap("pattern", softmax(scores))
    z = tap("z", (pattern @ v).swapaxes(1, 2))  # [batch, pos, n_heads, d_head]
    return write_heads(z, w, tap)


def write_heads(z: Array, w: BlockWeights, tap: Tap) -> Array:
    """The sum over heads of z_h @ W_O_h, in one matmul; head by head only when someone asks for it."""
    attn_out = linear(z.reshape(*z.shape[:2], -1), w.W_O, w.b_O)  # [batch, pos, d_model]
    if not tap.wants("result"):
        return attn_out
    result = (z.swapaxes(1, 2) @ w.heads.W_O).swapaxes(1, 2)  # [batch, pos, n_heads, d_model]
    edited = tap("result", result)
    return attn_out if edited is result else edited.sum(axis=2) + (0 if w.b_O is None else w.b_O)


def mlp(x: Array, w: BlockWeights, tap: Tap) -> Array:
    """SwiGLU: neuron n reads W_gate[:, n] and W_in[:, n], and writes W_out[n]."""
    pre = tap("pre", linear(x, w.W_gate, w.b_gate))  # [batch, pos, d_mlp]
    pre_linear = tap("pre_linear", linear(x, w.W_in, w.b_in))  # [batch, pos, d_mlp]
    post = tap("post", silu(pre) * pre_linear)
    return linear(post, w.W_out, w.b_out)  # [batch, pos, d_model]


def block(resid_pre: Array, w: BlockWeights, eps: float, where: Where, tap: Tap, past: LayerKeyValues | None) -> Array:
    """One transformer block: attention and MLP each read the residual stream and add to it."""
    resid_pre = tap("resid_pre", resid_pre)  # [batch, pos, d_model]
    attn_out = tap("attn_out", attention(norm(resid_pre, w.ln1, eps, "ln1", tap), w, eps, where, tap, past))
    resid_mid = tap("resid_mid", resid_pre + attn_out)
    mlp_out = tap("mlp_out", mlp(norm(resid_mid, w.ln2, eps, "ln2", tap), w, tap))
    return tap("resid_post", resid_mid + mlp_out)


def embed(tokens: Tokens, weights: AnyWeights, tap: Tap) -> Array:
    """Each token's row of the embedding: the residual stream begins."""
    rows = weights.W_E[tokens.reshape(-1)].copy(order="F")  # lies as linear's results do: 3 % of 8 x 14 tokens
    return tap("embed", rows.reshape(*tokens.shape, -1))  # [batch, pos, d_model]


def locate(n_padding: Tokens, n_past: int, n_new: int, config: Config, dtype: npt.DTypeLike) -> Where:
    """Where new tokens stand that come after `n_past` others. The first `n_padding` [batch] of all are no tokens."""
    positions = np.arange(n_past, n_past + n_new) - n_padding[:, None]  # [batch, pos]
    cos, sin = rope_angles(config, positions, dtype)
    mask = causal_mask(n_padding, n_past, n_new, dtype)  # [batch, query_pos, key_pos]
    return Where(cos, sin, mask[:, None])


def run_layers(resid: Array, layers: range, where: Where, weights: AnyWeights, config: Config, hooks: Hooks) -> Array:
    """The residual stream through some or all blocks, one after the other."""
    for layer in layers:
        past = where.past.at(layer) if where.past else None
        resid = block(resid, weights.blocks[layer], config.rms_eps, where, hooks.at(layer), past)
    return resid


def unembed(resid: Array, weights: AnyWeights, config: Config, tap: Tap) -> Array:
    """The last residual stream, normed, read off along every token's direction: the logits."""
    normed = norm(resid, weights.ln_final, config.rms_eps, "ln_final", tap)
    return tap("logits", linear(normed, weights.W_U))  # [batch, pos, d_vocab]


def forward(tokens: Tokens, where: Where, weights: AnyWeights, config: Config, hooks: Hooks) -> Array:
    """The transformer: token ids [batch, pos] to logits [batch, pos, d_vocab]."""
    resid = embed(tokens, weights, hooks.at(None))
    resid = run_layers(resid, range(config.n_layers), where, weights, config, hooks)
    return unembed(resid, weights, config, hooks.at(None))
