"""Several tests and arms, and sample sizes."""

import math

import numpy as np
import pytest

from sundog_operator.core.forecast import experiment_simulation
from sundog_operator.core.forecast.experiment_simulation import ControlBaseline, ExperimentDesign
from sundog_operator.core.stats import events_needed, multiple_testing
from sundog_operator.core.stats.outcome_counts import OutcomeMetric


def test_discoveries_by_hand() -> None:
    """Four nulls at 0.1: the thresholds are 40, 20, 13.3 and 10."""
    assert multiple_testing.find_discoveries(np.log([50.0, 15.0, 14.0, 1.0]), 0.1) == [0, 1, 2]
    assert multiple_testing.find_discoveries(np.log([39.0, 19.0, 13.0, 9.0]), 0.1) == []
    assert multiple_testing.find_discoveries(np.log([1.0, 41.0]), 0.1) == [1]


@pytest.mark.parametrize(("nulls", "others"), [(20, 0), (15, 5), (5, 15)])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_false_discovery_rate_is_at_most_alpha(nulls: int, others: int, shared: float) -> None:
    """Likelihood ratios of normal means, which are exact e-values, with nulls that are independent or nearly the same."""
    draw, shift, alpha, rates = np.random.default_rng(1), 3.0, 0.1, []
    for _ in range(2000):
        common, own = draw.standard_normal(), draw.standard_normal(nulls + others)
        values = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
        values[nulls:] += shift
        found = multiple_testing.find_discoveries(shift * values - shift**2 / 2, alpha)
        rates.append(sum(index < nulls for index in found) / max(1, len(found)))
    assert np.mean(rates) <= alpha * nulls / (nulls + others)


@pytest.mark.parametrize(("weight", "ratio"), [(0.05, 6), (0.25, 2), (0.5, 1.5), (1.0, 1.25)])
def test_the_allowed_ratio_of_a_step(weight: float, ratio: float) -> None:
    assert multiple_testing.allowed_ratio(0.25, weight) == pytest.approx(ratio)


def test_weights_have_a_floor_and_a_sum_of_one() -> None:
    weights = multiple_testing.floor_weights(np.array([0.9, 0.1, 0.0]), 0.05)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("rate", "uplift", "units"),
    [
        (0.001, 1, 23_500),
        (0.001, 0.5, 78_000),
        (0.01, 1, 2300),
        (0.01, 0.2, 42_700),
        (0.01, 0.1, 163_000),
        (0.05, 0.1, 31_000),
        (0.1, 0.05, 58_000),
        (0.5, 0.01, 157_000),
    ],
)
def test_the_sample_of_one_look(rate: float, uplift: float, units: int) -> None:
    half_a_digit = 50 if units % 1000 else 500
    found = experiment_simulation.fixed_sample_units(
        ExperimentDesign(OutcomeMetric("rate"), (0.5, 0.5), alpha=0.025), ControlBaseline(rate), uplift, power=0.8
    )
    assert found / 2 == pytest.approx(units, abs=half_a_digit)


@pytest.mark.parametrize(
    ("weight", "ratio", "events"), [(0.05, 2, 286), (0.05, 5, 37), (0.25, 2, 87), (0.25, 5, 15), (0.5, 1.5, 232)]
)
def test_events_until_harm_against_the_table(weight: float, ratio: float, events: int) -> None:
    """The table's mixture is two-sided and tuned to the number itself; ours is one-sided."""
    found = events_needed.events_needed(ratio, 1.0, weight, math.log(20), "above")
    assert 0.75 * events < found < events


def test_a_ratio_within_the_null_is_never_decided() -> None:
    assert events_needed.events_needed(1.0, 1.25, 0.5, math.log(20), "above") == math.inf
    assert events_needed.events_needed(1.25, 1.25, 0.5, math.log(20), "below") == math.inf
