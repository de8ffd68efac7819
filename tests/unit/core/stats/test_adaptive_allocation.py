"""Weights that follow outcomes: who is the best, what is left to the others, and that nothing is drawn."""

import numpy as np
import pytest

from sundog_operator.core.stats import adaptive_allocation
from sundog_operator.core.stats.adaptive_allocation import ArmEstimates
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeMetric

RATE, COST = OutcomeMetric("conversion"), OutcomeMetric("cost", "mean", "decrease")


def of(exposed: int, positive: int, value: int = 1_000_000) -> OutcomeCounts:
    return OutcomeCounts(exposed, positive, positive, positive * value, positive * value**2)


def known(*arms: tuple[float, float]) -> ArmEstimates:
    return ArmEstimates(*np.array(arms, float).T)


def following(
    *arms: OutcomeCounts,
    metric: OutcomeMetric = RATE,
    shares: tuple[float, ...] = (),
    floor: float = 0.0,
    delta: float = 0.2,
) -> list[float]:
    found = adaptive_allocation.next_shares(
        metric, [arms], [shares or (1.0,) * len(arms)], [False] * len(arms), floor=floor, delta=delta, least=100
    )
    assert found is not None
    return found


def test_who_is_the_best_is_what_thompson_would_draw() -> None:
    draw = np.random.default_rng(3)
    values, errors = np.array([0.1, 0.11, 0.12, 0.05]), np.array([0.01, 0.02, 0.005, 0.03])
    drawn = draw.normal(values, errors, (200_000, 4)).argmax(-1)
    found = adaptive_allocation.probability_best(known(*zip(values, errors**2, strict=True)), 1)
    np.testing.assert_allclose(found, [(drawn == arm).mean() for arm in range(4)], atol=0.004)
    np.testing.assert_allclose(adaptive_allocation.probability_best(ArmEstimates(-values, errors**2), -1), found)


def test_arms_alike_share_alike() -> None:
    np.testing.assert_allclose(adaptive_allocation.probability_best(known((1, 1), (1, 1), (1, 1)), 1), [1 / 3] * 3)
    np.testing.assert_allclose(adaptive_allocation.probability_best(known((1, 0), (2, 0)), 1), [0.5, 0.5])


@pytest.mark.parametrize(
    ("floor", "delta", "least"),
    [(0.0, 0.2, 0.05), (0.05, 0.2, 0.05), (0.1, 0.2, 0.1), (0.9, 0.2, 0.25), (0.1, 0.01, 0.1)],
)
def test_what_is_left_to_the_others(floor: float, delta: float, least: float) -> None:
    found = adaptive_allocation.mix_shares(np.array([1.0, 0, 0, 0]), floor, delta)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[1:], least)


def test_shares_move_to_the_better_arm() -> None:
    found = following(of(1000, 100), of(1000, 140), of(1000, 100))
    assert found[1] > 0.8
    assert found[0] == pytest.approx(found[2])
    assert found[0] >= 0.2 / 3
    dear = following(of(1000, 100), of(1000, 140), of(1000, 100), metric=COST)
    assert dear[1] == pytest.approx(0.2 / 3, abs=0.01)


def test_what_an_arm_stands_at() -> None:
    """Outcomes by their propensity, and one more in the variance: 60 at a share of 0.3 are as many as 100 at 0.5."""
    exposed, shares = np.array([1000.0]), np.array([[0.5, 0.3, 0.2]])
    had = np.array([[100.0, 60.0, 0.0]])
    found = adaptive_allocation.estimate_arms(exposed, shares, had, had, had)
    np.testing.assert_allclose(found.value, [0.2, 0.2, 0.0])
    np.testing.assert_allclose(found.variance * 1e6, [101 / 0.25, 61 / 0.09, 1 / 0.04])


def test_what_an_arm_had_is_expected_of_its_shares_not_counted() -> None:
    """So that weights tell nothing of units whose outcome is still to come."""
    assert following(of(1000, 100), of(1000, 120)) == following(of(1100, 100), of(900, 120))


def test_shares_of_each_epoch_count() -> None:
    """A base that falls while one arm has most of the units: by all outcomes it would seem the better one by far."""
    outcomes = [[of(5000, 1000), of(5000, 1000)], [of(9000, 90), of(1000, 10)]]
    found = adaptive_allocation.next_shares(
        RATE, outcomes, [(1, 1), (9, 1)], [False] * 2, floor=0, delta=0.2, least=100
    )
    assert found is not None
    assert found[0] == pytest.approx(0.5, abs=0.01)


def test_nothing_moves_before_there_is_enough_or_without_outcomes() -> None:
    few = [[of(99, 50), of(101, 1)]]
    assert adaptive_allocation.next_shares(RATE, few, [(1, 1)], [False] * 2, floor=0, delta=0.2, least=101) is None
    assert following(of(1000, 0), of(1000, 0)) == pytest.approx([0.5, 0.5])


def test_an_arm_that_is_out_has_nothing() -> None:
    outcomes = [[of(1000, 100), of(1000, 500), of(1000, 110)], [of(1000, 100), of(0, 0), of(1000, 110)]]
    found = adaptive_allocation.next_shares(
        RATE, outcomes, [(1, 1, 1), (1, 0, 1)], [False, True, False], floor=0.05, delta=0.2, least=100
    )
    assert found is not None
    assert found[1] == 0
    assert sum(found) == pytest.approx(1)
    assert found[2] > found[0] >= 0.1


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.5, 0.3, 0.2), (7,), (1e-9, 1, 1), (33.3, 33.3, 33.4)])
def test_whole_parts(shares: tuple[float, ...]) -> None:
    found = adaptive_allocation.round_shares(shares, 10_000)
    assert sum(found) == 10_000
    np.testing.assert_allclose(found, np.array(shares) / sum(shares) * 10_000, atol=1)
