"""The backward pass of a LLaMA or Qwen model: the derivative of a number with respect to every value of a run.

This is model.py in reverse, one adjoint for each of its lines: read the two side by side. The number is a metric of
the logits, and `d_x` is the metric's derivative with respect to x, an array of x's shape. The chain rule turns the
derivative of what a line gives into that of what the line reads. Where two lines read x, their derivatives add up.
No derivative with respect to a weight is taken: nothing trains here.

`at` is one layer seen backwards: `at["pre"]` is the value that the run went on with, and `at("pre", d_pre)` hands a
derivative back after showing it to whoever asked for it, as `tap` does with values.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tinymi.arrays import Array
from tinymi.config import Config
from tinymi.hooks import ActivationCache, HookPoint, get_act_name
from tinymi.model import Where, split_heads
from tinymi.ops import linear_back, rms_back, rms_norm_back, rope_back, silu, silu_back, softmax, softmax_back
from tinymi.weights import AnyWeights, BlockWeights

import numpy as np

FREEZABLE = ("pattern", "scale", "gate")
# The points whose values the formulas below read.
_READ_BY_ATTENTION = ("resid_pre", "ln1.scale", "q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern")
READ = (*_READ_BY_ATTENTION, "resid_mid", "ln2.scale", "pre", "pre_linear", "resid_post", "ln_final.scale")


@dataclass(frozen=True)
class At:
    """One layer of a run seen backwards. Layer None is what is outside the blocks."""

    layer: int | None
    back: "Backward"

    def __getitem__(self, point: str) -> Array:
        return self.back.values[get_act_name(point, self.layer)]

    def __call__(self, point: str, d: Array) -> Array:
        if self.wants(point):
            self.back.grads.keep(d, self.back.wanted[get_act_name(point, self.layer)])
        return d

    def wants(self, point: str) -> bool:
        return get_act_name(point, self.layer) in self.back.wanted

    def freezes(self, what: str) -> bool:
        return what in self.back.freeze


@dataclass(frozen=True)
class Backward:
    """One backward pass: the values of the run, and the derivatives with respect to those that are wanted.

    freeze: what counts as a constant. "pattern": where attention looks. "scale": what the norms divide the residual
    stream by. "gate": silu(pre). With all three the logits are linear in the residual stream, so that each writer's
    share of a metric is what it wrote times the derivative there (Ameisen et al. 2025, Circuit Tracing).
    """

    where: Where
    values: ActivationCache
    wanted: Mapping[str, HookPoint]
    freeze: Collection[str]
    grads: ActivationCache

    def at(self, layer: int | None) -> At:
        return At(layer, self)


def norm_back(d_out: Array, x: Array, weight: Array, eps: float, name: str, at: At) -> Array:
    """Back through RMSNorm, whose scale depends on every number of x."""
    d_normalized = at(f"{name}.normalized", d_out * weight)  # [batch, pos, d_model]
    scale = at[f"{name}.scale"]  # [batch, pos, 1]
    d_scale = at(f"{name}.scale", -(d_normalized * x).sum(axis=-1, keepdims=True) / scale**2)  # [batch, pos, 1]
    d_x = d_normalized / scale  # [batch, pos, d_model]
    return d_x if at.freezes("scale") else d_x + rms_back(d_scale, x, eps)


def join_heads(x: Array) -> Array:
    """[batch, pos, heads, d_head] -> [batch, pos, heads * d_head]"""
    return x.reshape(*x.shape[:2], -1)


def sum_groups(d: Array, n_kv_heads: int) -> Array:
    """Back through the repeated keys and values: heads that share a key-value head add their derivatives up.

    [batch, n_heads, pos, d_head] -> [batch, n_kv_heads, pos, d_head]
    """
    total: Array = d.reshape(len(d), n_kv_heads, -1, *d.shape[2:]).sum(axis=2)
    return total


def attention_back(d_attn_out: Array, w: BlockWeights, eps: float, where: Where, at: At) -> Array:
    """Back through the values that were moved, and through the pattern that said how much of each."""
    n_heads, n_kv_heads = at["rot_q"].shape[2], at["rot_k"].shape[2]
    group = n_heads // n_kv_heads
    q = at["rot_q"].swapaxes(1, 2)  # [batch, n_heads, query_pos, d_head]
    k = at["rot_k"].swapaxes(1, 2).repeat(group, axis=1)  # [batch, n_heads, key_pos, d_head]
    v = at["v"].swapaxes(1, 2).repeat(group, axis=1)  # [batch, n_heads, key_pos, d_head]

    if at.wants("result"):
        at("result", d_attn_out[:, :, None].repeat(n_heads, axis=2))  # [batch, pos, n_heads, d_model]
    d_z = at("z", split_heads(linear_back(d_attn_out, w.W_O), w.d_head))  # [batch, pos, n_heads, d_head]
    d_z = d_z.swapaxes(1, 2)  # [batch, n_heads, query_pos, d_head]
    d_v = sum_groups(at["pattern"].mT @ d_z, n_kv_heads)  # [batch, n_kv_heads, key_pos, d_head]
    d_pattern = at("pattern", d_z @ v.mT)  # [batch, n_heads, query_pos, key_pos]
    d_scores = softmax_back(d_pattern, at["attn_scores"]) * (0.0 if at.freezes("pattern") else 1.0)
    d_scores = at("attn_scores", d_scores) / math.sqrt(w.d_head)
    d_k = sum_groups(d_scores.mT @ q, n_kv_heads)  # [batch, n_kv_heads, key_pos, d_head]
    d_q: Array = d_scores @ k  # [batch, n_heads, query_pos, d_head]

    d_v = at("v", d_v.swapaxes(1, 2))  # [batch, pos, n_kv_heads, d_head]
    d_k = rope_back(at("rot_k", d_k.swapaxes(1, 2)), where.cos, where.sin)  # [batch, pos, n_kv_heads, d_head]
    d_q = rope_back(at("rot_q", d_q.swapaxes(1, 2)), where.cos, where.sin)  # [batch, pos, n_heads, d_head]
    if w.q_norm is not None and w.k_norm is not None:  # Qwen3
        d_q = rms_norm_back(d_q, at["q"], w.q_norm, eps)
        d_k = rms_norm_back(d_k, at["k"], w.k_norm, eps)
    d_x = linear_back(join_heads(d_v), w.W_V)  # [batch, pos, d_model]
    d_x = d_x + linear_back(join_heads(at("k", d_k)), w.W_K)
    return d_x + linear_back(join_heads(at("q", d_q)), w.W_Q)


def mlp_back(d_mlp_out: Array, w: BlockWeights, at: At) -> Array:
    """Back through SwiGLU: each neuron's two factors, and the directions that they read."""
    d_post = at("post", linear_back(d_mlp_out, w.W_out))  # [batch, pos, d_mlp]
    d_gate = d_post * at["pre_linear"]  # [batch, pos, d_mlp]
    d_pre = np.zeros_like(d_gate) if at.freezes("gate") else silu_back(d_gate, at["pre"])
    d_pre_linear = at("pre_linear", d_post * silu(at["pre"]))  # [batch, pos, d_mlp]
    return linear_back(at("pre", d_pre), w.W_gate) + linear_back(d_pre_linear, w.W_in)  # [batch, pos, d_model]


