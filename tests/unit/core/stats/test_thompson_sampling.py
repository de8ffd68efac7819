"""Adaptive weights: the probability to be the best, the floor of the other arms, and no random draws."""

import numpy as np
import pytest

from sundog_operator.core.stats import thompson_sampling
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeMetric
from sundog_operator.core.stats.thompson_sampling import ArmEstimates

RATE, COST = OutcomeMetric("conversion"), OutcomeMetric("cost", "mean", "decrease")


def of(exposed: int, positive: int, value: int = 1_000_000) -> OutcomeCounts:
    return OutcomeCounts(exposed, positive, positive, positive * value, positive * value**2)


def known(*arms: tuple[float, float]) -> ArmEstimates:
    return ArmEstimates(*np.array(arms, float).T)


def shares_after(
    *arms: OutcomeCounts,
    metric: OutcomeMetric = RATE,
    shares: tuple[float, ...] = (),
    floor: float = 0.0,
    delta: float = 0.2,
) -> list[float]:
    found = thompson_sampling.next_shares(
        metric, [arms], [shares or (1.0,) * len(arms)], [False] * len(arms), floor=floor, delta=delta, least=100
    )
    assert found is not None
    return found


def test_the_probability_to_be_best_matches_thompson_draws() -> None:
    draw = np.random.default_rng(3)
    values, errors = np.array([0.1, 0.11, 0.12, 0.05]), np.array([0.01, 0.02, 0.005, 0.03])
    drawn = draw.normal(values, errors, (200_000, 4)).argmax(-1)
    found = thompson_sampling.probability_best(known(*zip(values, errors**2, strict=True)), 1)
    np.testing.assert_allclose(found, [(drawn == arm).mean() for arm in range(4)], atol=0.004)
    np.testing.assert_allclose(thompson_sampling.probability_best(ArmEstimates(-values, errors**2), -1), found)


def test_equal_arms_have_equal_shares() -> None:
    np.testing.assert_allclose(thompson_sampling.probability_best(known((1, 1), (1, 1), (1, 1)), 1), [1 / 3] * 3)
    np.testing.assert_allclose(thompson_sampling.probability_best(known((1, 0), (2, 0)), 1), [0.5, 0.5])


@pytest.mark.parametrize(
    ("floor", "delta", "least"),
    [(0.0, 0.2, 0.05), (0.05, 0.2, 0.05), (0.1, 0.2, 0.1), (0.9, 0.2, 0.25), (0.1, 0.01, 0.1)],
)
def test_other_arms_keep_the_floor(floor: float, delta: float, least: float) -> None:
    found = thompson_sampling.mix_shares(np.array([1.0, 0, 0, 0]), floor, delta)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[1:], least)


def test_shares_move_to_the_better_arm() -> None:
    found = shares_after(of(1000, 100), of(1000, 140), of(1000, 100))
    assert found[1] > 0.8
    assert found[0] == pytest.approx(found[2])
    assert found[0] >= 0.2 / 3
    costs = shares_after(of(1000, 100), of(1000, 140), of(1000, 100), metric=COST)
    assert costs[1] == pytest.approx(0.2 / 3, abs=0.01)


def test_shares_move_to_the_better_ratio() -> None:
    """The second arm has fewer clicks than the first, and more of them per view. The third has no view, so its ratio is unknown."""
    million = 1_000_000

    def clicked(units: int, clicks: int, views: int) -> OutcomeCounts:
        own, base = units * clicks * million, units * views * million
        squares, other, products = (units * each * million**2 for each in (2 * clicks**2, 2 * views**2, clicks * views))
        return OutcomeCounts(1000, units, units, own, squares, units, base, other, products)

    ratio = OutcomeMetric("clicks per view", "ratio")
    assert shares_after(clicked(500, 4, 40), clicked(500, 3, 15), metric=ratio)[1] > 0.85
    none = OutcomeCounts(1000, 500, 500, million, million**2)
    assert shares_after(clicked(500, 4, 40), clicked(500, 3, 15), none, metric=ratio) == pytest.approx([1 / 3] * 3)


def test_a_ratio_is_weighted_by_inverse_propensity() -> None:
    """The variance is that of the values less the ratio times the denominators, with one more of them."""
    shares, units = np.array([[0.5, 0.3, 0.2]]), np.array([[100.0, 60.0, 40.0]])
    moments = 16 * units, 4 * units, 7 * units
    found = thompson_sampling.estimate_ratios(shares, units, 4 * units, 2 * units, moments)
    np.testing.assert_allclose(found.value, 2.0)
    residual, base = 16 - 2 * 2 * 7 + 4 * 4, 2 * units[0] / shares[0]
    np.testing.assert_allclose(found.variance, residual * (units[0] + 1) / shares[0] ** 2 / base**2)


def test_estimates_are_weighted_by_inverse_propensity() -> None:
    """60 outcomes at a share of 0.3 count as much as 100 at 0.5; the variance includes one more outcome."""
    exposed, shares = np.array([1000.0]), np.array([[0.5, 0.3, 0.2]])
    had = np.array([[100.0, 60.0, 0.0]])
    found = thompson_sampling.estimate_arms(exposed, shares, had, had, had)
    np.testing.assert_allclose(found.value, [0.2, 0.2, 0.0])
    np.testing.assert_allclose(found.variance * 1e6, [101 / 0.25, 61 / 0.09, 1 / 0.04])


def test_units_of_an_arm_follow_from_its_share() -> None:
    """So weights carry no information about units whose outcome is still to come."""
    assert shares_after(of(1000, 100), of(1000, 120)) == shares_after(of(1100, 100), of(900, 120))


def test_shares_of_each_epoch_count() -> None:
    """The base rate falls while one arm has most units. Over all epochs pooled, that arm would seem far better."""
    outcomes = [[of(5000, 1000), of(5000, 1000)], [of(9000, 90), of(1000, 10)]]
    found = thompson_sampling.next_shares(RATE, outcomes, [(1, 1), (9, 1)], [False] * 2, floor=0, delta=0.2, least=100)
    assert found is not None
    assert found[0] == pytest.approx(0.5, abs=0.01)


def test_shares_stay_with_few_units_and_without_outcomes() -> None:
    few = [[of(99, 50), of(101, 1)]]
    assert thompson_sampling.next_shares(RATE, few, [(1, 1)], [False] * 2, floor=0, delta=0.2, least=101) is None
    assert shares_after(of(1000, 0), of(1000, 0)) == pytest.approx([0.5, 0.5])


def test_a_dropped_arm_has_no_share() -> None:
    outcomes = [[of(1000, 100), of(1000, 500), of(1000, 110)], [of(1000, 100), of(0, 0), of(1000, 110)]]
    found = thompson_sampling.next_shares(
        RATE, outcomes, [(1, 1, 1), (1, 0, 1)], [False, True, False], floor=0.05, delta=0.2, least=100
    )
    assert found is not None
    assert found[1] == 0
    assert sum(found) == pytest.approx(1)
    assert found[2] > found[0] >= 0.1


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.5, 0.3, 0.2), (7,), (1e-9, 1, 1), (33.3, 33.3, 33.4)])
def test_whole_parts(shares: tuple[float, ...]) -> None:
    found = thompson_sampling.round_shares(shares, 10_000)
    assert sum(found) == 10_000
    np.testing.assert_allclose(found, np.array(shares) / sum(shares) * 10_000, atol=1)
