"""Promises of the statistics, in few and short simulations; the long ones are in bench."""

from dataclasses import replace

import numpy as np
import pytest

import simulated_users
from default_plans import by_default
from simulated_users import Users, by_beta, by_zipf, few_have_most
from stalling_replicas import SEED, Stalling, always
from sundog_operator.core.forecast.rollout_simulation import SimulatedPlan, SteadyTraffic, simulate_rollouts

RUNS = 100
AN_HOUR = 360
DEFAULT = by_default(1)


def test_at_the_margin_hardly_any_is_promoted_and_hardly_any_rolled_back() -> None:
    drifting = SteadyTraffic(100, 0.001, 1.25, to=0.05, drift=120)
    found = simulate_rollouts(SimulatedPlan(), drifting, runs=RUNS, ticks=120, seed=1)
    assert found.promoted.sum() <= 6
    assert found.rolled_back.sum() <= 6


@pytest.mark.parametrize("base", [0.0005, 0.005, 0.02])
def test_at_the_floor_hardly_any_is_promoted(base: float) -> None:
    """The canary is worse by exactly the floor at each step: many times as bad where errors are few, within the margin of harm where
    they are many.
    """
    increases = (DEFAULT.floor / following for following in (*DEFAULT.weights[1:], 1.0))
    worse = SteadyTraffic(50, base, tuple((base + increase) / base for increase in increases))
    found = simulate_rollouts(DEFAULT, worse, runs=RUNS, ticks=180, seed=11)
    assert found.promoted.sum() <= 6


def test_twice_few_errors_are_within_the_floor_and_twice_many_are_harm() -> None:
    few, many = (
        simulate_rollouts(DEFAULT, SteadyTraffic(50, base, 2.0), runs=RUNS, ticks=180, seed=12)
        for base in (0.001, 0.02)
    )
    assert few.promoted.mean() >= 0.5
    assert many.promoted.sum() <= 6
    assert many.rolled_back.mean() >= 0.9


def test_good_epochs_do_not_carry_a_bad_last_one() -> None:
    found = simulate_rollouts(
        SimulatedPlan(), SteadyTraffic(100, 0.02, (0.8, 0.8, 1.26)), runs=RUNS, ticks=AN_HOUR // 2, seed=2
    )
    assert found.promoted.sum() <= 6


def test_three_times_the_errors_are_found_within_three_minutes() -> None:
    found = simulate_rollouts(DEFAULT, SteadyTraffic(100, 0.01, 3.0), runs=RUNS, ticks=18, seed=3)
    assert found.rolled_back.mean() >= 0.8


def test_steady_failures_roll_back_before_the_usual_test_has_data() -> None:
    plan, failing = replace(DEFAULT, warmup_ticks=6), SteadyTraffic(20, 0.001, 140)
    found, before = (
        simulate_rollouts(each, failing, runs=RUNS, ticks=20, seed=9) for each in (plan, replace(plan, early_alpha=0.0))
    )
    assert np.median(found.minutes) <= 2
    assert np.median(before.minutes) > 3
    assert np.median(found.failed) <= 0.6 * np.median(before.failed)


def test_a_treatment_like_control_is_promoted() -> None:
    found = simulate_rollouts(DEFAULT, SteadyTraffic(200, 0.01), runs=RUNS, ticks=AN_HOUR // 2, seed=4)
    assert found.promoted.all()
    assert np.median(found.minutes) <= 15


@pytest.mark.parametrize(("seconds", "failing"), [(3.0, 0.5), (20.0, 0.2)])
def test_replicas_that_stall_in_both_arms_roll_nothing_back(seconds: float, failing: float) -> None:
    world = Stalling(RUNS, 100, 0.001, replicas=(1, 1), **always(seconds, failing))
    found = simulate_rollouts(DEFAULT, world, runs=RUNS, ticks=AN_HOUR // 2, seed=5)
    assert found.rolled_back.sum() <= 5


@pytest.mark.parametrize("users", [Users(200, by_zipf, few_have_most), Users(30, fails=by_beta, alone=0.5)])
def test_users_who_come_back_and_differ_roll_nothing_back(users: Users) -> None:
    plan = replace(DEFAULT, weights=(0.05, 0.25, 0.5), floor=0.0, warmup_ticks=6)
    blind = simulated_users.roll_out(plan, users, runs=RUNS, ticks=180, seed=7, by_unit=False)
    found = simulated_users.roll_out(plan, users, runs=RUNS, ticks=180, seed=7)
    assert blind.outcomes.rolled_back.sum() >= 12
    assert found.outcomes.rolled_back.sum() <= 4
    assert found.mismatched.sum() <= 1


def test_at_the_margin_hardly_any_is_promoted_to_users_who_differ() -> None:
    users, plan = Users(200, fails=by_beta, ratio=1.25), replace(DEFAULT, weights=(0.5,), floor=0.0)
    blind = simulated_users.roll_out(plan, users, runs=RUNS, ticks=180, seed=8, by_unit=False)
    found = simulated_users.roll_out(plan, users, runs=RUNS, ticks=180, seed=8)
    assert blind.outcomes.promoted.sum() >= 12
    assert found.outcomes.promoted.sum() <= 5


def test_active_users_hide_no_treatment_that_is_twice_as_bad() -> None:
    plan = replace(DEFAULT, floor=0.0)
    found = simulated_users.roll_out(plan, Users(200, by_zipf, ratio=2.0), runs=RUNS, ticks=180, seed=9)
    assert found.outcomes.rolled_back.mean() >= 0.9


def test_without_requests_nothing_is_decided() -> None:
    found = simulate_rollouts(DEFAULT, SteadyTraffic(0, 0.01), runs=5, ticks=100, seed=6)
    assert not found.ended.any()


@pytest.mark.parametrize("together", [0.0, 0.5])
def test_stalls_of_other_lengths_than_the_blocks_rarely_roll_back(together: float) -> None:
    world = Stalling(RUNS, 50, together=together, swing=0.8)
    found = simulate_rollouts(DEFAULT, world, runs=RUNS, ticks=180, seed=SEED + 900)
    assert found.rolled_back.sum() <= 10


def test_a_common_stall_hits_both_arms_together() -> None:
    world = Stalling(RUNS, 1000, base=0.0, together=1.0, per_hour=360.0, failing=(1.0, 1.0))
    step, weight = np.zeros(RUNS, int), np.full(RUNS, 0.5)
    for tick in range(3):
        _, _, control, treatment = world.tick(np.random.default_rng(SEED), tick, step, weight)
        assert np.array_equal(control > 100, treatment > 100)


def test_a_rollout_that_ended_keeps_its_time_while_others_go_on() -> None:
    one, many = (
        simulate_rollouts(DEFAULT, SteadyTraffic(100, 0.01, 5.0), runs=20, ticks=ticks, seed=1) for ticks in (40, 360)
    )
    ended = one.ended > 0
    assert ended.any()
    np.testing.assert_array_equal(many.ended[ended], one.ended[ended])
    assert len(set(many.ended.tolist())) > 1