def block_back(d_resid_post: Array, w: BlockWeights, eps: float, where: Where, at: At) -> Array:
    """Back through one block: the stream carries the derivative past MLP and attention, and each adds its own."""
    at("resid_post", d_resid_post)  # [batch, pos, d_model]
    d_x = mlp_back(at("mlp_out", d_resid_post), w, at)
    d_resid_mid = d_resid_post + norm_back(d_x, at["resid_mid"], w.ln2, eps, "ln2", at)
    d_x = attention_back(at("attn_out", at("resid_mid", d_resid_mid)), w, eps, where, at)
    return at("resid_pre", d_resid_mid + norm_back(d_x, at["resid_pre"], w.ln1, eps, "ln1", at))


def unembed_back(d_logits: Array, resid: Array, weights: AnyWeights, config: Config, at: At) -> Array:
    """From the logits back to the last residual stream."""
    d_final = linear_back(at("logits", d_logits), weights.W_U)  # [batch, pos, d_model]
    return norm_back(d_final, resid, weights.ln_final, config.rms_eps, "ln_final", at)


def layers_back(d_resid: Array, layers: range, weights: AnyWeights, config: Config, back: Backward) -> Array:
    """Back through some or all blocks, the last one first."""
    for layer in reversed(layers):
        d_resid = block_back(d_resid, weights.blocks[layer], config.rms_eps, back.where, back.at(layer))
    return d_resid


def backward(
    d_logits: Array, positions: slice | list[int], layers: range, weights: AnyWeights, config: Config, back: Backward
) -> Array:
    """From the logits at some positions to the stream that entered the first of the layers: [batch, pos, d_model]."""
    resid = back.at(layers[-1])["resid_post"]  # [batch, pos, d_model]
    d_resid: Array = np.zeros_like(resid)
    d_last = unembed_back(d_logits, resid[:, positions], weights, config, back.at(None))
    for i, position in enumerate(np.arange(resid.shape[1])[positions]):  # one position may stand there twice
        d_resid[:, position] += d_last[:, i]
    return layers_back(d_resid, layers, weights, config, back)


def logit_difference(logits: Array, answer: int, foil: int) -> tuple[Array, Array]:
    """How far `answer` is above `foil` at the last position, for each prompt: [batch], and its derivative."""
    d_logits = np.zeros_like(logits)
    d_logits[:, -1, answer] = 1
    d_logits[:, -1, foil] = -1
    return logits[:, -1, answer] - logits[:, -1, foil], d_logits


def log_probability(logits: Array, token: int) -> tuple[Array, Array]:
    """The log probability of `token` at the last position, for each prompt: [batch], in nats, and its derivative."""
    probs = softmax(logits[:, -1])  # [batch, d_vocab]
    d_logits = np.zeros_like(logits)
    d_logits[:, -1] = -probs
    d_logits[:, -1, token] += 1
    return np.log(probs[:, token]), d_logits
