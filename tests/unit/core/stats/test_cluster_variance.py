"""Design effect of units: many requests of one user, users' own error rates, and returning users."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sundog_operator.core.stats import cluster_variance, count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.cluster_variance import GroupedEvents

GROUPS = 100


def groups(
    control: Any, treatment: Any, requests: Any = 1000, alone: tuple[float, float, float] = (0, 0, 0)
) -> GroupedEvents:
    """Return counts of shape (runs, epochs, groups); `requests` of each group may be one number for all."""
    control, treatment = _with_unknown_group(control), _with_unknown_group(treatment)
    requests = _with_unknown_group(np.broadcast_to(np.asarray(requests, float), (*control.shape[:-1], GROUPS)))
    without_unit = (np.full(control.shape[:-1], float(each)) for each in alone)
    return GroupedEvents(control, treatment, requests, requests, *without_unit)


def _with_unknown_group(grouped: Any) -> Numbers:
    """Return the counts with an empty group of unknown units."""
    found = np.asarray(grouped, float)
    return np.concatenate([found, np.zeros((*found.shape[:-1], 1))], -1)


def phi(counted: GroupedEvents, weight: float = 0.5, ratio: float = 1.0) -> Numbers:
    weights = np.full(counted.control.shape[:-1], weight)
    return cluster_variance.design_effect(counted, count_ratio.treatment_share(ratio, weights), weights)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def of_users(times: int, users: int = 20_000, weight: float = 0.5, epochs: int = 1, runs: int = 20) -> GroupedEvents:
    """Return `times` events of each failing user per epoch; one user in a hundred fails, and users keep their arm and group."""
    counted = np.zeros((2, runs, epochs, GROUPS))
    for run in range(runs):
        fails = draw(run).random(users) < 0.01
        arm, group = draw(run + 100).random(users) < weight, draw(run + 200).integers(0, GROUPS, users)
        for side in (0, 1):
            counted[side, run] += times * np.bincount(group[fails & (arm == side)], minlength=GROUPS)
    return groups(*counted)


def test_independent_requests_have_no_design_effect() -> None:
    for weight in (0.05, 0.5):
        shares = draw().dirichlet(np.ones(GROUPS))
        control = draw(1).poisson(4000 * (1 - weight) * shares, (200, 1, GROUPS))
        treatment = draw(2).poisson(4000 * weight * shares, (200, 1, GROUPS))
        found = phi(groups(control, treatment, 1e6 * shares), weight)
        assert 1 <= found.mean() < 1.25, "active groups fail more often, at the same rate"


@pytest.mark.parametrize("weight", [0.05, 0.5])
@pytest.mark.parametrize("times", [3, 10])
def test_requests_of_a_user_that_fail_together_count_as_about_one(times: int, weight: float) -> None:
    found = phi(of_users(times, weight=weight), weight)
    assert 0.85 * times < found.mean() < 1.6 * times


def test_users_who_come_back_count_once_over_all_epochs() -> None:
    assert phi(of_users(4, epochs=3)).mean() == pytest.approx(3 * phi(of_users(4)).mean(), rel=0.02)


@pytest.mark.parametrize("weight", [0.05, 0.5])
@pytest.mark.parametrize("side", [0, 1])
def test_one_user_with_most_failures_decides_nothing_in_either_arm(weight: float, side: int) -> None:
    counted = np.zeros((2, 1, GROUPS))
    counted[0], counted[1] = 100 * (1 - weight), 100 * weight
    counted[side, 0, 7] += 5000
    whole, found = counted.sum((1, 2)), float(phi(groups(*counted), weight))
    null = weight
    independent = whole[1] * (1 - null) ** 2 + whole[0] * null**2
    z = (whole[1] - null * whole.sum()) / (found * independent) ** 0.5
    assert abs(z) < 1.1
    assert found * independent > 0.9 * weight * (1 - weight) * 5000**2, "the variance of that user's assignment"


def test_the_only_group_of_an_arm_is_compared_with_the_null() -> None:
    counted = groups(np.full((1, GROUPS), 10.0), np.zeros((1, GROUPS)))
    counted.treatment[0, 3] = 500
    lone = np.zeros((1, GROUPS + 1))
    lone[0, 3] = 1000
    assert phi(replace(counted, treatment_requests=lone)) > 50


def test_requests_of_unknown_group_count_as_one_user_at_worst() -> None:
    control, treatment = np.full((1, GROUPS), 10.0), np.full((1, GROUPS), 20.0)
    known = phi(groups(control, treatment))
    counted = groups(control, treatment)
    for each, count in ((counted.control, 1000), (counted.treatment, 2000)):
        each[0, -1] = count
    requests = counted.control_requests.copy()
    requests[0, -1] = 100_000
    assert known == 1
    assert phi(replace(counted, control_requests=requests, treatment_requests=requests)) > 50


def test_requests_without_a_unit_are_independent() -> None:
    counted = of_users(10)
    alone = replace(
        counted, control_without_unit=counted.control.sum(-1) * 9, treatment_without_unit=counted.treatment.sum(-1) * 9
    )
    assert 1.5 < phi(alone).mean() < 0.25 * phi(counted).mean()


def test_without_events_requests_count_by_units() -> None:
    nothing = np.zeros((1, GROUPS))
    assert cluster_variance.design_effect(groups(nothing, nothing), np.array([0.5]), np.array([0.5])) == 1
    assert cluster_variance.request_design_effect(groups(nothing, nothing, 0)) == 1
    users = draw().integers(0, GROUPS, 500)
    requests = 50 * np.bincount(users, minlength=GROUPS)[None]
    assert 70 < cluster_variance.request_design_effect(groups(nothing, nothing, requests)) < 130
    assert cluster_variance.request_design_effect(groups(nothing, nothing, requests, (0, 0, 1e6))) < 10


def test_negative_and_missing_counts_are_invalid() -> None:
    counted = of_users(3, runs=2)
    counted.treatment[1, 0, 0] = -1
    assert counted.valid.tolist() == [True, False]
    assert counted.each(lambda part: np.where(counted.valid[:, None], part, 0.0)).treatment[1].sum() == 0
    counted.requests_without_unit[0, 0] = np.nan
    assert counted.valid.tolist() == [False, False]


def test_arms_with_equal_shares_are_symmetric() -> None:
    counts = draw(3).poisson(5.0, (2, 1, 3, GROUPS + 1)).astype(float)
    counts[:, 0, :, -1] = [[40, 50, 60], [70, 0, 20]]
    requests = 20 * draw(4).poisson(5.0, (2, 1, 3, GROUPS + 1)).astype(float)
    none = np.zeros((1, 3))
    one = GroupedEvents(counts[0], counts[1], requests[0], requests[1], none, none, none)
    other = GroupedEvents(counts[1], counts[0], requests[1], requests[0], none, none, none)
    assert phi(one) > 1
    assert phi(one) == pytest.approx(phi(other))


def test_a_group_of_unknown_units_at_the_rate_of_the_others_shows_no_design_effect() -> None:
    """Its expected events are a share of those of all groups."""
    counted = groups(np.full((1, GROUPS), 1000.0), np.full((1, GROUPS), 1000.0))
    for each in (counted.control, counted.treatment, counted.control_requests, counted.treatment_requests):
        each[0, -1] = 1000
    assert phi(counted) == 1
