"""Fixed weights stay; adaptive weights change at a pace, without random draws."""

from datetime import timedelta

import pytest

from sundog_operator.api import Allocation
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric
from sundog_operator.core.trial.experiment import allocation
from sundog_operator.core.trial.experiment.allocation import ThompsonRule

METRIC = OutcomeMetric("conversion")
HOURLY = ThompsonRule(floor=0.05, delta=0.2, min_interval=timedelta(hours=1))
AN_HOUR = timedelta(hours=1)
ALL_IN = (False, False, False)


def epoch(*positive: int, shares: tuple[float, ...] = (), exposed: int = 1000) -> OutcomeEpoch:
    row = [OutcomeCounts(exposed, each, each, each, each) for each in positive]
    return OutcomeEpoch(shares or (1,) * len(positive), [[OutcomeCounts()] * len(positive), row])


def test_the_rule_of_a_plan() -> None:
    fortnight = timedelta(days=14)
    assert allocation.freeze_allocation(Allocation(), fortnight) is None
    assert allocation.freeze_allocation(Allocation(mode="thompson"), fortnight) == ThompsonRule(
        0.05, 0.2, fortnight / 30
    )
    given = Allocation(mode="thompson", floor="10%", delta=0.5)
    assert allocation.freeze_allocation(given, timedelta(hours=6)) == ThompsonRule(0.1, 0.5, AN_HOUR)


def test_shares_move_to_the_better_arm_without_random_draws() -> None:
    found = allocation.next_weights(HOURLY, METRIC, 1, [epoch(100, 140, 100)], ALL_IN, AN_HOUR)
    assert found is not None
    assert sum(found) == 10_000
    assert found[1] > 8000
    assert min(found) >= 666
    again = allocation.next_weights(HOURLY, METRIC, 1, [epoch(100, 140, 100)], ALL_IN, AN_HOUR)
    assert found == again


def test_shares_stay_before_the_pace() -> None:
    assert allocation.next_weights(HOURLY, METRIC, 1, [epoch(100, 140, 100)], ALL_IN, timedelta(minutes=59)) is None
    assert allocation.next_weights(HOURLY, METRIC, 1, [], ALL_IN, AN_HOUR) is None


def test_a_small_change_begins_no_epoch() -> None:
    found = allocation.next_weights(HOURLY, METRIC, 1, [epoch(100, 140, 100)], ALL_IN, AN_HOUR)
    assert found is not None
    settled = [epoch(100, 140, 100), epoch(0, 0, 0, shares=tuple(map(float, found)), exposed=0)]
    assert allocation.next_weights(HOURLY, METRIC, 1, settled, ALL_IN, AN_HOUR) is None


def test_few_units_move_nothing() -> None:
    assert allocation.next_weights(HOURLY, METRIC, 1, [epoch(10, 30, 10, exposed=99)], ALL_IN, AN_HOUR) is None
    assert allocation.next_weights(HOURLY, METRIC, 1, [epoch(10, 30, 10, exposed=101)], ALL_IN, AN_HOUR) is not None


@pytest.mark.parametrize(
    ("shares", "buckets", "scaled"),
    [
        ((5000, 2500, 2500), 2000, (1000, 500, 500)),
        ((6667, 0, 3333), 2001, (1334, 0, 667)),
        ((3334, 3333, 3333), 4, (2, 1, 1)),
    ],
)
def test_the_exposed_buckets_stay(shares: tuple[int, ...], buckets: int, scaled: tuple[int, ...]) -> None:
    assert allocation.scale_to_buckets(shares, buckets) == scaled
