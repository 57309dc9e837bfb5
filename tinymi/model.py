"""The forward pass of a LLaMA or Qwen model, from token ids to logits, and the Model that runs it.

Read `forward` and then upwards: it is the whole transformer. Every value that a hook can see or change goes
through `tap(name, value)`, which hands it back as it is unless someone listens (`tinymi/hooks.py` has the table
of names). A trailing comment gives the axes where a line changes them.

This file does not train, does not pad, and holds no analysis: those are written out in `lessons/`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tinymi import generation, memory
from tinymi.arrays import Array, Tokens, as_array, is_whole
from tinymi.config import Config
from tinymi.errors import InputError
from tinymi.hooks import ActivationCache, Callback, Hooks, NameFilter, Tap, hook_points, read_only
from tinymi.key_values import KeyValueCache, LayerKeyValues
from tinymi.ops import causal_mask, embed, linear, rms, rms_norm, rope, rope_angles, silu, softmax
from tinymi.tokenizer import Tokenizer
from tinymi.weights import AnyWeights, BlockWeights

import numpy as np
import numpy.typing as npt

Angles = tuple[Array, Array]  # cosine and sine, see ops.rope_angles
Positions = int | Sequence[int] | slice | None


def norm(x: Array, weight: Array, config: Config, name: str, tap: Tap) -> Array:
    """RMSNorm with its two hook points: x / scale, times the learned weight."""
    scale = tap(f"{name}.scale", rms(x, config.rms_eps))  # [batch, pos, 1]
    normalized = tap(f"{name}.normalized", x / scale)  # [batch, pos, d_model]
    return normalized * weight


def split_heads(x: Array, d_head: int) -> Array:
    """[batch, pos, heads * d_head] -> [batch, pos, heads, d_head]"""
    return x.reshape(*x.shape[:2], -1, d_head)


def in_groups(x: Array, n_kv_heads: int) -> Array:
    """Grouped-query attention (Ainslie et al. 2023): heads that stand beside each other share a key-value head.

    [batch, pos, heads, d_head] -> [batch, n_kv_heads, heads / n_kv_heads, pos, d_head], as a view
    """
    return x.reshape(*x.shape[:2], n_kv_heads, -1, x.shape[3]).transpose(0, 2, 3, 1, 4)


def attention(
    x: Array, w: BlockWeights, config: Config, angles: Angles, mask: Array, tap: Tap, past: LayerKeyValues | None
) -> Array:
    """Each position gathers values from the positions up to it, weighted by how well query and key agree."""
    q = tap("q", split_heads(linear(x, w.W_Q, w.b_Q), w.d_head))  # [batch, pos, n_heads, d_head]
    k = tap("k", split_heads(linear(x, w.W_K, w.b_K), w.d_head))  # [batch, pos, n_kv_heads, d_head]
    v = tap("v", split_heads(linear(x, w.W_V, w.b_V), w.d_head))
    if w.q_norm is not None and w.k_norm is not None:
        q, k = rms_norm(q, w.q_norm, config.rms_eps), rms_norm(k, w.k_norm, config.rms_eps)
    q = tap("rot_q", rope(q, *angles))
    k = tap("rot_k", rope(k, *angles))
    if past is not None:
        k, v = past.extend(k, v)  # [batch, key_pos, n_kv_heads, d_head]
    n_kv_heads = config.n_kv_heads
    queries = in_groups(q / math.sqrt(w.d_head), n_kv_heads)
    keys, values = in_groups(k, n_kv_heads), in_groups(v, n_kv_heads)
    scores: Array = (queries @ keys.swapaxes(3, 4)).reshape(len(x), config.n_heads, *mask.shape)
    scores += mask  # [batch, n_heads, query_pos, key_pos]
    scores = tap("attn_scores", scores)
    pattern = tap("pattern", softmax(scores))
    mixed = pattern.reshape(*queries.shape[:4], -1) @ values  # [batch, n_kv_heads, group, query_pos, d_head]
    z = tap("z", mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape))  # [batch, pos, n_heads, d_head]
    return write_heads(z, w, tap)


def write_heads(z: Array, w: BlockWeights, tap: Tap) -> Array:
    """The sum over heads of z_h @ W_O_h, in one matmul; head by head only when someone asks for it."""
    attn_out = linear(z.reshape(*z.shape[:2], -1), w.W_O)  # [batch, pos, d_model]
    if not tap.wants("result"):
        return attn_out
    result = (z.transpose(0, 2, 1, 3) @ w.heads.W_O).transpose(0, 2, 1, 3)  # [batch, pos, n_heads, d_model]
    edited = tap("result", result)
    return attn_out if edited is result else edited.sum(axis=2)


def mlp(x: Array, w: BlockWeights, tap: Tap) -> Array:
    """SwiGLU: neuron n reads W_gate[:, n] and W_in[:, n], and writes W_out[n]."""
    pre = tap("pre", linear(x, w.W_gate))  # [batch, pos, d_mlp]
    pre_linear = tap("pre_linear", linear(x, w.W_in))
    post = tap("post", silu(pre) * pre_linear)
    return linear(post, w.W_out)  # [batch, pos, d_model]


def block(
    resid_pre: Array,
    w: BlockWeights,
    config: Config,
    angles: Angles,
    mask: Array,
    tap: Tap,
    past: LayerKeyValues | None = None,
) -> Array:
    """One transformer block: attention and MLP each read the residual stream and add to it."""
    resid_pre = tap("resid_pre", resid_pre)  # [batch, pos, d_model]
    attn_out = attention(norm(resid_pre, w.ln1, config, "ln1", tap), w, config, angles, mask, tap, past)
    resid_mid = tap("resid_mid", resid_pre + tap("attn_out", attn_out))
    mlp_out = mlp(norm(resid_mid, w.ln2, config, "ln2", tap), w, tap)
    return tap("resid_post", resid_mid + tap("mlp_out", mlp_out))


def unembed(resid: Array, weights: AnyWeights, config: Config, tap: Tap) -> Array:
    """The last residual stream, normed, read off along every token's direction: the logits."""
    logits = linear(norm(resid, weights.ln_final, config, "ln_final", tap), weights.W_U)  # [batch, pos, d_vocab]
    return tap("logits", logits)


