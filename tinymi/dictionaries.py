"""Dictionaries of features: sparse autoencoders (SAEs) and transcoders, and how well they stand in for a value.

An SAE writes one value of the model as a sum of few directions out of many, its features. A transcoder does the same
for what an MLP makes of its input. `tinymi.load_dictionary` reads those that others have trained.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import ActivationCache, HookPoint
from tinymi.ops import softmax
from tinymi.run import Model

import numpy as np
import numpy.typing as npt

_NUMBERS_AT_ONCE = 1 << 24


class Rows(Protocol):
    """One row per feature: an array, or numbers in a file, of which each use converts what it takes."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, index: Any, /) -> Array: ...


@dataclass(frozen=True)
class Dictionary:
    """Features of one layer: what each reads and what it writes.

    `encode` maps a value [..., d_in] to features [..., n_features], `decode` maps these to what they write. Where
    `writes` names several points (a cross-layer transcoder), that has an axis for them: [..., n_points, d_out].
    """

    reads: str  # the hook point whose value it encodes
    writes: tuple[str, ...]  # the hook points whose values it rebuilds
    encoder: Rows  # [n_features, d_in]
    b_enc: Array  # [n_features]
    decoder: Rows  # [n_features, d_out], or [n_features, n_points, d_out]
    b_dec: Array  # [d_out], of the first point
    b_in: Array | None = None  # [d_in], taken off the value first
    threshold: Array | None = None  # [n_features]: JumpReLU
    k: int | None = None  # only the k largest are active: TopK
    grouped: bool = False  # the largest of each of k groups instead
    W_skip: Array | None = None  # [d_in, d_out], linear, beside the features
    norm_weight: Array | None = None  # [d_in], by which the value at `reads` is multiplied: an MLP's real input

    def __repr__(self) -> str:
        sizes = f"d_in {self.encoder.shape[1]}, d_out {self.decoder.shape[-1]}, {self.n_features:,} features"
        k = "" if self.k is None else f", k {self.k}"
        writes = " to ".join(dict.fromkeys((self.writes[0], self.writes[-1])))
        return f"Dictionary({self.reads} -> {writes}: {sizes}{k})"

    @property
    def n_features(self) -> int:
        return len(self.b_enc)

    @property
    def W_enc(self) -> Array:
        """[d_in, n_features], all of it converted."""
        return self.encoder[:].T

    @property
    def W_dec(self) -> Array:
        """[n_features, d_out], all of it converted."""
        return self.decoder[:]

    def input(self, cache: ActivationCache) -> Array:
        """What it encodes, from a cache of a run: [batch, pos, d_in]."""
        return cache[self.reads] if self.norm_weight is None else cache[self.reads] * self.norm_weight

    def encode(self, x: npt.ArrayLike) -> Array:
        """Values [..., d_in] to features [..., n_features]: none is negative, and most are zero."""
        rows = self._rows(x, self.encoder.shape[1], "encode")
        values = rows if self.b_in is None else rows - self.b_in
        pre = np.empty((len(rows), self.n_features), rows.dtype)
        for part in _parts(self.encoder):
            pre[:, part] = values @ self.encoder[part].T + self.b_enc[part]
        return self._activation(pre).reshape(*np.shape(x)[:-1], -1)

    def _activation(self, pre: Array) -> Array:
        """[row, n_features]"""
        features: Array = np.maximum(pre, 0)
        if self.threshold is not None:
            features *= pre > self.threshold
        if self.k is None:
            return features
        groups = features.reshape(len(features), self.k, -1) if self.grouped else features[:, None]
        n = 1 if self.grouped else self.k
        places = np.argpartition(groups, -n, axis=-1)[..., -n:]
        kept = np.zeros_like(groups)
        np.put_along_axis(kept, places, np.take_along_axis(groups, places, -1), -1)
        return kept.reshape(features.shape)

    def decode(self, features: npt.ArrayLike) -> Array:
        """What features [..., n_features] write, with b_dec and without W_skip: [..., d_out]."""
        rows = self._rows(features, self.n_features, "decode")
        written = np.zeros((len(rows), *self.decoder.shape[1:]), rows.dtype)
        active = np.flatnonzero(rows.any(axis=0))  # only these are read from the file
        for part in _parts(self.decoder, len(active)):
            directions = self.decoder[active[part]]
            written += (rows[:, active[part]] @ directions.reshape(len(directions), -1)).reshape(written.shape)
        first = written[:, 0] if written.ndim == 3 else written
        first += self.b_dec
        return written.reshape(*np.shape(features)[:-1], *written.shape[1:])

    def reconstruct(self, x: npt.ArrayLike) -> Array:
        """The value that the features stand for, [..., d_out], from the input [..., d_in]."""
        if len(self.writes) > 1:
            raise InputError(
                f"reconstruct: {self.writes[0]} is written by features of all layers below, too; give the dictionaries "
                "of all layers to tinymi.reconstruct_across"
            )
        values = self.decode(self.encode(x))
        return values if self.W_skip is None else values + np.asarray(x) @ self.W_skip

    def error(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Array:
        """What the reconstruction from x lacks of y (of x itself for an SAE)."""
        error: Array = np.asarray(x if y is None else y) - self.reconstruct(x)
        return error

    def _rows(self, x: npt.ArrayLike, width: int, name: str) -> Array:
        array = np.asarray(x)
        if array.ndim < 1 or array.shape[-1] != width or array.dtype.kind != "f":
            raise InputError(
                f"{name}: got {array.dtype} of shape {list(array.shape)}; give floats [..., {width}] of {self.reads}"
            )
        return array.reshape(-1, width).astype(self.b_enc.dtype, copy=False)


def reconstruct_across(dictionaries: Sequence[Dictionary], cache: ActivationCache) -> dict[str, Array]:
    """What a cross-layer transcoder rebuilds of a run: each hook point that it writes to, [batch, pos, d_out].

    dictionaries: of all layers, since the features of each write to its own layer and to those above.
    """
    given = {dictionary.writes[0] for dictionary in dictionaries}
    written = {point for dictionary in dictionaries for point in dictionary.writes}
    if missing := sorted(written - given) if any("blocks.0." in point for point in given) else ["layer 0"]:
        raise InputError(f"reconstruct_across: the dictionary of {missing[0]} is missing; give those of all layers")
    rebuilt: dict[str, Array] = {}
    for dictionary in dictionaries:
        values = dictionary.decode(dictionary.encode(dictionary.input(cache)))
        values = values.reshape(*values.shape[:2], len(dictionary.writes), -1)  # [batch, pos, n_points, d_out]
        for i, point in enumerate(dictionary.writes):
            rebuilt[point] = rebuilt.get(point, 0) + values[:, :, i]
    return rebuilt


class Recovered(NamedTuple):
    """The model's loss in nats with the true value, with its reconstruction in its place, and with zero."""

    clean: float
    reconstructed: float
    zero: float

    @property
    def share(self) -> float:
        """1: nothing is lost. 0: as bad as zero."""
        return (self.zero - self.reconstructed) / (self.zero - self.clean)


def unexplained_variance(dictionary: Dictionary, model: Model, tokens: npt.ArrayLike, first: int = 1) -> float:
    """The fraction of variance unexplained: squared error of the reconstruction, over that of the mean.

    tokens: [batch, pos], a text, or several. first: the positions before it are left out, as the attention sink's
    values dwarf all others.
    """
    pairs = [(x, y) for _, _, x, y in _values(dictionary, model, tokens, first)]
    x, y = (np.concatenate(values) for values in zip(*pairs, strict=True))
    return float(np.square(dictionary.error(x, y)).sum() / np.square(y - y.mean(axis=0)).sum())


def loss_recovered(dictionary: Dictionary, model: Model, tokens: npt.ArrayLike, first: int = 1) -> Recovered:
    """How the next-token loss suffers when the reconstruction takes the value's place, at positions from `first` on."""
    losses = []
    for prompt, clean, x, y in _values(dictionary, model, tokens, first):
        rebuilt = dictionary.reconstruct(x)
        patched = [_patched(model, prompt, dictionary.writes[0], new, first) for new in (rebuilt, np.zeros_like(y))]
        losses.append([_loss(logits, prompt, first) for logits in (clean, *patched)])
    return Recovered(*(float(loss) for loss in np.mean(losses, axis=0)))


def _values(
    dictionary: Dictionary, model: Model, tokens: npt.ArrayLike, first: int
) -> Iterator[tuple[Tokens, Array, Array, Array]]:
    """Of each prompt: its tokens, logits, and what the dictionary reads and should write there [pos, d]."""
    for prompt in _prompts(model, tokens):
        if prompt.shape[1] < first + 2:
            raise InputError(f"tokens: a prompt of {prompt.shape[1]}; give {first + 2} or more, as {first} is left out")
        logits, cache = model.run_with_cache(prompt, sorted({dictionary.reads, dictionary.writes[0]}))
        yield prompt, logits, dictionary.input(cache)[0, first:], cache[dictionary.writes[0]][0, first:]


def _prompts(model: Model, tokens: npt.ArrayLike) -> Iterable[Tokens]:
    texts = [tokens] if isinstance(tokens, str) else tokens
    for row in texts:  # type: ignore[union-attr]
        yield model.to_tokens(row) if isinstance(row, str) else np.asarray(row)[None]


def _patched(model: Model, prompt: Tokens, point: str, new: Array, first: int) -> Array:
    def replace(value: Array, hook: HookPoint) -> Array:
        value = value.copy()  # [1, pos, d]
        value[0, first:] = new
        return value

    return model.run_with_hooks(prompt, [(point, replace)])


def _loss(logits: Array, prompt: Tokens, first: int) -> float:
    """The mean of -log P(the next token) over the positions from `first` on."""
    rows, following = logits[0, first:-1], prompt[0, first + 1 :]
    return float(-np.log(softmax(rows)[np.arange(len(rows)), following] + 1e-30).mean())


def _parts(rows: Rows, n: int | None = None) -> Iterator[slice]:
    """Slices of n rows (of all), each small enough to convert at once."""
    n = rows.shape[0] if n is None else n
    step = max(1, _NUMBERS_AT_ONCE // int(np.prod(rows.shape[1:])))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
