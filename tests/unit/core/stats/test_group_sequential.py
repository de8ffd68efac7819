"""Group-sequential tests: published bounds and errors, their power, and simulations."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from sundog_operator.core.stats import group_sequential
from sundog_operator.core.stats.group_sequential import Spending

Z = float(ndtri(0.975))


def pocock(share: float, alpha: float) -> float:
    """Spend about as much at every look: α·log(1 + (e − 1)·t)."""
    return alpha * math.log1p((math.e - 1) * share)


@pytest.mark.parametrize(
    ("looks", "percent"),
    [
        *((1, 5.0), (2, 8.3), (3, 10.7), (5, 14.2), (10, 19.3), (14, 22.0)),
        *((20, 24.8), (30, 28.0), (50, 32.0), (100, 37.4), (200, 42.4)),
    ],
)
def test_the_error_of_unplanned_looks(looks: int, percent: float) -> None:
    assert 100 * group_sequential.peeking_error_rate(looks, 0.05) == pytest.approx(percent, abs=0.051)


@pytest.mark.parametrize(
    ("spending", "bounds"),
    [
        (group_sequential.obrien_fleming, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        (pocock, [2.4380, 2.4268, 2.4102, 2.3966, 2.3860]),
    ],
)
def test_five_looks(spending: Spending, bounds: list[float]) -> None:
    found = group_sequential.spending_bounds(spending, 5, 0.05)
    assert found == pytest.approx(bounds, abs=2e-4)
    assert group_sequential.crossing_probability(found) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("spending", [group_sequential.obrien_fleming, pocock])
@pytest.mark.parametrize("looks", [1, 3, 40])
def test_all_of_the_error_is_spent_and_no_more(spending: Spending, looks: int) -> None:
    assert group_sequential.crossing_probability(
        group_sequential.spending_bounds(spending, looks, 0.01)
    ) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize(("size", "correlation", "percent"), [(20, 0.05, 16), (20, 0.1, 25), (50, 0.1, 42)])
def test_correlated_requests_inflate_the_error(size: int, correlation: float, percent: float) -> None:
    """One look that takes m correlated requests of each user as independent: Z is too large by the root of 1 + (m − 1)·ICC."""
    found = group_sequential.crossing_probability([Z / math.sqrt(1 + (size - 1) * correlation)])
    assert 100 * found == pytest.approx(percent, abs=0.5)


def test_the_drift_has_the_requested_power() -> None:
    bounds = group_sequential.spending_bounds(group_sequential.obrien_fleming, 5, 0.05)
    one, five = group_sequential.required_drift([Z], 0.8), group_sequential.required_drift(bounds, 0.8)
    assert one == pytest.approx(Z + float(ndtri(0.8)), abs=1e-4)
    assert group_sequential.crossing_probability(bounds, five) == pytest.approx(0.8, abs=1e-6)
    # Jennison and Turnbull give 1.028 for O'Brien and Fleming's own bounds.
    assert 1.02 < (five / one) ** 2 < 1.03


@pytest.mark.parametrize("looks", [1, 5])
def test_no_drift_is_needed_where_chance_has_the_power(looks: int) -> None:
    """At impractical levels, all the error is spent, and no more."""
    assert (
        group_sequential.required_drift(
            group_sequential.spending_bounds(group_sequential.obrien_fleming, looks, 0.9), 0.8
        )
        == 0
    )
    everything = group_sequential.spending_bounds(group_sequential.obrien_fleming, looks, 1.0)
    assert everything[-1] == pytest.approx(0, abs=1e-6)
    assert group_sequential.crossing_probability(everything) == pytest.approx(1)


@pytest.mark.parametrize("drift", [0.0, 1.5, 3.0])
def test_a_simulation_crosses_as_often(drift: float) -> None:
    bounds, runs = group_sequential.spending_bounds(pocock, 4, 0.05), 40_000
    steps = np.random.default_rng(3).normal(drift / 2, 1, (runs, 4))
    z = steps.cumsum(-1) / np.sqrt(np.arange(1, 5))
    share = (np.abs(z) >= bounds).any(-1).mean()
    expected = group_sequential.crossing_probability(bounds, drift)
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / runs))