@dataclass(frozen=True)
class Span:
    """Which part of the model one run goes through."""

    layers: range
    embed: bool  # begin with token ids, not with a residual stream
    unembed: bool  # end with logits, not with a residual stream
    positions: slice | list[int]  # the positions whose logits are wanted


def forward(
    x: npt.NDArray[Any],
    weights: AnyWeights,
    config: Config,
    span: Span,
    hooks: Hooks,
    past: KeyValueCache | None = None,
) -> Array:
    """The transformer. Token ids [batch, pos] (or a residual stream) to logits (or a residual stream)."""
    n_past = past.n_positions(span.layers) if past else 0
    (batch, n_pos), dtype = x.shape[:2], weights.dtype
    angles = rope_angles(config, np.tile(np.arange(n_past, n_past + n_pos), (batch, 1)), dtype)
    mask = causal_mask(n_pos, n_past + n_pos, dtype)
    resid = hooks.at(None)("embed", embed(x, weights.W_E)) if span.embed else x  # [batch, pos, d_model]
    for layer in span.layers:
        tap, held = hooks.at(layer), past.at(layer) if past else None
        resid = block(resid, weights.blocks[layer], config, angles, mask, tap, held)
    return unembed(resid[:, span.positions], weights, config, hooks.at(None)) if span.unembed else resid


