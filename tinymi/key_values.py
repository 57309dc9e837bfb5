"""The key-value cache: what attention keeps of earlier positions, so that generation computes only new ones."""

import copy

from tinymi.arrays import Array
from tinymi.config import Config
from tinymi.errors import InputError

import numpy as np
import numpy.typing as npt


class LayerKeyValues:
    """Rotated keys and values of one layer, with room for `n_ctx` positions."""

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike) -> None:
        self._keys = np.empty((batch, n_ctx, config.n_kv_heads, config.d_head), dtype)
        self._values = np.empty_like(self._keys)
        self.n_positions = 0

    def repeat(self, times: int) -> "LayerKeyValues":
        new = copy.copy(self)
        new._keys, new._values = self._keys.repeat(times, axis=0), self._values.repeat(times, axis=0)
        return new

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add new positions [batch, pos, n_kv_heads, d_head]; returns those of all positions so far."""
        start, stop = self.n_positions, self.n_positions + k.shape[1]
        self._keys[:, start:stop], self._values[:, start:stop] = k, v
        self.n_positions = stop
        return self._keys[:, :stop], self._values[:, :stop]


class KeyValueCache:
    """The key-value caches of all layers, for a batch of prompts that grow together.

    batch, n_ctx: rows, and positions that it has room for. Fill it by passing it as `past_kv_cache` to runs of the
    same batch and the same layers; each run goes on where the one before stopped.
    """

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike = np.float32) -> None:
        self.batch, self.n_ctx = batch, n_ctx
        self._layers = [LayerKeyValues(batch, n_ctx, config, dtype) for _ in range(config.n_layers)]

    def at(self, layer: int) -> LayerKeyValues:
        return self._layers[layer]

    def n_positions(self, layers: range) -> int:
        """How many positions these layers hold, which is where the next one begins. They must hold as many each."""
        held = {self._layers[layer].n_positions for layer in layers}
        if len(held) > 1:
            raise InputError(
                f"past_kv_cache: layers {layers.start} to {layers.stop - 1} hold {sorted(held)} positions; a run that "
                "goes on must go through the same layers as those before it"
            )
        return max(held, default=0)

    def repeat(self, times: int) -> "KeyValueCache":
        """A copy with each row `times` times, one after the other: several endings for each beginning."""
        new = copy.copy(self)
        new.batch, new._layers = self.batch * times, [layer.repeat(times) for layer in self._layers]
        return new
