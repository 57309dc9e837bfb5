"""Model: the runs of a forward pass, whole or in part, and the checks of what they are given."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tinymi.arrays import Array, Tokens, as_array, is_int
from tinymi.backward import FREEZABLE, READ, Backward, backward
from tinymi.chat import Messages
from tinymi.config import Config
from tinymi.errors import InputError
from tinymi.generation import KeyValueCache, check_agreement, check_settings, sample_token
from tinymi.hooks import ActivationCache, Callback, Hooks, NameFilter, hook_points, read_only, select
from tinymi.machine import memory
from tinymi.model import Where, embed, forward, locate, run_layers, unembed
from tinymi.ops import softmax
from tinymi.tokenizer import PADDING, Tokenizer
from tinymi.weights import AnyWeights

import numpy as np
import numpy.typing as npt

Positions = int | Sequence[int] | slice | None
HookPairs = Iterable[tuple[NameFilter, Callback]]


class TopToken(NamedTuple):
    """One of the likeliest next tokens."""

    text: str
    id: int
    probability: float


_OF_A_BLOCK = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "W_gate", "W_in", "W_out")
ELSEWHERE = {"cfg": "config", "W_E": "weights.W_E", "W_U": "weights.W_U", "blocks": "weights.blocks"}
ELSEWHERE |= {name: f"weights.blocks[layer].{name}" for name in _OF_A_BLOCK}
ELSEWHERE |= {"ln_final": "weights.ln_final", "to_str": "to_string", "forward": "__call__: model(tokens)"}


class Part(NamedTuple):
    """The part of the model that a run goes through."""

    start: int | None  # the layer that the input enters; None: the input is token ids
    stop: int | None  # the layer that the output would enter; None: the output is logits
    layers: range
    positions: slice | list[int]  # where logits are computed


class Model:
    """A language model whose every step can be read and changed.

    Calling it maps token ids [batch, pos] to logits [batch, pos, d_vocab]. `run_with_cache` also returns values of
    the run, `run_with_hooks` changes them. All three take the same keywords:

    start_at_layer: the input is a residual stream [batch, pos, d_model] that enters this layer, not token ids. It
        is taken to have no padding.
    stop_at_layer: the output is the residual stream that would enter this layer, not logits; n_layers gives the
        last one. Layers count from the end when negative.
    positions: compute logits only there (an int, several, or a slice); the pos axis has as many entries.
    past_kv_cache: a KeyValueCache with earlier positions of the same prompts, to which the new ones are added; the
        run computes (and hooks see) only the new ones.

    Where hooks or a cache see the run, the array returned is read-only, as they may hold the same one.

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
        """Token ids [batch, pos], or a text, to logits [batch, pos, d_vocab]."""
        return self._run(tokens, self._part(start_at_layer, stop_at_layer, positions), past=past_kv_cache)

    def run_with_hooks(
        self,
        tokens: npt.ArrayLike,
        fwd_hooks: HookPairs,
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
        return self._run(tokens, self._part(start_at_layer, stop_at_layer, positions), fwd_hooks, past_kv_cache)

    def run_with_cache(
        self,
        tokens: npt.ArrayLike,
        names_filter: NameFilter = None,
        *,
        fwd_hooks: HookPairs = (),
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        positions: Positions = None,
        past_kv_cache: KeyValueCache | None = None,
    ) -> tuple[Array, ActivationCache]:
        """The logits, and the values at every point, or at those that names_filter names (see run_with_hooks).

        fwd_hooks: callbacks that act in the same run; the cache holds the values after them.
        """
        cache = ActivationCache(self.config.n_layers)
        part = self._part(start_at_layer, stop_at_layer, positions)
        return self._run(tokens, part, [*fwd_hooks, (names_filter, cache.keep)], past_kv_cache), cache

    def run_with_gradients(
        self,
        tokens: npt.ArrayLike,
        d_logits: npt.ArrayLike | Callable[[Array], npt.ArrayLike],
        names_filter: NameFilter = None,
        *,
        fwd_hooks: HookPairs = (),
        start_at_layer: int | None = None,
        positions: Positions = None,
        freeze: Collection[str] = (),
    ) -> tuple[Array, ActivationCache, ActivationCache]:
        """The logits, the values, and a metric's derivatives with respect to them: grads[name] is d metric / d value.

        d_logits: the metric's derivative with respect to the logits, an array of their shape, or a function from the
            logits to one. For a logit difference: 1 and -1 at two places (see tinymi.logit_difference).
        names_filter: the points whose values and derivatives are returned; None for all.
        fwd_hooks: the run is the one that they edit. What an edit added counts as a constant, so that the derivative
            passes through it; an edit that cuts a value off does not cut off the derivative above it.
        freeze: any of "pattern", "scale", "gate", which then count as constants (see tinymi.backward.Backward).
        """
        part = self._part(start_at_layer, None, positions)
        _check_freeze(freeze, part)
        points = hook_points(part.layers, embed=part.start is None)
        wanted = {hook.name: hook for hook in select(names_filter, points)}
        read = {name: hook for name, hook in points.items() if hook.point.short in READ}
        values = ActivationCache(self.config.n_layers)
        x = self._checked_input(tokens, part)
        logits = self._run(x, part, [*fwd_hooks, (list(wanted | read), values.keep)])
        back = Backward(self._where(x, part, None), values, wanted, freeze, ActivationCache(self.config.n_layers))
        d = _checked_d_logits(d_logits(logits) if callable(d_logits) else d_logits, logits)
        d_resid = backward(d, part.positions, part.layers, self.weights, self.config, back)
        if part.start is None:
            back.at(None)("embed", d_resid)
        return logits, values.only(wanted), back.grads

    def generate(
        self,
        tokens: npt.ArrayLike,
        max_new_tokens: int = 20,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        fwd_hooks: HookPairs = (),
        use_past_kv_cache: bool = True,
        stop_at_end: bool = True,
    ) -> Tokens:
        """Continue token ids [batch, pos], or a text: the ids of prompt and continuation, [batch, pos + new].

        temperature: 0 takes the likeliest token each time; above 0 it samples (top_k: among the likeliest k; seed).
        fwd_hooks: act in every step, see run_with_hooks.
        use_past_kv_cache: keep keys and values, so that a step computes one position; hooks then see only that one.
            Where hooks make this differ from full runs (compared at the second and the last step) it is a HookError.
        stop_at_end: stop when every row has said one of config.end_tokens; a row that has says it until then.
        """
        ids = self._checked_tokens(tokens)
        steps = self.stream(
            ids,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            fwd_hooks=fwd_hooks,
            use_past_kv_cache=use_past_kv_cache,
            stop_at_end=stop_at_end,
        )
        return np.hstack([ids, *(new[:, None] for new in steps)])

    def stream(
        self,
        tokens: npt.ArrayLike,
        max_new_tokens: int = 20,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        fwd_hooks: HookPairs = (),
        use_past_kv_cache: bool = True,
        stop_at_end: bool = True,
    ) -> Iterator[Tokens]:
        """What `generate` adds, step by step: each new token's ids [batch] as soon as they are known."""
        check_settings(max_new_tokens, temperature, top_k, seed, self.config.d_vocab)
        ids, hooks, rng = self._checked_tokens(tokens), list(fwd_hooks), np.random.default_rng(seed)
        n_prompt, n_total = ids.shape[1], ids.shape[1] + max_new_tokens
        if n_total > self.config.n_ctx:
            raise InputError(
                f"max_new_tokens: {n_prompt} + {max_new_tokens} positions, but the model takes {self.config.limit}; "
                "ask for fewer"
            )
        past = KeyValueCache(len(ids), n_total, self.config, self.weights.dtype) if use_past_kv_cache else None
        last, ends = self._part(None, None, -1), self.config.end_tokens if stop_at_end else ()
        ended = np.zeros(len(ids), dtype=bool)
        for n_pos in range(n_prompt, n_total):
            n_past = past.n_positions(last.layers) if past else 0
            logits = self._run(ids[:, n_past:], last, hooks, past)[:, 0]  # [batch, d_vocab]
            new = np.where(ended, ids[:, -1], sample_token(logits, temperature, top_k, rng))
            ended |= np.isin(new, ends)
            is_last = n_pos == n_total - 1 or bool(ended.all())
            if past and hooks and (n_pos == n_prompt + 1 or is_last):
                check_agreement(logits, self._run(ids, last, hooks)[:, 0], n_pos - 1)
            ids = np.hstack([ids, new[:, None]])
            yield new
            if is_last:
                return

    def _run(
        self, tokens: npt.ArrayLike, part: Part, fwd_hooks: HookPairs = (), past: KeyValueCache | None = None
    ) -> Array:
        """Check what was given, then compute."""
        points = hook_points(part.layers, embed=part.start is None, unembed=part.stop is None)
        hooks = Hooks(fwd_hooks, points)
        x = self._checked_input(tokens, part)
        self._check_room(x, part, past)
        self._check_memory(x, part, past)
        out = self._compute(x, part, self._where(x, part, past), hooks)
        return read_only(out) if hooks else out  # a callback or a cache may hold the same array

    def _where(self, x: npt.NDArray[Any], part: Part, past: KeyValueCache | None) -> Where:
        """Where the positions of a run stand. The first run with a cache tells it of the padding."""
        n_past = past.n_positions(part.layers) if past else 0
        n_padding = (x < 0).sum(axis=1) if part.start is None and x.min() < 0 else np.zeros(1, np.int64)
        if past and n_past:
            if n_padding.any():
                raise InputError(f"tokens: padding ({PADDING}) after the positions of past_kv_cache; it comes first")
            n_padding = past.n_padding
        elif past:
            past.n_padding = n_padding
        return locate(n_padding, n_past, x.shape[1], self.config, self.weights.dtype)._replace(past=past)

    def _compute(self, x: npt.NDArray[Any], part: Part, where: Where, hooks: Hooks) -> Array:
        """`forward`, or those of its three steps that belong to the part."""
        weights, config = self.weights, self.config
        if part.start is None and part.stop is None and part.positions == slice(None):
            return forward(x, where, weights, config, hooks)
        resid = embed(x, weights, hooks.at(None)) if part.start is None else x
        resid = run_layers(resid, part.layers, where, weights, config, hooks)
        if part.stop is not None:
            return resid
        return unembed(resid[:, part.positions], weights, config, hooks.at(None))

    def _part(self, start_at_layer: int | None, stop_at_layer: int | None, positions: Positions) -> Part:
        """The keywords of a run, checked."""
        start = None if start_at_layer is None else self._layer("start_at_layer", start_at_layer)
        stop = None if stop_at_layer is None else self._layer("stop_at_layer", stop_at_layer)
        layers = range(start or 0, self.config.n_layers if stop is None else stop)
        if layers.start > layers.stop:
            raise InputError(
                f"start_at_layer: {start} comes after stop_at_layer {stop}; give a start that is not above the stop"
            )
        if stop is not None and positions is not None:
            raise InputError(
                "positions: a run that stops at a layer computes no logits; index the residual stream instead"
            )
        return Part(start, stop, layers, _position_index(positions))

    def _layer(self, name: str, layer: int) -> int:
        """A layer's number from 0, or n_layers."""
        n_layers = self.config.n_layers
        if not is_int(layer) or not -n_layers <= layer <= n_layers:
            raise InputError(
                f"{name}: layer {layer!r} of a model with layers 0 to {n_layers - 1} (or {n_layers}, the end)"
            )
        return layer + n_layers if layer < 0 else layer

    def _checked_input(self, tokens: npt.ArrayLike, part: Part) -> npt.NDArray[Any]:
        return self._checked_tokens(tokens) if part.start is None else self._checked_residual(tokens)

    def _checked_tokens(self, tokens: npt.ArrayLike) -> Tokens:
        """Token ids [batch, pos]; a text or a list of texts becomes that first."""
        if isinstance(tokens, str) or (isinstance(tokens, list | tuple) and tokens and isinstance(tokens[0], str)):
            return self.to_tokens(tokens)
        ids = as_array(tokens, "tokens")
        if ids.ndim == 1 and ids.dtype.kind in "iu":
            raise InputError(f"tokens: {_kind(ids)}, one prompt without the batch axis; write tokens[None]")
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise InputError(
                f"tokens: {_kind(ids)}, but token ids are integers [batch, pos]; model.to_tokens(text) makes them"
            )
        if ids.size == 0:
            raise InputError(f"tokens: shape {list(ids.shape)} holds no token; give at least one prompt of one token")
        if ids.min() < PADDING or ids.max() >= self.config.d_vocab:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"tokens: id {wrong} is outside the vocabulary, 0 to {self.config.d_vocab - 1}")
        if (ids[:, -1] < 0).any() or ((ids[:, 1:] < 0) & (ids[:, :-1] >= 0)).any():
            raise InputError(f"tokens: padding ({PADDING}) after a token; padding comes before a prompt")
        return ids.astype(np.int64, copy=False)

    def _checked_residual(self, resid: npt.ArrayLike) -> Array:
        x = as_array(resid, "start_at_layer")
        if x.ndim != 3 or x.shape[-1] != self.config.d_model or x.size == 0 or x.dtype.kind != "f":
            raise InputError(
                f"start_at_layer: the input is {_kind(x)}, but must be a residual stream, floats "
                f'[batch, pos, d_model {self.config.d_model}], such as cache["resid_pre", layer]'
            )
        return x.astype(self.weights.dtype, copy=False)

    def _check_room(self, x: npt.NDArray[Any], part: Part, past: KeyValueCache | None) -> None:
        """That the model and the cache take so many positions, and that the positions asked for are among them."""
        n_pos, room, owner = x.shape[1], self.config.n_ctx, "the model"
        if past is not None:
            n_pos, room, owner = n_pos + past.n_positions(part.layers), min(past.n_ctx, room), "past_kv_cache"
            if past.batch != len(x):
                raise InputError(f"past_kv_cache: has {past.batch} rows for a batch of {len(x)}; both must be the same")
        if n_pos > room:
            limit = self.config.limit if room == self.config.n_ctx else f"1 to {room}"
            raise InputError(f"input: {n_pos} positions, but {owner} takes {limit}; shorten the prompt")
        for position in part.positions if isinstance(part.positions, list) else ():
            if not -x.shape[1] <= position < x.shape[1]:
                raise InputError(f"positions: {position}, but the prompt has positions 0 to {x.shape[1] - 1}")

    def _check_memory(self, x: npt.NDArray[Any], part: Part, past: KeyValueCache | None) -> None:
        """That a long prompt's attention scores, which grow with its square, and its logits fit into memory."""
        batch, n_pos = x.shape[:2]
        n_keys = n_pos + (past.n_positions(part.layers) if past else 0)
        n_scores = 3 * batch * self.config.n_heads * n_pos * n_keys  # of one layer, and what softmax makes of them
        n_rows = 0 if part.stop is not None else batch * len(np.arange(n_pos)[part.positions])
        needed = self.weights.dtype.itemsize * (n_scores + n_rows * self.config.d_vocab)
        if needed > 2**30:  # less is not worth the question
            memory.require(
                f"input: a run of {batch} x {n_pos:,} tokens", needed, "shorten the prompt, run fewer prompts at once"
            )

    def top_tokens(self, logits: npt.ArrayLike, k: int = 5) -> list[TopToken]:
        """The k likeliest next tokens of one prompt: rows of text, id, probability.

        logits: [d_vocab], or [pos, d_vocab] or [1, pos, d_vocab], of which the last position is taken.
        """
        array = as_array(logits, "logits")
        if array.ndim == 3 and len(array) == 1:
            array = array[0]
        row = array[-1] if array.ndim == 2 else array
        if row.shape != (self.config.d_vocab,):
            raise InputError(f"logits: {_kind(array)}; give those of one prompt, [pos, d_vocab {self.config.d_vocab}]")
        if not is_int(k) or not 1 <= k <= len(row):
            raise InputError(f"k: {k!r}; give 1 to {len(row)}")
        probs = softmax(row)
        best = np.argsort(-probs, kind="stable")[:k]
        texts = self.to_str_tokens(best)
        return [TopToken(text, int(token), float(probs[token])) for text, token in zip(texts, best)]

    def __repr__(self) -> str:
        c = self.config
        sizes = f"{c.n_layers} layers, {c.n_heads} heads, d_model {c.d_model}, d_mlp {c.d_mlp}, d_vocab {c.d_vocab:,}"
        return f"Model({c.architecture}: {sizes}, {self.weights.dtype})"

    def __getattr__(self, name: str) -> Any:
        """TransformerLens' words that are spelled otherwise here say how."""
        hint = ELSEWHERE.get(name)
        if hint is None:
            raise AttributeError(f"Model has no attribute {name!r}")
        raise AttributeError(f"Model has no attribute {name!r}; it is model.{hint} here")

    # The tokenizer's four verbs, so that a lesson needs one object.

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise InputError(
                "model: has no tokenizer, as its folder has no tokenizer.json; give token ids, or let transformers "
                "make the file from a tokenizer.model (pip install transformers sentencepiece protobuf): "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        return self._tokenizer

    def to_tokens(
        self,
        text: str | Sequence[str] = (),
        *,
        messages: Messages | None = None,
        add_special_tokens: bool = True,
        padding: bool = False,
    ) -> Tokens:
        """Token ids [batch, pos] of a prompt, or of several of equal length.

        padding: prompts may have different lengths; -1 comes before the shorter ones. Runs and `generate` give each
            prompt the values that it has alone, at its own positions; those in the padding mean nothing.
        messages: instead of a text, a conversation such as [{"role": "user", "content": "Hello"}], which the model's
            chat template writes, up to where the assistant's answer begins.
        """
        if messages is not None:
            return self.tokenizer.chat_tokens(messages, self.config)
        return self.tokenizer.to_tokens(
            text, config=self.config, add_special_tokens=add_special_tokens, padding=padding
        )

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


def _position_index(positions: Positions) -> slice | list[int]:
    """Positions as an index that keeps the axis."""
    if positions is None:
        return slice(None)
    if isinstance(positions, slice):
        bounds = (positions.start, positions.stop, positions.step)
        if all(bound is None or is_int(bound) for bound in bounds) and positions.step != 0:
            return positions
    elif (numbers := np.atleast_1d(as_array(positions, "positions"))).dtype.kind in "iu" and numbers.ndim == 1:
        return [int(number) for number in numbers]
    raise InputError(f"positions: {positions!r}, but positions are whole numbers: give one, several, or a slice")


def _check_freeze(freeze: Collection[str], part: Part) -> None:
    if isinstance(freeze, str) or not set(freeze) <= set(FREEZABLE):
        raise InputError(f"freeze: {freeze!r}; give a list of any of {', '.join(FREEZABLE)}")
    if not part.layers:
        raise InputError(f"start_at_layer: {part.start} leaves no layer to go back through; start lower")


def _checked_d_logits(d_logits: npt.ArrayLike, logits: Array) -> Array:
    """The metric's derivative, in the model's type."""
    d = as_array(d_logits, "d_logits")
    if d.shape != logits.shape or d.dtype.kind not in "fiu":
        raise InputError(
            f"d_logits: {_kind(d)}, but the logits are {_kind(logits)}; give the metric's derivative for each of them"
        )
    if not np.isfinite(d).all():
        raise InputError("d_logits: holds NaN or infinity; give finite numbers")
    return d.astype(logits.dtype, copy=False)