class Model:
    """A language model whose every step can be read and changed.

    Calling it maps token ids [batch, pos] to logits [batch, pos, d_vocab]. `run_with_cache` also keeps values of
    the run, `run_with_hooks` changes them. All three take the same keywords:

    start_at_layer: the input is a residual stream [batch, pos, d_model] that enters this layer, not token ids.
    stop_at_layer: the output is the residual stream that would enter this layer, not logits; n_layers gives the
        last one. Layers count from the end when negative.
    positions: compute logits only there (an int, several, or a slice); the pos axis keeps as many entries.
    past_kv_cache: a KeyValueCache that holds earlier positions of the same prompts and takes up the new ones; the
        run computes (and hooks see) only the new ones.

    Where hooks or a cache see the run, the array returned is read-only, as they may have kept it too.

    Raises InputError for input that does not fit the model, HookError for a hook that does not fit the run.
    """

    def __init__(self, config: Config, weights: AnyWeights, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.weights = weights
        self._tokenizer = tokenizer

    def __call__(
        self,
        tokens: npt.ArrayLike,
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        positions: Positions = None,
        past_kv_cache: KeyValueCache | None = None,
    ) -> Array:
        """Token ids [batch, pos] to logits [batch, pos, d_vocab]."""
        return self._run(tokens, self._span(start_at_layer, stop_at_layer, positions), past=past_kv_cache)

    def run_with_hooks(
        self,
        tokens: npt.ArrayLike,
        fwd_hooks: Iterable[tuple[NameFilter, Callback]],
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        positions: Positions = None,
        past_kv_cache: KeyValueCache | None = None,
    ) -> Array:
        """The logits of a run in which callbacks read or replace values.

        fwd_hooks: pairs (name, fn); fn(value, hook) returns None or a new array of the same shape. Instead of a
            name: several names, or a predicate over names.
        """
        return self._run(tokens, self._span(start_at_layer, stop_at_layer, positions), fwd_hooks, past_kv_cache)

    def run_with_cache(
        self,
        tokens: npt.ArrayLike,
        names_filter: NameFilter = None,
        *,
        fwd_hooks: Iterable[tuple[NameFilter, Callback]] = (),
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        positions: Positions = None,
        past_kv_cache: KeyValueCache | None = None,
    ) -> tuple[Array, ActivationCache]:
        """The logits and what the run kept: every point, or those that names_filter (see run_with_hooks) names.

        fwd_hooks: callbacks that act in the same run; the cache holds what the model went on with.
        """
        cache = ActivationCache(self.config.n_layers)
        span = self._span(start_at_layer, stop_at_layer, positions)
        return self._run(tokens, span, [*fwd_hooks, (names_filter, cache.keep)], past_kv_cache), cache

    def generate(
        self,
        tokens: npt.ArrayLike,
        max_new_tokens: int = 20,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        fwd_hooks: Iterable[tuple[NameFilter, Callback]] = (),
        use_past_kv_cache: bool = True,
    ) -> Tokens:
        """Go on from token ids [batch, pos]: the ids of prompt and continuation, [batch, pos + max_new_tokens].

        temperature: 0 takes the likeliest token each time; above 0 it samples (top_k: among the likeliest k; seed).
        fwd_hooks: act in every step, see run_with_hooks.
        use_past_kv_cache: keep keys and values, so that a step computes one position; hooks then see only that one.
            Where hooks make this differ from full runs (compared at the second and the last step) it is a HookError.
        """
        generation.check_settings(max_new_tokens, temperature, top_k, seed, self.config.d_vocab)
        ids, hooks, rng = self._check_tokens(tokens), list(fwd_hooks), np.random.default_rng(seed)
        n_prompt, n_total = ids.shape[1], ids.shape[1] + max_new_tokens
        if n_total > self.config.n_ctx:
            raise InputError(
                f"max_new_tokens: {n_prompt} + {max_new_tokens} positions, but the model takes {self.config.n_ctx}; "
                "ask for fewer"
            )
        last = self._span(None, None, -1)
        past = KeyValueCache(len(ids), n_total, self.config, self.weights.dtype) if use_past_kv_cache else None
        for n_pos in range(n_prompt, n_total):
            n_past = past.n_positions(last.layers) if past else 0
            logits = self._run(ids[:, n_past:], last, hooks, past)[:, 0]  # [batch, d_vocab]
            if past and hooks and n_pos in (n_prompt + 1, n_total - 1):
                generation.check_agreement(logits, self._run(ids, last, hooks)[:, 0], n_pos)
            ids = np.hstack([ids, generation.choose(logits, temperature, top_k, rng)[:, None]])
        return ids

    def _run(
        self,
        tokens: npt.ArrayLike,
        span: Span,
        fwd_hooks: Iterable[tuple[NameFilter, Callback]] = (),
        past: KeyValueCache | None = None,
    ) -> Array:
        hooks = Hooks(fwd_hooks, hook_points(span.layers, embed=span.embed, unembed=span.unembed))
        x = self._check_tokens(tokens) if span.embed else self._check_residual(tokens)
        self._check_room(x, span, past)
        _check_positions(span.positions, x.shape[1])
        self._check_memory(x, span, past)
        out = forward(x, self.weights, self.config, span, hooks, past)
        return read_only(out) if hooks else out  # a callback or a cache may have kept the same array

    def _span(self, start_at_layer: int | None, stop_at_layer: int | None, positions: Positions) -> Span:
        start = 0 if start_at_layer is None else self._layer("start_at_layer", start_at_layer)
        stop = self.config.n_layers if stop_at_layer is None else self._layer("stop_at_layer", stop_at_layer)
        if start > stop:
            raise InputError(
                f"start_at_layer {start} lies behind stop_at_layer {stop}; give a start that is not above the stop"
            )
        if stop_at_layer is not None and positions is not None:
            raise InputError(
                "positions: a run that stops at a layer computes no logits; index the residual stream instead"
            )
        return Span(
            layers=range(start, stop),
            embed=start_at_layer is None,
            unembed=stop_at_layer is None,
            positions=_positions(positions),
        )

    def _layer(self, name: str, layer: int) -> int:
        n_layers = self.config.n_layers
        if not is_whole(layer) or not -n_layers <= layer <= n_layers:
            raise InputError(
                f"{name}: layer {layer!r} of a model with layers 0 to {n_layers - 1} (or {n_layers}, the end)"
            )
        return layer + n_layers if layer < 0 else layer

    def _check_room(self, x: npt.NDArray[Any], span: Span, past: KeyValueCache | None) -> None:
        """That the input's positions, after those of the past, are no more than the model and the cache take."""
        if past is None:
            n_past, room, owner = 0, self.config.n_ctx, "the model"
        else:
            n_past, room, owner = past.n_positions(span.layers), min(past.n_ctx, self.config.n_ctx), "past_kv_cache"
            if past.batch != len(x):
                raise InputError(f"past_kv_cache: has {past.batch} rows for a batch of {len(x)}; both must be the same")
        if n_past + x.shape[1] > room:
            raise InputError(
                f"input: {n_past + x.shape[1]} positions, but {owner} takes 1 to {room}; shorten the prompt"
            )

    def _check_memory(self, x: npt.NDArray[Any], span: Span, past: KeyValueCache | None) -> None:
        """That a long prompt's attention scores, which grow with its square, and its logits fit into memory."""
        (batch, n_pos), n_past = x.shape[:2], past.n_positions(span.layers) if past else 0
        scores = batch * self.config.n_heads * n_pos * (n_past + n_pos)  # of one layer: with and without mask, softmax
        n_logits = batch * np.arange(n_pos)[span.positions].size * self.config.d_vocab if span.unembed else 0
        needed = self.weights.dtype.itemsize * (3 * scores + n_logits)
        if needed > 2**30:  # less is not worth the question
            memory.require(
                f"input: a run of {batch} x {n_pos:,} tokens", needed, "shorten the prompt, run fewer prompts at once"
            )

    def _check_tokens(self, tokens: npt.ArrayLike) -> Tokens:
        ids = as_array(tokens, "tokens")
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise InputError(
                f"tokens: {_kind(ids)}, but token ids are integers [batch, pos]; model.to_tokens(text) makes them"
            )
        if ids.size == 0:
            raise InputError(f"tokens: shape {list(ids.shape)} holds no token; give at least one prompt of one token")
        if ids.min() < 0 or ids.max() >= self.config.d_vocab:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"tokens: id {wrong} is outside the vocabulary, 0 to {self.config.d_vocab - 1}")
        return ids.astype(np.int64, copy=False)

    def _check_residual(self, resid: npt.ArrayLike) -> Array:
        x = as_array(resid, "start_at_layer")
        if x.ndim != 3 or x.shape[-1] != self.config.d_model or x.size == 0 or x.dtype.kind != "f":
            raise InputError(
                f"start_at_layer: the input is {_kind(x)}, but must be a residual stream, floats "
                f'[batch, pos, d_model {self.config.d_model}], such as cache["resid_pre", layer]'
            )
        return x.astype(self.weights.dtype, copy=False)

    # The tokenizer's four verbs, so that a lesson needs one object.

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise InputError("model: was made without a tokenizer; load it from a folder that has a tokenizer.json")
        return self._tokenizer

    def to_tokens(self, text: str | Sequence[str], *, add_special_tokens: bool = True) -> Tokens:
        """Token ids [batch, pos] of a prompt, or of several of equal length; see Tokenizer.to_tokens."""
        return self.tokenizer.to_tokens(text, n_ctx=self.config.n_ctx, add_special_tokens=add_special_tokens)

    def to_str_tokens(self, text: str | npt.ArrayLike, *, add_special_tokens: bool = True) -> list[str]:
        """The text of each token of a prompt, or of each of the ids [pos]."""
        return self.tokenizer.to_str_tokens(text, add_special_tokens=add_special_tokens)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token, such as " Paris"; InputError shows the pieces if it is not."""
        return self.tokenizer.to_single_token(text)

    def to_string(self, tokens: npt.ArrayLike) -> str:
        """The text of token ids [pos]."""
        return self.tokenizer.to_string(tokens)


def _kind(x: npt.NDArray[np.generic]) -> str:
    return f"{x.dtype} of shape {list(x.shape)}"


def _positions(positions: Positions) -> slice | list[int]:
    """Positions as an index that keeps the axis."""
    if positions is None:
        return slice(None)
    if isinstance(positions, slice):
        bounds = (positions.start, positions.stop, positions.step)
        if all(bound is None or is_whole(bound) for bound in bounds) and positions.step != 0:
            return positions
    elif (found := np.atleast_1d(as_array(positions, "positions"))).dtype.kind in "iu" and found.ndim == 1:
        return [int(i) for i in found]
    raise InputError(f"positions: {positions!r}, but positions are whole numbers: give one, several, or a slice")


def _check_positions(positions: slice | list[int], n_pos: int) -> None:
    if isinstance(positions, slice):
        return
    for position in positions:
        if not -n_pos <= position < n_pos:
            raise InputError(f"positions: {position}, but the prompt has positions 0 to {n_pos - 1}")
