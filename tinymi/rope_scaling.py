"""RoPE scaling: how a model is stretched to more positions than it was first trained on.

RoPE turns each pair of numbers by its own frequency. Scaling keeps a share of each frequency and divides the rest of it
by `factor` (`ops.rope_frequencies`). The three kinds differ in which frequencies they keep.
"""

import math
from dataclasses import dataclass, field

from tinymi.arrays import Array

import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """What all kinds have. Linear scaling has no more, and keeps nothing (position interpolation, Chen et al. 2023)."""

    factor: float  # wavelengths that are not kept become this many times longer
    attention_factor: float = field(default=1.0, kw_only=True)  # cosine and sine are multiplied by this

    def kept_share(self, frequencies: Array, rope_base: float) -> Array:
        """Of each frequency, 0 to 1: [d_head / 2]."""
        return np.zeros_like(frequencies)


@dataclass(frozen=True)
class Llama3RopeScaling(RopeScaling):
    """LLaMA 3.1 and later (Dubey et al. 2024): what turns often in the original context is kept."""

    low_freq_factor: float  # a pair that turns so many times, or less, is stretched in full
    high_freq_factor: float  # one that turns so many times, or more, is kept; between them the blend is linear in turns
    original_n_ctx: int  # positions of the context before the stretch

    def kept_share(self, frequencies: Array, rope_base: float) -> Array:
        turns = self.original_n_ctx * frequencies / (2 * math.pi)
        share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        clipped: Array = np.clip(share, 0.0, 1.0)
        return clipped


@dataclass(frozen=True)
class YarnRopeScaling(RopeScaling):
    """YaRN (Peng et al. 2023): the same with a blend linear in the pair's number; queries and keys become larger."""

    beta_fast: float  # a pair that turns so many times in the original context is kept
    beta_slow: float  # one that turns so many times is stretched in full
    original_n_ctx: int  # positions of the context before the stretch
    truncate: bool  # the blend begins and ends at whole pairs

    def kept_share(self, frequencies: Array, rope_base: float) -> Array:
        d_head = 2 * len(frequencies)

        def pair(turns: float) -> float:
            """Which one turns so often: original_n_ctx * rope_base ** (-2 * pair / d_head) = 2 * pi * turns."""
            return d_head * math.log(self.original_n_ctx / (turns * 2 * math.pi)) / (2 * math.log(rope_base))

        first, last = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, d_head - 1)
        pairs = np.arange(d_head // 2, dtype=np.float32)
        stretched: Array = np.clip((pairs - first) / (last - first or 0.001), 0.0, 1.0)
        return 1.0 - stretched
