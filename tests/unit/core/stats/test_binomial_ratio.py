"""Test of the ratio of two rates by known numbers of units."""

import math

import numpy as np
import pytest
from scipy.special import xlog1py, xlogy

from simulated_rates import false_rates
from sundog_operator.core.stats.binomial_ratio import BinomialEvidence, UnitCounts
from sundog_operator.core.stats.pooled_count_ratio import RatioEvidence, make_mixture

Row = tuple[int, int, int, int]
MIXTURE = make_mixture(0.1)


def evidence(*epochs: Row, tested: float = 1.0) -> BinomialEvidence:
    """Return the evidence of epochs, each (units, events) of control and of the treatment."""
    rows = np.array(epochs, float)
    return BinomialEvidence((UnitCounts(rows[:, 0], rows[:, 1]), UnitCounts(rows[:, 2], rows[:, 3])), MIXTURE, tested)


@pytest.mark.parametrize("row", [(1000, 200, 1100, 363), (500, 500, 700, 600), (700, 600, 500, 500), (90, 0, 80, 9)])
@pytest.mark.parametrize("log_ratio", [-0.7, 0.0, 0.4])
def test_each_ratio_has_the_base_rate_of_highest_likelihood(row: Row, log_ratio: float) -> None:
    units, events, others, other_events = row
    base = np.linspace(1e-9, min(1.0, math.exp(-log_ratio)) - 1e-9, 200_001)
    other = np.minimum(base * math.exp(log_ratio), 1)
    values = xlogy(events, base) + xlog1py(units - events, -base)
    values = values + xlogy(other_events, other) + xlog1py(others - other_events, -other)
    found = evidence(row)._profile(np.array([log_ratio])).sum()
    assert found == pytest.approx(values.max(), abs=1e-3)


@pytest.mark.parametrize(
    ("row", "ratio"),
    [((1000, 200, 1100, 363), 1.65), ((500, 500, 700, 350), 0.5), ((90, 9, 80, 0), 0.0), ((90, 0, 80, 9), math.inf)],
)
def test_the_estimate_is_that_of_the_arms_own_rates(row: Row, ratio: float) -> None:
    found, likelihood = evidence(row).maximum_likelihood()
    lower, upper = evidence(row).interval(4.0)
    assert float(found) == pytest.approx(ratio)
    assert likelihood >= 0
    assert lower <= found <= upper


def test_the_ends_of_the_interval_reach_the_bar() -> None:
    epochs = (900, 700, 300, 260), (200, 50, 600, 190)
    own = evidence(*epochs)
    for end in own.interval(4.0):
        excess = own.two_sided() - own._log_likelihood(np.log([end]))[0]
        assert excess == pytest.approx(4.0, abs=1e-6)


def test_rare_events_have_the_likelihood_of_events_alone() -> None:
    own = evidence((10**7, 900, 10**7, 1100))
    by_events = RatioEvidence(np.array([900.0]), np.array([1100.0]), np.array([0.5]), MIXTURE)
    assert float(own.above()) == pytest.approx(float(by_events.above()), abs=0.01)


def test_an_epoch_of_few_units_does_not_count() -> None:
    assert float(evidence((29, 0, 500, 500)).above()) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("base", "share", "tested"),
    [(0.001, 0.5, 1.0), (0.5, 0.1, 1.1), (0.72, 0.9, 0.9), (0.97, 0.1, 1.0), (0.999, 0.5, 0.9)],
)
def test_an_arm_at_the_tested_ratio_is_rarely_called_better_or_worse(base: float, share: float, tested: float) -> None:
    units = 5000 if base < 0.01 else 500
    assert max(false_rates(base, share, tested, units=units, runs=300, looks=40)) <= 0.05


def test_arms_beside_each_other_have_the_evidence_of_each_alone() -> None:
    epochs = np.array([[(1000, 200), (900, 100)], [(500, 300), (800, 300)]], float)
    control = UnitCounts(np.array([[1000.0, 900.0]] * 2), np.array([[210.0, 90.0]] * 2))
    both = BinomialEvidence((control, UnitCounts(epochs[..., 0], epochs[..., 1])), MIXTURE).maximum_likelihood()
    for place, rows in enumerate(epochs):
        alone = evidence(*((1000, 210, *rows[0]), (900, 90, *rows[1]))).maximum_likelihood()
        assert [float(part[place]) for part in both] == pytest.approx([float(part) for part in alone])
