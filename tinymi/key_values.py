"""The key-value cache: what attention keeps of earlier positions, so that generation computes only new ones."""

import numpy as np
import numpy.typing as npt

from tinymi.arrays import Array
from tinymi.config import Config


class LayerKeyValues:
    """Rotated keys and values of one layer, with room for `n_ctx` positions."""

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike) -> None:
        self._keys = np.empty((batch, n_ctx, config.n_kv_heads, config.d_head), dtype)
        self._values = np.empty_like(self._keys)
        self.n_positions = 0

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Add new positions [batch, pos, n_kv_heads, d_head]; returns those of all positions so far."""
        start, stop = self.n_positions, self.n_positions + k.shape[1]
        self._keys[:, start:stop], self._values[:, start:stop] = k, v
        self.n_positions = stop
        return self._keys[:, :stop], self._values[:, :stop]


class KeyValueCache:
    """The key-value caches of all layers, for a batch of prompts that grow together."""

    def __init__(self, batch: int, n_ctx: int, config: Config, dtype: npt.DTypeLike = np.float32) -> None:
        self._layers = [LayerKeyValues(batch, n_ctx, config, dtype) for _ in range(config.n_layers)]

    def at(self, layer: int) -> LayerKeyValues:
        return self._layers[layer]

    @property
    def n_positions(self) -> int:
        """Positions that every layer holds, which is where the next one begins."""
        return self._layers[-1].n_positions
