"""Means: the published figures, adjustment by a covariate, groups of units."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from sundog_operator.core.evidence import binary, means
from sundog_operator.core.evidence.means import Estimate


def one(value: float) -> np.ndarray:
    return np.asarray(float(value))


def approximate(optimum: float, alpha: float) -> float:
    """ρ² without Lambert's W, with which some of the figures were printed."""
    bar = -2 * math.log(alpha)
    return (bar + math.log(bar + 1)) / optimum


def test_the_tuning() -> None:
    assert math.sqrt(means.tuned(1000, 0.05)) == pytest.approx(0.0906199, abs=5e-8)
    assert math.sqrt(approximate(1000, 0.05)) == pytest.approx(0.0890851, abs=5e-8)


@pytest.mark.parametrize(
    ("count", "halfwidth", "times"),
    [
        (100, 0.382322, 1.951),
        (1000, 0.095979, 1.549),
        (10_000, 0.032463, 1.656),
        (100_000, 0.011278, 1.820),
    ],
)
def test_halfwidths_at_unit_variance(count: int, halfwidth: float, times: float) -> None:
    """Also as times that of one look."""
    estimate = Estimate(one(0), one(1 / count), one(count))
    found = float(means.halfwidth(estimate, means.tuned(1000, 0.05), 0.05))
    assert found == pytest.approx(halfwidth, abs=5e-7)
    assert found * math.sqrt(count) / float(ndtri(0.975)) == pytest.approx(times, abs=5e-4)


def test_a_bound_on_one_side() -> None:
    estimate = Estimate(one(0), one(1 / 1000), one(1000))
    found = float(means.upper_distance(estimate, approximate(1000, 0.1), 0.05))
    assert found == pytest.approx(0.087883, abs=5e-7)
    assert found * math.sqrt(1000) / float(ndtri(0.95)) == pytest.approx(1.690, abs=5e-4)


def test_the_normal_mixture() -> None:
    """1000 pairs, a difference of 0.1, σ² = 1, τ² = 0.01; τ² = ρ²·n·V."""
    variance, tau2 = 2 / 1000, 0.01
    found = means.log_e(one(0.1), one(variance), one(2000), tau2 / (2000 * variance))
    assert float(found) == pytest.approx(1.187454, abs=5e-7)
    assert math.exp(-float(found)) == pytest.approx(0.30500, abs=5e-6)


def test_the_mixture_of_a_sum() -> None:
    """A sum of 10 at an intrinsic time of 100, tuned for 100; then the bound at 0.05."""
    rho2 = 1 / float(binary.tightest(100, 0.05))
    assert float(means.log_e(one(10), one(100), one(100), rho2)) == pytest.approx(-0.6510052, abs=5e-8)
    mean = Estimate(one(0), one(1 / 100), one(100))
    assert 100 * float(means.halfwidth(mean, rho2, 0.05)) == pytest.approx(30.35209, abs=5e-6)


def test_two_rates_of_ten_thousand() -> None:
    """500 and 580: with z = 2.503 one look would call it, looking at any time does not."""
    variance, rho2 = 0.05 * 0.95 / 1e4 + 0.058 * 0.942 / 1e4, means.tuned(20_000, 0.05)
    z = 0.008 / math.sqrt(variance)
    assert (z, 2 * float(ndtr(-z))) == pytest.approx((2.503, 0.012), abs=5e-4)
    unit = Estimate(one(0), one(1 / 20_000), one(20_000))
    halfwidth = math.sqrt(20_000 * variance) * float(means.halfwidth(unit, rho2, 0.05))
    assert halfwidth == pytest.approx(0.009700, abs=5e-7)
    assert float(means.log_e(one(0.008), one(variance), one(20_000), rho2)) == pytest.approx(1.6827, abs=5e-5)


def test_two_rates_by_their_counts() -> None:
    count, total = np.array([[[10_000.0, 10_000.0]]]), np.array([[[500.0, 580.0]]])
    found = means.difference(count, total, total)
    assert float(found.value[0]) == pytest.approx(0.008)
    assert float(found.variance[0]) == pytest.approx(0.05 * 0.95 / 9999 + 0.058 * 0.942 / 9999)


