"""Intervals and correlations against SciPy, and against what a 95 % interval promises."""

import math
from collections.abc import Callable
from typing import Any

from tinymi.teaching import stats

import numpy as np
import pytest
import scipy.stats

DRAWN = np.random.default_rng(7)
SAMPLE, OTHER = DRAWN.exponential(size=25), DRAWN.normal(0.5, 2, size=18)
TIES_A, TIES_B = DRAWN.integers(0, 5, 40), DRAWN.integers(0, 5, 40)


def scipy_interval(samples: tuple[Any, ...], statistic: Callable[..., Any]) -> tuple[float, float]:
    """SciPy's percentile bootstrap, at the level that Hesterberg's expansion gives for the smallest sample."""
    n = min(map(len, samples))
    tail = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    interval = scipy.stats.bootstrap(
        samples, statistic, n_resamples=50_000, method="percentile", confidence_level=1 - 2 * tail, rng=3
    ).confidence_interval
    return float(interval.low), float(interval.high)


def difference(a: Any, b: Any, axis: int = -1) -> Any:
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)


@pytest.mark.parametrize(
    ("estimate", "samples", "statistic"),
    [
        (stats.mean(SAMPLE), (SAMPLE,), np.mean),
        (stats.mean(SAMPLE[:8]), (SAMPLE[:8],), np.mean),
        (stats.mean_difference(SAMPLE, OTHER[:7]), (SAMPLE, OTHER[:7]), difference),
        (stats.paired_difference(SAMPLE[:18], OTHER), (SAMPLE[:18] - OTHER,), np.mean),
    ],
    ids=["mean", "small", "difference", "paired"],
)
def test_intervals_are_scipys(estimate: stats.Estimate, samples: tuple[Any, ...], statistic: Any) -> None:
    assert estimate.value == pytest.approx(float(statistic(*samples)))
    width = estimate.high - estimate.low
    assert (estimate.low, estimate.high) == pytest.approx(scipy_interval(samples, statistic), abs=0.06 * width)


def test_pairs_narrow_the_interval_and_groups_widen_it() -> None:
    subject = DRAWN.normal(0, 5, 30)
    before, after = subject + DRAWN.normal(0, 1, 30), subject + DRAWN.normal(1, 1, 30)
    paired, apart = stats.paired_difference(after, before), stats.mean_difference(after, before)
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)
    groups = np.repeat(range(6), 10)
    values = DRAWN.normal(0, 1, 6)[groups] + DRAWN.normal(0, 0.1, 60)
    grouped, single = stats.mean_by_group(values, groups), stats.mean(values)
    assert (grouped.n, single.n) == (6, 60)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_groups_count_alike_whatever_their_size() -> None:
    assert stats.group_means([1, 2, 3, 9], ["a", "a", "a", "b"]) == [2, 9]
    assert stats.mean_by_group([1, 2, 3, 9], ["a", "a", "a", "b"]).value == 5.5


def coverage(n: int, scale: float = 1.0) -> float:
    """How often the interval of n normal numbers, made narrower by `scale`, holds their mean."""
    samples = np.random.default_rng(11).normal(3, 2, (800, n))
    estimates = [stats.mean(sample) for sample in samples]
    return float(np.mean([scale * (e.low - e.value) <= 3 - e.value <= scale * (e.high - e.value) for e in estimates]))


@pytest.mark.parametrize("n", [8, 30])
def test_a_95_percent_interval_covers_the_mean_in_95_percent_of_samples(n: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(stats, "DRAWS", 1000)
    assert 0.91 < coverage(n) < 0.97
    assert coverage(n, 0.8) < 0.9, "a narrower one would be noticed"


def test_plain_percentiles_would_be_too_narrow_for_small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "DRAWS", 1000)
    monkeypatch.setattr(stats, "tail", lambda n: 0.025)
    assert coverage(8) < 0.9


@pytest.mark.parametrize("n", [6, 8, 20, 500])
def test_the_share_cut_off_is_that_of_students_distribution(n: int) -> None:
    exact = scipy.stats.norm.cdf(-scipy.stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1)))
    assert stats.tail(n) == pytest.approx(float(exact), rel=0.01)


@pytest.mark.parametrize(("a", "b"), [(SAMPLE[:18], OTHER), (TIES_A, TIES_B), (TIES_A, -TIES_A)])
def test_rank_correlation_is_scipys_with_ties_too(a: Any, b: Any) -> None:
    assert stats.rank_correlation(a, b) == pytest.approx(float(scipy.stats.spearmanr(a, b).statistic))
    assert stats.ranks(a).tolist() == scipy.stats.rankdata(a).tolist()


def test_chance_is_what_a_permutation_test_says() -> None:
    chance = stats.chance_correlation(TIES_A, TIES_B)
    rng = np.random.default_rng(5)
    sizes = [abs(scipy.stats.spearmanr(TIES_A, rng.permutation(TIES_B)).statistic) for _ in range(2000)]
    assert chance == pytest.approx(float(np.percentile(sizes, 95)), abs=0.02)
    assert chance == pytest.approx(1.96 / math.sqrt(len(TIES_A) - 1), abs=0.03)  # the large-sample formula


def test_what_is_empty_or_constant_passes_no_bar() -> None:
    empty = stats.mean([])
    assert math.isnan(empty.value)
    assert not empty.low > -math.inf
    assert math.isnan(stats.mean_difference([1.0, 2.0], []).low)
    assert math.isnan(stats.rank_correlation([1, 1, 1], [1, 2, 3]))
    assert stats.mean([2.0]) == (2, 2, 2, 1)


@pytest.mark.parametrize("function", [stats.paired_difference, stats.rank_correlation, stats.mean_by_group])
def test_values_that_do_not_pair_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="3 and 1 values"):
        function([1, 2, 3], [1])


def test_an_estimate_prints_its_interval() -> None:
    assert f"{stats.Estimate(0.741, 0.722, 0.76, 12):.0%}" == "74% [72%, 76%]"
