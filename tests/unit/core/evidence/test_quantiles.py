"""Quantiles: the published levels and p-values, histograms, coverage."""

import math

import numpy as np
import pytest

from sundog_operator.core.evidence import quantiles

BAR = math.log(1 / 0.025)


@pytest.mark.parametrize(
    ("count", "lower", "upper"),
    [(1000, 0.9719, 1), (5000, 0.9846, 0.9946), (20_000, 0.9876, 0.9922), (100_000, 0.9889, 0.9910)],
)
def test_levels_of_p99(count: int, lower: float, upper: float) -> None:
    low, high = quantiles.levels(np.array(float(count)), 0.99, BAR, 20_000, 0.05)
    assert float(low) == pytest.approx(lower, abs=5e-5)
    assert float(high) == pytest.approx(upper, abs=5e-5)


def test_p99_of_few_has_no_upper_bound() -> None:
    assert float(quantiles.levels(np.array(400.0), 0.99, BAR, 1000, 0.025)[1]) == 1
    assert float(quantiles.levels(np.array(800.0), 0.99, BAR, 1000, 0.025)[1]) < 1


@pytest.mark.parametrize(
    ("quantile", "offset", "p"),
    [(0.5, 70, 0.814704), (0.5, 85, 0.0838055), (0.5, 100, 0.0054947), (0.9, 55, 0.0340463)],
)
def test_two_shifted_arms(quantile: float, offset: int, p: float) -> None:
    """1 to 1000 against the same with an offset; buckets of one value each."""
    a, b = np.zeros(1200), np.zeros(1200)
    a[:1000], b[offset : offset + 1000] = 1, 1
    found = quantiles.log_e_same(a, b, quantile, 100, 0.05)
    assert math.exp(-max(found, 0)) == pytest.approx(p, rel=1e-5)


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


def test_nothing_counted_bounds_nothing() -> None:
    assert quantiles.interval(np.zeros(3), np.arange(4.0), 0.99, BAR, 1000, 0.025) == (-math.inf, math.inf)


def test_the_whole_distribution() -> None:
    assert quantiles.band(1000, 100, 0.05) == pytest.approx(0.08204769, abs=5e-7)
    assert quantiles.band(99, 100, 0.05) == 1
    assert quantiles.band(100, 100, 0.05) > quantiles.band(1000, 100, 0.05) > quantiles.band(1000, 100, 0.2)


def test_a_distribution_is_seldom_beyond_its_band_at_any_look() -> None:
    """Uniform values, looked at from the hundredth on."""
    random, outside, runs = np.random.default_rng(11), 0, 200
    looks = np.unique(np.geomspace(100, 3000, 60).astype(int))
    for _ in range(runs):
        values = random.uniform(size=3000)
        for count in looks:
            seen = np.sort(values[:count])
            steps = np.arange(count + 1) / count
            if max((steps[1:] - seen).max(), (seen - steps[:-1]).max()) > quantiles.band(count, 100, 0.05):
                outside += 1
                break
    assert outside / runs <= 0.05