def test_relative_uplift() -> None:
    a, b = (
        Estimate(one(hits / trials), one(hits / trials * (1 - hits / trials) / trials), one(trials))
        for hits, trials in ((1396, 3000), (2422, 3461))
    )
    found = means.uplift(a, b)
    n, v = float(found.observations), float(found.variance)
    rho2 = approximate(5000, 0.05)
    spread = n * rho2 + 1
    halfwidth = math.sqrt(n * v) * math.sqrt(2 * spread / (n**2 * rho2) * math.log(math.sqrt(spread) / 0.05))
    assert float(found.value) == pytest.approx(0.50386, abs=5e-6)
    assert float(found.value) - halfwidth == pytest.approx(0.40098, abs=5e-6)
    assert float(found.value) + halfwidth == pytest.approx(0.60675, abs=5e-6)


def test_epochs_are_strata() -> None:
    """Weights and base change together: a pooled mean would show a difference where there is none."""
    count = np.array([[950.0, 50.0], [500.0, 500.0]])
    total = count * np.array([[1.0], [3.0]])
    squares = count * np.array([[1.0], [9.0]]) + count
    found = means.difference(count, total, squares)
    pooled = total.sum(0) / count.sum(0)
    assert abs(pooled[1] - pooled[0]) > 0.5
    assert float(found.value) == pytest.approx(0)
    assert float(found.observations) == 2000


def test_a_young_epoch_says_nothing() -> None:
    count = np.array([[1000.0, 29.0]])
    assert math.isnan(float(means.difference(count, count, count).value))


@pytest.mark.parametrize(("correlation", "saved"), [(0.3, 0.09), (0.5, 0.25), (0.7, 0.49), (0.9, 0.81)])
def test_a_covariate_takes_its_share_of_the_variance(correlation: float, saved: float) -> None:
    random = np.random.default_rng(5)
    x = random.normal(10, 2, (2, 200_000))
    y = 5 + correlation * (x - 10) + random.normal(0, 2 * math.sqrt(1 - correlation**2), x.shape)
    count = np.full((1, 2), x.shape[1], float)

    def sums(values: np.ndarray) -> np.ndarray:
        return values.sum(-1)[None, :]

    theta = means.slope(count, sums(y), sums(x), sums(x * x), sums(x * y))
    plain = means.difference(count, sums(y), sums(y * y))
    moments = means.adjusted(sums(y), sums(y * y), sums(x), sums(x * x), sums(x * y), theta)
    adjusted = means.difference(count, moments.total, moments.squares)
    assert float(1 - adjusted.variance / plain.variance) == pytest.approx(saved, abs=0.01)
    assert float(adjusted.value - theta * 0) == pytest.approx(
        float(plain.value - theta * (x[1].mean() - x[0].mean())), abs=1e-9
    )


def test_groups_of_one_unit_are_the_delta_method() -> None:
    random = np.random.default_rng(6)
    count = random.integers(1, 20, 500).astype(float)
    total = random.binomial(count.astype(int), 0.1).astype(float)
    found = means.ratio_by_groups(total, count)
    n, s, mean_n, mean_s = 500, total, count.mean(), total.mean()
    covariance = np.cov(s, count)
    delta = (
        covariance[0, 0] / mean_n**2
        - 2 * mean_s * covariance[0, 1] / mean_n**3
        + mean_s**2 * covariance[1, 1] / mean_n**4
    ) / n
    assert float(found.variance) == pytest.approx(delta, rel=1e-9)


def test_not_inferior_within_the_margin() -> None:
    a, b = Estimate(one(100), one(1), one(5000)), Estimate(one(105), one(1), one(5000))
    found = means.inferiority(a, b, 0.10)
    assert float(found.value) == pytest.approx(-5)
    assert float(found.variance) == pytest.approx(1 + 1.1**2)
