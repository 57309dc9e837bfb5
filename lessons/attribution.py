"""What an attribution graph starts from: two runs with different answers, and one between them with parts frozen.

Then one step back through attention, which is a straight line where the patterns are held; and exchanges in the real
model, by which a graph is tested.
"""

from collections.abc import Mapping
from typing import NamedTuple

from tinymi import ActivationCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import HookPoint

import numpy as np
import numpy.typing as npt

Place = tuple[str, int]  # "z" (heads) or "post" (neurons), and the layer
Masks = Mapping[Place, npt.NDArray[np.bool_]]  # [pair, pos, part]: which heads or neurons are meant


class Pairs(NamedTuple):
    """Clean prompts and corrupted ones: their runs, and those of the corrupted prompts frozen as in the clean runs."""

    model: Model
    tokens: Tokens  # [pair, pos]
    answers: Tokens  # [pair, 2]: right, wrong
    clean: ActivationCache
    corrupted: ActivationCache
    frozen: ActivationCache
    high: Array  # [pair]: the logit difference in the clean run
    whole: Array  # [pair]: how far it falls in the corrupted run
    gap: Array  # [pair]: how far in the frozen one

    def change(self, point: str, i: int) -> Array:
        """Clean minus frozen, all heads side by side: [pair, pos, width]."""
        return np.asarray(self.clean[point, i] - self.frozen[point, i], dtype=float).reshape(*self.tokens.shape, -1)


def difference(logits: Array, answers: Tokens) -> Array:
    return np.asarray(np.take_along_axis(logits[:, -1], answers, axis=1) @ [1, -1])  # [pair]


def make_pairs(model: Model, tokens: Tokens, corrupted_tokens: Tokens, answers: Tokens) -> Pairs:
    """Raises InputError where a stream, divided by another run's norms, grows until it overflows."""
    logits, clean = model.run_with_cache(tokens, positions=-1)
    low, corrupted = model.run_with_cache(corrupted_tokens, positions=-1)
    held = [name for name in clean if name.endswith(("hook_pattern", "hook_scale"))]
    hold = [(held, lambda value, hook: clean[hook.name])]
    with np.errstate(over="ignore", invalid="ignore"):
        frozen_low, frozen = model.run_with_cache(corrupted_tokens, fwd_hooks=hold, positions=-1)
    if not np.isfinite(frozen_low).all():
        where = np.flatnonzero((tokens != corrupted_tokens).any(axis=0))[0]
        problem = f"the frozen run overflows, as the prompts differ at token {where} already"
        raise InputError(f"{problem}; give prompts that differ later, such as the defaults of lesson 21")
    high, *lows = (difference(x, answers) for x in (logits, low, frozen_low))
    return Pairs(model, tokens, answers, clean, corrupted, frozen, high, high - lows[0], high - lows[1])


def attention_back(pairs: Pairs, i: int, d_z: Array) -> Array:
    """From what the heads' numbers are worth, [pair, pos, width], to what the stream they read is: d_model wide."""
    w, config = pairs.model.weights.blocks[i], pairs.model.config
    d_z = np.moveaxis(d_z.reshape(*pairs.tokens.shape, config.n_heads, -1), 2, 1)  # [pair, n_heads, pos, d_head]
    d_v = pairs.clean["pattern", i].mT @ d_z
    d_v = d_v.reshape(len(d_v), config.n_kv_heads, -1, *d_v.shape[2:]).sum(axis=2)  # heads that share values
    d_x = np.moveaxis(d_v, 1, 2).reshape(*pairs.tokens.shape, -1) @ w.W_V.T
    return np.asarray(d_x * w.ln1 / pairs.clean["scale", i, "ln1"])


def exchanged(pairs: Pairs, masks: Masks, *, only: bool = False) -> Array:
    """How far the difference falls with the corrupted run's values at these parts; or, with `only`, all but there."""

    def mix(value: Array, hook: HookPoint) -> Array:
        mask = masks.get((hook.point.short, hook.layer or 0), np.zeros((1, 1, 1), bool)) != only
        return np.where(mask[..., None] if value.ndim == 4 else mask, pairs.corrupted[hook.name], value)

    names = [name for name in pairs.clean if name.endswith(("hook_z", "hook_post"))]
    logits = pairs.model.run_with_hooks(pairs.tokens, [(names, mix)], positions=-1)
    return np.asarray(pairs.high - difference(logits, pairs.answers))  # [pair]
