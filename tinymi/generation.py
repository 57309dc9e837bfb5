"""Generation: which token comes next, and the key-value cache, with which a step computes one position only."""

import copy

from tinymi.arrays import Array, Tokens, is_int
from tinymi.config import Config
from tinymi.errors import HookError, InputError
from tinymi.ops import softmax

import numpy as np
import numpy.typing as npt


class LayerKeyValues:
    """Rotated keys, and values, of one layer, with room for `n_ctx` positions."""

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike) -> None:
        self._keys = np.empty((batch, n_ctx, config.n_kv_heads, config.d_head), dtype)
        self._values = np.empty_like(self._keys)
        self.n_positions = 0

    def repeat(self, times: int) -> "LayerKeyValues":
        new = copy.copy(self)
        new._keys = self._keys.repeat(times, axis=0)
        new._values = self._values.repeat(times, axis=0)
        return new

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add new positions [batch, pos, n_kv_heads, d_head]; returns those of all positions so far."""
        start, stop = self.n_positions, self.n_positions + k.shape[1]
        self._keys[:, start:stop] = k
        self._values[:, start:stop] = v
        self.n_positions = stop
        return self._keys[:, :stop], self._values[:, :stop]


class KeyValueCache:
    """The keys and values of all layers, for a batch of prompts that grow together.

    batch, n_ctx: how many prompts, and how many positions of each it has room for. Pass it as `past_kv_cache` to runs
    of the same batch through the same layers: each run continues where the one before stopped.
    """

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike = np.float32) -> None:
        self.batch = batch
        self.n_ctx = n_ctx
        self.n_padding: Tokens = np.zeros(1, np.int64)  # [batch], or [1] for all; see tinymi.tokenizer.PADDING
        self._layers = [LayerKeyValues(batch, n_ctx, config, dtype) for _ in range(config.n_layers)]

    def __repr__(self) -> str:
        positions = [layer.n_positions for layer in self._layers]
        return f"KeyValueCache({self.batch} prompts, {max(positions)} of {self.n_ctx} positions)"

    def at(self, layer: int) -> LayerKeyValues:
        return self._layers[layer]

    def n_positions(self, layers: range) -> int:
        """How many positions each of these layers holds: where the next run begins. InputError if they differ."""
        counts = {self._layers[layer].n_positions for layer in layers}
        if len(counts) > 1:
            raise InputError(
                f"past_kv_cache: layers {layers.start} to {layers.stop - 1} hold different numbers of positions, "
                f"{sorted(counts)}; run through the same layers as in the runs before"
            )
        return max(counts, default=0)

    def repeat(self, times: int) -> "KeyValueCache":
        """A copy with each prompt `times` times in a row: several endings for each beginning."""
        new = copy.copy(self)
        new.batch = self.batch * times
        if len(self.n_padding) > 1:
            new.n_padding = self.n_padding.repeat(times)
        new._layers = [layer.repeat(times) for layer in self._layers]
        return new


def sample_token(logits: Array, temperature: float, top_k: int | None, rng: np.random.Generator) -> Tokens:
    """The next token of each prompt: [batch, d_vocab] -> [batch].

    temperature 0 takes the likeliest; above 0 it samples from softmax(logits / temperature), among the top_k
    likeliest if given. Raises InputError for logits that hold NaN.
    """
    if np.isnan(logits).any():
        raise InputError(
            "generate: the logits hold NaN, so no token is the likeliest; look for a warning about the weights when "
            "the model was loaded"
        )
    if temperature == 0:
        return np.asarray(logits.argmax(axis=-1), dtype=np.int64)
    scaled = logits / temperature
    if top_k is not None:
        threshold = np.sort(scaled, axis=-1)[:, -top_k, None]
        scaled = np.where(scaled < threshold, -np.inf, scaled)
    probabilities = softmax(scaled).astype(np.float64)
    return np.array([rng.choice(len(p), p=p / p.sum()) for p in probabilities], dtype=np.int64)


def check_settings(max_new_tokens: int, temperature: float, top_k: int | None, seed: int, d_vocab: int) -> None:
    """Raise InputError for settings of `generate` that are out of range."""
    if not is_int(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens!r}; give an integer, 1 or more")
    if not isinstance(temperature, int | float | np.number) or not (temperature == 0 or 1e-6 <= temperature < np.inf):
        raise InputError(f"temperature: {temperature!r}; give 0 for the likeliest token, or at least 1e-6 to sample")
    if top_k is not None and (not is_int(top_k) or not 1 <= top_k <= d_vocab):
        raise InputError(f"top_k: {top_k!r}; give 1 to {d_vocab}, or None for all tokens")
    if not is_int(seed) or seed < 0:
        raise InputError(f"seed: {seed!r}; give an integer, 0 or more")


def check_agreement(cached: Array, recomputed: Array, position: int) -> None:
    """Raise HookError where hooks make a run with a key-value cache differ from a full one.

    cached, recomputed: logits [batch, d_vocab] at the same position. With the cache, hooks see only the new position,
    and what they did to earlier ones stays; a hook that treats positions differently then does something else.
    """
    difference = float(np.abs(cached - recomputed).max())
    allowed = 1e-3 * float(np.ptp(recomputed))
    if not difference <= allowed:
        raise HookError(
            f"generate: with these hooks the key-value cache gives other logits than a full run (they differ by up to "
            f"{difference:.3g} at position {position}, allowed is {allowed:.3g}), because the hooks treat positions "
            "differently; pass use_past_kv_cache=False"
        )
