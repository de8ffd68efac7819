"""Quantiles: published levels, and histograms."""

import math

import numpy as np
import pytest

from sundog_operator.core.stats import quantiles

BAR = math.log(1 / 0.025)


@pytest.mark.parametrize(
    ("count", "lower", "upper"),
    [(1000, 0.9719, 1), (5000, 0.9846, 0.9946), (20_000, 0.9876, 0.9922), (100_000, 0.9889, 0.9910)],
)
def test_levels_of_p99(count: int, lower: float, upper: float) -> None:
    low, high = quantiles.level_bounds(np.array(float(count)), 0.99, BAR, 20_000, 0.05)
    assert float(low) == pytest.approx(lower, abs=5e-5)
    assert float(high) == pytest.approx(upper, abs=5e-5)


def test_p99_of_few_observations_has_no_upper_bound() -> None:
    assert float(quantiles.level_bounds(np.array(400.0), 0.99, BAR, 1000, 0.025)[1]) == 1
    assert float(quantiles.level_bounds(np.array(800.0), 0.99, BAR, 1000, 0.025)[1]) < 1


def test_bounds_are_rounded_outwards_to_buckets() -> None:
    edges = np.geomspace(1e-3, 100, 583)
    random = np.random.default_rng(7)
    values = random.lognormal(-3, 0.5, 50_000)
    counts, _ = np.histogram(values, edges)
    lower, upper = quantiles.interval(counts.astype(float), edges, 0.9, BAR, 10_000, 0.025)
    truth = math.exp(-3 + 0.5 * 1.2815515655446004)
    assert lower < truth < upper
    assert lower in edges
    assert upper in edges
    assert upper / lower < 1.06


def test_without_counts_there_are_no_bounds() -> None:
    assert quantiles.interval(np.zeros(3), np.arange(4.0), 0.99, BAR, 1000, 0.025) == (-math.inf, math.inf)


def test_a_level_between_two_observations_excludes_only_buckets_that_are_surely_below() -> None:
    counts, edges = np.ones(1000), np.arange(1001.0)
    low, high = (float(each) for each in quantiles.level_bounds(np.array(1000.0), 0.5, BAR, 1000, 0.025))
    lower, upper = quantiles.interval(counts, edges, 0.5, BAR, 1000, 0.025)
    # Each bucket has one observation, so the observation k is in [k − 1, k).
    assert (lower, upper) == (math.floor(1000 * low), math.ceil(1000 * high))
