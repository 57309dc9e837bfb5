"""Generation's two decisions: which token comes next, and whether a hook and the key-value cache agree."""

from tinymi.arrays import Array, Tokens, is_whole
from tinymi.errors import HookError, InputError
from tinymi.ops import softmax

import numpy as np


def choose(logits: Array, temperature: float, top_k: int | None, rng: np.random.Generator) -> Tokens:
    """The next token of each row: [batch, d_vocab] -> [batch].

    temperature 0 takes the likeliest; above 0 it samples from softmax(logits / temperature), among the top_k
    likeliest if given.
    """
    if np.isnan(logits).any():
        raise InputError(
            "generate: the logits hold NaN, so that no token is the likeliest; look for a warning about the weights "
            "when the model was loaded"
        )
    if temperature == 0:
        return np.asarray(logits.argmax(axis=-1), dtype=np.int64)
    scaled = logits / temperature
    if top_k is not None:
        bound = np.sort(scaled, axis=-1)[:, -top_k, None]
        scaled = np.where(scaled < bound, -np.inf, scaled)
    drawn = [rng.choice(len(p), p=p / p.sum()) for p in softmax(scaled).astype(np.float64)]
    return np.array(drawn, dtype=np.int64)


def check_settings(max_new_tokens: int, temperature: float, top_k: int | None, seed: int, d_vocab: int) -> None:
    """Raise InputError for settings that mean nothing."""
    if not is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens!r}; give 1 or more, a whole number")
    if not isinstance(temperature, int | float | np.number) or not (temperature == 0 or 1e-6 <= temperature < np.inf):
        raise InputError(
            f"temperature: {temperature!r}; give 0 for the likeliest token, or a number from 1e-6 on to sample"
        )
    if top_k is not None and (not is_whole(top_k) or not 1 <= top_k <= d_vocab):
        raise InputError(f"top_k: {top_k!r}; give 1 to {d_vocab}, or None for all tokens")
    if not is_whole(seed) or seed < 0:
        raise InputError(f"seed: {seed!r}; give 0 or more, a whole number")


def check_agreement(cached: Array, recomputed: Array, n_pos: int) -> None:
    """Raise HookError where hooks make a run with a key-value cache differ from a full one.

    cached, recomputed: logits [batch, d_vocab] of the same position. The cache gives hooks only the new position,
    and keeps what they did to earlier ones; a hook that treats positions differently then means something else.
    """
    largest = float(np.abs(cached - recomputed).max())
    allowed = 1e-3 * float(np.ptp(recomputed))
    if not largest <= allowed:
        raise HookError(
            f"generate: with these hooks the key-value cache gives other logits than a full run (largest difference "
            f"{largest:.3g} at position {n_pos - 1}, allowed {allowed:.3g}), as they treat positions differently: "
            "pass use_past_kv_cache=False"
        )
