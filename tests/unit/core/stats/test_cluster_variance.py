"""How much counts vary by unit: what one user's many requests, an error rate of his own and his coming back are worth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sundog_operator.core.stats import cluster_variance, count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.cluster_variance import GroupedEvents

GROUPS = 100


def groups(
    control: Any, candidate: Any, asked: Any = 1000, alone: tuple[float, float, float] = (0, 0, 0)
) -> GroupedEvents:
    """Counts of shape (runs, epochs, groups); the requests of each group, all of them alike or one by one."""
    control, candidate = _and_none(control), _and_none(candidate)
    requests = _and_none(np.broadcast_to(np.asarray(asked, float), (*control.shape[:-1], GROUPS)))
    ours, theirs, apart = (np.full(control.shape[:-1], float(each)) for each in alone)
    return GroupedEvents(control, candidate, requests, requests, ours, theirs, apart)


def _and_none(grouped: Any) -> Numbers:
    """Nothing that has no group."""
    found = np.asarray(grouped, float)
    return np.concatenate([found, np.zeros((*found.shape[:-1], 1))], -1)


def phi(told: GroupedEvents, weight: float = 0.5, ratio: float = 1.0) -> Numbers:
    weights = np.full(told.control.shape[:-1], weight)
    return cluster_variance.design_effect(told, count_ratio.candidate_share(ratio, weights), weights)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def of_users(times: int, users: int = 20_000, weight: float = 0.5, epochs: int = 1, runs: int = 20) -> GroupedEvents:
    """Users, one in a hundred of whom fails, so many times in each epoch; each in the same arm and group in all of them."""
    told = np.zeros((2, runs, epochs, GROUPS))
    for run in range(runs):
        fails = draw(run).random(users) < 0.01
        arm, group = draw(run + 100).random(users) < weight, draw(run + 200).integers(0, GROUPS, users)
        for side in (0, 1):
            told[side, run] += times * np.bincount(group[fails & (arm == side)], minlength=GROUPS)
    return groups(*told)


def test_independent_requests_vary_as_chance_has_it() -> None:
    for weight in (0.05, 0.5):
        shares = draw().dirichlet(np.ones(GROUPS))
        control = draw(1).poisson(4000 * (1 - weight) * shares, (200, 1, GROUPS))
        candidate = draw(2).poisson(4000 * weight * shares, (200, 1, GROUPS))
        found = phi(groups(control, candidate, 1e6 * shares), weight)
        assert 1 <= found.mean() < 1.25, "who asks more fails more often, and no more of what he asks"


@pytest.mark.parametrize("weight", [0.05, 0.5])
@pytest.mark.parametrize("times", [3, 10])
def test_requests_of_a_user_that_fail_together_count_as_about_one(times: int, weight: float) -> None:
    found = phi(of_users(times, weight=weight), weight)
    assert 0.85 * times < found.mean() < 1.6 * times


def test_users_who_come_back_count_once_over_all_epochs() -> None:
    assert phi(of_users(4, epochs=3)).mean() == pytest.approx(3 * phi(of_users(4)).mean(), rel=0.02)


@pytest.mark.parametrize("weight", [0.05, 0.5])
@pytest.mark.parametrize("side", [0, 1])
def test_one_user_with_most_failures_decides_nothing_whichever_arm_has_him(weight: float, side: int) -> None:
    told = np.zeros((2, 1, GROUPS))
    told[0], told[1] = 100 * (1 - weight), 100 * weight
    told[side, 0, 7] += 5000
    whole, found = told.sum((1, 2)), float(phi(groups(*told), weight))
    null = weight
    independent = whole[1] * (1 - null) ** 2 + whole[0] * null**2
    z = (whole[1] - null * whole.sum()) / (found * independent) ** 0.5
    assert abs(z) < 1.1
    assert found * independent > 0.9 * weight * (1 - weight) * 5000**2, "the variance of his draw"


def test_the_only_group_of_an_arm_is_compared_with_what_the_null_expects() -> None:
    told = groups(np.full((1, GROUPS), 10.0), np.zeros((1, GROUPS)))
    told.candidate[0, 3] = 500
    lone = np.zeros((1, GROUPS + 1))
    lone[0, 3] = 1000
    assert phi(replace(told, candidate_requests=lone)) > 50


def test_what_has_no_group_was_at_worst_one_users() -> None:
    control, candidate = np.full((1, GROUPS), 10.0), np.full((1, GROUPS), 20.0)
    known = phi(groups(control, candidate))
    told = groups(control, candidate)
    for each, count in ((told.control, 1000), (told.candidate, 2000)):
        each[0, -1] = count
    requests = told.control_requests.copy()
    requests[0, -1] = 100_000
    assert known == 1
    assert phi(replace(told, control_requests=requests, candidate_requests=requests)) > 50


def test_requests_without_a_unit_are_independent() -> None:
    told = of_users(10)
    alone = replace(
        told, control_without_unit=told.control.sum(-1) * 9, candidate_without_unit=told.candidate.sum(-1) * 9
    )
    assert 1.5 < phi(alone).mean() < 0.25 * phi(told).mean()


def test_where_nothing_happened_requests_are_worth_what_units_are() -> None:
    nothing = np.zeros((1, GROUPS))
    assert cluster_variance.design_effect(groups(nothing, nothing), np.array([0.5]), np.array([0.5])) == 1
    assert cluster_variance.request_design_effect(groups(nothing, nothing, 0)) == 1
    users = draw().integers(0, GROUPS, 500)
    asked = 50 * np.bincount(users, minlength=GROUPS)[None]
    assert 70 < cluster_variance.request_design_effect(groups(nothing, nothing, asked)) < 130
    assert cluster_variance.request_design_effect(groups(nothing, nothing, asked, (0, 0, 1e6))) < 10


def test_what_is_no_count_is_not_valid() -> None:
    told = of_users(3, runs=2)
    told.candidate[1, 0, 0] = -1
    assert told.valid.tolist() == [True, False]
    assert told.each(lambda part: np.where(told.valid[:, None], part, 0.0)).candidate[1].sum() == 0
    told.requests_without_unit[0, 0] = np.nan
    assert told.valid.tolist() == [False, False]
