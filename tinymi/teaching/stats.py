"""Statistics for lessons: each number with its 95 % interval, and what chance would give.

A sample is a sequence of numbers, one per independent thing: one per template where prompts share templates. The
intervals are percentile bootstraps (Efron 1979), expanded for small samples, where plain ones are too narrow
(Hesterberg 2015, What Teachers Should Know about the Bootstrap, https://arxiv.org/abs/1411.5279). The mean of an empty
sample is NaN, which passes no bar.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[Any]
Labels = Sequence[Any] | npt.NDArray[Any]
DRAWS = 5000
ORDERS = 2000


class Estimate(NamedTuple):
    """A number with its 95 % interval. `f"{estimate:.0%}"` is "74% [72%, 76%]"."""

    value: float
    low: float
    high: float
    n: int  # how many independent things it rests on

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean(values: Numbers) -> Estimate:
    """The mean of a sample."""
    return _estimate(_resampled_means(values, np.random.default_rng(0)), _mean(values), len(values), len(values))


def mean_difference(a: Numbers, b: Numbers) -> Estimate:
    """How far the mean of `a` is above that of `b`, for two independent samples."""
    rng = np.random.default_rng(0)
    draws = _resampled_means(a, rng) - _resampled_means(b, rng)
    return _estimate(draws, _mean(a) - _mean(b), len(a) + len(b), min(len(a), len(b)))


def paired_difference(a: Numbers, b: Numbers) -> Estimate:
    """How far `a` is above `b` on average, for two measurements of the same things: pairs are drawn together."""
    _require_pairs(a, b)
    return mean(np.subtract(a, b))


def mean_by_group(values: Numbers, groups: Labels) -> Estimate:
    """The mean of the groups' means; the bootstrap draws groups (templates, say), not single values."""
    return mean(group_means(values, groups))


def group_means(values: Numbers, groups: Labels) -> list[float]:
    """The mean of each group's values, in the order in which the groups first appear: a sample of its own."""
    _require_pairs(values, groups)
    members: dict[Any, list[float]] = {}
    for value, group in zip(values, groups):
        members.setdefault(group, []).append(float(value))
    return [_mean(group) for group in members.values()]


def rank_correlation(a: Numbers, b: Numbers) -> float:
    """Spearman's: the correlation of the ranks. Ties share their mean rank; NaN where all of `a` or of `b` are equal.

    It has no interval: most pairs in a lesson are the layers or heads of one model, which are no sample of anything.
    `chance_correlation` is the yardstick.
    """
    _require_pairs(a, b)
    rank_a, rank_b = (ranks(numbers) - (len(numbers) + 1) / 2 for numbers in (a, b))
    size = math.sqrt((rank_a @ rank_a) * (rank_b @ rank_b))
    return float(rank_a @ rank_b) / size if size else math.nan


def ranks(values: Numbers) -> npt.NDArray[np.float64]:
    """1 for the smallest; equal values share the mean of their ranks."""
    array = np.asarray(values, dtype=float)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def chance_correlation(a: Numbers, b: Numbers) -> float:
    """The size of rank correlation that 95 % of random orders of `b` stay below."""
    rng = np.random.default_rng(0)
    return float(np.percentile([abs(rank_correlation(a, rng.permutation(b))) for _ in range(ORDERS)], 95))


def _require_pairs(a: Labels, b: Labels) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: give as many of the one as of the other, in pairs")


def _mean(values: Numbers) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _resampled_means(values: Numbers, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if not len(values):
        return np.full(DRAWS, math.nan)
    return np.asarray(rng.choice(np.asarray(values, dtype=float), (DRAWS, len(values))).mean(axis=1))


def _estimate(draws: npt.NDArray[np.float64], value: float, n: int, smallest: int) -> Estimate:
    """smallest: the size of the smallest sample behind it."""
    low, high = np.quantile(draws, [tail(smallest), 1 - tail(smallest)])
    return Estimate(value, float(low), float(high), n)


def tail(n: int) -> float:
    """The share of draws to cut off at each end for a 95 % interval: 0.025 for large n, less for small ones.

    It is P(Z < -t sqrt(n / (n - 1))), with t the 97.5 % point of Student's distribution with n - 1 degrees of freedom:
    a series in 1 / (n - 1), right to 1 % from n = 6 on.
    """
    if n < 2:
        return 0.0
    t = sum(term / (n - 1) ** power for power, term in enumerate((1.95996, 2.3723, 2.8225, 2.5558)))
    return NormalDist().cdf(-t * math.sqrt(n / (n - 1)))
