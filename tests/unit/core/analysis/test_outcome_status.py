"""Values of single arms: their numbers, their units, and intervals that hold at every evaluation."""

import math

import numpy as np
import pytest

from sundog_operator.api import MetricValue
from sundog_operator.core.analysis.outcome_status import make_rate, make_values
from sundog_operator.core.stats import mean_ratio
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric

ALPHA = 0.05


def test_a_rate_has_its_value_interval_and_units_over_all_epochs() -> None:
    epochs = [
        OutcomeEpoch((1, 1), [[OutcomeCounts(1000, 220, 206), OutcomeCounts(1000, 350, 338)]]),
        OutcomeEpoch((1, 1), [[OutcomeCounts(1000, 220, 206), OutcomeCounts(500, 170, 169)]]),
    ]
    control, arm = make_values(OutcomeMetric("bought"), epochs, 0, 1, ALPHA)
    assert (control.value, control.count) == (0.206, 2000)
    assert (arm.value, arm.count) == (0.338, 1500)
    assert control.interval == pytest.approx((0.178, 0.237), abs=0.003)
    assert make_values(OutcomeMetric("bought"), [], 0, 1, ALPHA) == ()


def test_a_mean_and_a_ratio_have_values_in_their_own_unit() -> None:
    million = 10**6
    row = OutcomeCounts(400, 100, 100, 300 * million, 1000 * million**2, 200, 600 * million, 2000 * million**2, 500)
    (mean, _), (ratio, _) = (
        make_values(OutcomeMetric("spent", kind), [OutcomeEpoch((1, 1), [[row, row]])], 0, 1, ALPHA)
        for kind in ("mean", "ratio")
    )
    assert (mean.value, mean.count, ratio.value, ratio.count) == (0.75, 400, 0.5, 400)
    assert mean.interval[0] < 0.75 < mean.interval[1]
    assert ratio.interval[0] < 0.5 < ratio.interval[1]


@pytest.mark.parametrize(
    ("row", "value"),
    [(OutcomeCounts(), None), (OutcomeCounts(50, 10, 10, 10**7, 10**13), 0.2), (OutcomeCounts(1, 9, 9, 1, 1), None)],
)
def test_few_units_or_invalid_counts_have_no_interval_of_a_mean(row: OutcomeCounts, value: float | None) -> None:
    (found, _) = make_values(OutcomeMetric("spent", "mean"), [OutcomeEpoch((1, 1), [[row, row]])], 0, 1, ALPHA)
    assert (found.value, found.interval) == (value, ())


def test_dependent_events_have_a_wider_interval() -> None:
    alone, burst = make_rate(100, 10_000, ALPHA), make_rate(100, 10_000, ALPHA, dispersion=8.0)
    assert burst.interval[0] < alone.interval[0] < 0.01 < alone.interval[1] < burst.interval[1]
    assert make_rate(3, 0, ALPHA) == MetricValue(count=0)


@pytest.mark.parametrize("scale", [0.033, 0.5])
def test_the_interval_of_a_mean_rarely_misses_at_any_of_forty_looks(scale: float) -> None:
    """Over 1000 runs of lognormal values, the mean is outside of any of the intervals in at most α of the runs."""
    generator, looks = np.random.default_rng(3), np.linspace(100, 8000, 40).astype(int)
    mean, missed = math.exp(0.5), 0
    for _ in range(1000):
        values = generator.lognormal(0.0, 1.0, looks[-1])
        sums, squares = np.cumsum(values)[looks - 1], np.cumsum(values**2)[looks - 1]
        averages = sums / looks
        spread = np.sqrt(np.maximum(squares / looks - averages**2, 0.0))
        ends = (
            mean_ratio.average_interval(float(own), float(each), int(units), scale, math.log(1 / ALPHA))
            for own, each, units in zip(averages, spread, looks, strict=True)
        )
        missed += any(not lower <= mean <= upper for lower, upper in ends)
    assert missed <= 50


def test_the_interval_of_a_rate_rarely_misses_at_any_look() -> None:
    generator, missed = np.random.default_rng(5), 0
    for _ in range(150):
        hits = np.cumsum(generator.random(3000) < 0.2)
        ends = (make_rate(int(hits[units - 1]), units, ALPHA).interval for units in range(300, 3001, 300))
        missed += any(not lower <= 0.2 <= upper for lower, upper in ends)
    assert missed <= 9
