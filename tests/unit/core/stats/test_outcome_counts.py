"""Counts of outcomes: which are consistent, and the value and deviation of a unit that they show."""

import numpy as np
import pytest

from sundog_operator.core.stats.outcome_counts import MILLIONTHS, OutcomeCounts, OutcomeMetric, describe_units


def counted(y: np.ndarray, x: np.ndarray) -> OutcomeCounts:
    """Return the counts of units with whole values y and x."""
    y, x = MILLIONTHS * y, MILLIONTHS * x
    sums = (int(y.sum()), int((y * y).sum()), int((x != 0).sum()), int(x.sum()), int((x * x).sum()), int((x * y).sum()))
    return OutcomeCounts(len(y), int((y != 0).sum()), int((y > 0).sum()), *sums)


def values() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    x = draw.integers(0, 90, 400).astype(object)
    return x + draw.integers(0, 60, 400).astype(object), x + 10


@pytest.mark.parametrize(
    ("counts", "is_valid"),
    [
        (OutcomeCounts(), True),
        (OutcomeCounts(9, 4, 3, 8, 16, 4, 8, 16, 16), True),
        (OutcomeCounts(3, 4), False),
        (OutcomeCounts(9, 4, 5), False),
        (OutcomeCounts(9, 4, 3, 9, 16), False),
        (OutcomeCounts(9, 4, 3, 8, 16, 10), False),
        (OutcomeCounts(9, 4, 3, 8, 16, 4, 9, 16), False),
        (OutcomeCounts(9, 4, 3, 8, 16, 4, 8, 16, 17), False),
        (OutcomeCounts(9, 4, 3, 8, 16.0), False),  # type: ignore[arg-type]
    ],
)
def test_counts_are_valid_where_some_units_could_have_them(counts: OutcomeCounts, is_valid: bool) -> None:
    assert counts.valid is is_valid


def test_a_mean_with_a_covariate_has_the_deviation_that_this_leaves() -> None:
    y, x = (each.astype(float) for each in values())
    slope = np.cov(x, y, ddof=0)[0, 1] / np.var(x)
    rows = [counted(*(each[half] for each in values())) for half in (slice(0, 150), slice(150, 400))]
    plain, adjusted = (describe_units(OutcomeMetric("spent", "mean", adjusted=each), rows) for each in (False, True))
    assert plain == pytest.approx((y.mean(), y.std()))
    assert adjusted == pytest.approx((y.mean(), (y - slope * x).std()))


def test_a_ratio_has_the_deviation_of_linearised_values() -> None:
    y, x = (each.astype(float) for each in values())
    found = describe_units(OutcomeMetric("rate of clicks", "ratio"), [counted(*values())])
    ratio = y.sum() / x.sum()
    assert found == pytest.approx((ratio, np.sqrt(((y - ratio * x) ** 2).mean()) / x.mean()))
    assert describe_units(OutcomeMetric("rate of clicks", "ratio"), [OutcomeCounts(10)]) is None
