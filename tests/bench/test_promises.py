"""Promises of evidence, in thousands of simulated rollouts: error rates and durations.

Seeds are fixed, and the machine's speed does not matter: minutes are simulated. It takes some 20 minutes of a core, and uses all cores.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import simulated_users
from default_plans import by_default
from measuring.parallel_simulations import in_processes
from measuring.record import Record
from simulated_users import Users, alike, by_beta, by_zipf, few_have_most, unevenly, with_a_whale
from sundog_operator.core.stats.power.rollout_simulation import (
    SimulatedPlan,
    SimulatedRollouts,
    SteadyTraffic,
    TrafficModel,
    simulate_rollouts,
)
from sundog_operator.core.trial.default_plan import BUSY_RPS

pytestmark = [pytest.mark.bench, pytest.mark.timeout(21600)]

AN_HOUR = 360
TWO_STEPS, THREE_STEPS = by_default(1), by_default(BUSY_RPS)
COLUMNS = ("world", "runs", "promoted", "rolled back", "median", "80 %")
AS_DESIGNED = (22, 25, 3.6 * 60, 4.3 * 60, 15, 15, 15, math.inf, 22)
"""Minutes that the default plan was chosen by, of simulations without a dispersion: of how long it takes, row by row."""
DESIGN_HOLDS = 0.2
"""By which share a median may differ from that."""
LATER = {0: 30, 1: 35, 3: 5.2 * 60}
"""Rows in which it does not hold, and minutes that they take, as docs/reference/rollout-evidence.md lists them.

Without errors a gate's bound takes less than half of α, and one of the whole would have had 26 minutes. With few of them the dispersion as
measured is above 1, by which evidence is divided: of the second row half of the runs see none in their first half hour, and the others are
later.
"""
LATER_HOLDS = 0.1
FOUND_BY = 3
"""Minutes in which three times the errors are found, at a quarter of 100 requests a second."""

UNEVEN = "1000, lognormal, by beta"
"""Users whose requests and failures both differ by far."""

Row = tuple[str, SimulatedPlan, TrafficModel, int, int]


def told(minutes: float) -> str:
    if not np.isfinite(minutes):
        return "–"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def played(record: Record, rows: Sequence[Row], further: Sequence[str] = ()) -> list[SimulatedRollouts]:
    """Run all simulations, and add a row for each; `further` are the cells of a last column."""
    found = in_processes(
        record.part,
        [
            partial(simulate_rollouts, plan, world, runs=runs, ticks=ticks, seed=seed)
            for seed, (_, plan, world, runs, ticks) in enumerate(rows)
        ],
    )
    for seed, ((name, _, _, runs, _), ends) in enumerate(zip(rows, found, strict=True)):
        times = (np.median(ends.minutes), np.quantile(ends.minutes, 0.8, method="higher"))
        shares = (f"{share.mean():.1%}" for share in (ends.promoted, ends.rolled_back))
        record.add(name, str(runs), *shares, *map(told, times), *further[seed : seed + 1])
    record.finish()
    return found


def drifting(ratio: float | Sequence[float]) -> SteadyTraffic:
    """100 requests a second, of which 0.1 % fail at first and 5 % at last."""
    return SteadyTraffic(100, 0.001, ratio, to=0.05, drift=AN_HOUR)


def test_how_often_it_errs() -> None:
    plan, bad_last = SimulatedPlan(), (0.8, 0.8, 1.26)
    title = "At the boundary: 100 requests a second, α = 5 %, margin 25 %, an hour"
    errs = played(
        Record("promises_errors", title, COLUMNS),
        [
            ("1.25 times the errors at every step, 0.1 % rising to 5 %", plan, drifting(1.25), 2000, AN_HOUR),
            ("at every step the most that it allows, rising so too", plan, drifting((2.0, 1.5, 1.25)), 2000, AN_HOUR),
            ("0.8, 0.8 and then 1.26 times the errors, 1 %", plan, SteadyTraffic(100, 0.01, bad_last), 2000, AN_HOUR),
        ],
    )
    assert all(found.promoted.mean() <= 0.065 for found in errs)
    assert errs[0].rolled_back.mean() <= 0.065


def worse_by_the_floor(plan: SimulatedPlan, base: float) -> SteadyTraffic:
    """A canary whose rate exceeds stable's by exactly the floor at each step."""
    room = [plan.floor / following for following in (*plan.weights[1:], 1.0)]
    return SteadyTraffic(100, base, tuple((base + more) / base for more in room))


def test_what_a_floor_lets_through() -> None:
    bases = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
    rows: list[Row] = []
    for plan, rps in ((TWO_STEPS, 20), (THREE_STEPS, 100)):
        name = f"{plan.floor:.1%} of {rps} requests a second"
        rows += [
            (f"{name}, twice {base:.2%} errors", plan, SteadyTraffic(rps, base, 2.0), 200, 4 * AN_HOUR)
            for base in bases
        ]
    boundary: list[Row] = [
        (
            f"{plan.floor:.1%}, {base:.2%} errors and exactly the floor more",
            plan,
            worse_by_the_floor(plan, base),
            2000,
            AN_HOUR,
        )
        for plan in (TWO_STEPS, THREE_STEPS)
        for base in (0.0001, *bases)
    ]
    found = played(
        Record("promises_floor", "What the floor of `rollout: {}` lets through", COLUMNS), [*rows, *boundary]
    )
    assert all(each.promoted.mean() <= 0.065 for each in found[len(rows) :])


def test_users_who_come_back() -> None:
    columns = ("users, their requests, their failures", "steps", "candidate", *COLUMNS[1:], "split called wrong")
    title = "Users who come back: 40 requests a second, 3 % fail, an hour before and an hour; units stay with their arm"
    record = Record("promises_units", title, columns)
    ramp = replace(by_default(BUSY_RPS, units=True), floor=0.0, warmup_ticks=6)
    one = replace(ramp, weights=(0.5,))
    kinds = {
        "200, alike, alike": Users(200),
        "200, by Zipf's law, alike": Users(200, by_zipf),
        "30, alike, by beta": Users(30, alike, by_beta),
        "200, one has 30 %, by beta": Users(200, with_a_whale, by_beta),
        "500, alike, 5 % have 90 %": Users(500, alike, few_have_most),
        UNEVEN: Users(1000, unevenly, by_beta),
    }
    plans = (("5, 25, 50 %", ramp, 1.0), ("5, 25, 50 %", ramp, 1.25), ("50 %", one, 1.25), ("5, 25, 50 %", ramp, 2.0))
    # What `rollout: {}` does at this many requests.
    default = replace(by_default(40, units=True), floor=0.0, warmup_ticks=6)
    by_world = dict.fromkeys(kinds, plans) | {
        UNEVEN: (*plans, *(("25, 50 %", default, ratio) for ratio in (1.0, 1.25, 2.0)))
    }
    asked = {
        (name, steps, ratio): partial(
            simulated_users.roll_out, plan, replace(users, ratio=ratio), runs=300, ticks=AN_HOUR, seed=seed
        )
        for seed, (name, users) in enumerate(kinds.items())
        for steps, plan, ratio in by_world[name]
    }
    found = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    for (name, steps, ratio), ends in found.items():
        minutes, shares = ends.outcomes.minutes, (ends.outcomes.promoted, ends.outcomes.rolled_back)
        times = (np.median(minutes), np.quantile(minutes, 0.8, method="higher"))
        cells = (*(f"{share.mean():.1%}" for share in shares), *map(told, times), f"{ends.mismatched.mean():.1%}")
        record.add(name, steps, f"{ratio:g} times the errors", "300", *cells)
    record.finish()
    for (name, _, ratio), ends in found.items():
        assert ends.mismatched.mean() <= 0.01, name
        assert ratio == 2.0 or ends.outcomes.rolled_back.mean() <= 0.05, name
        assert ratio == 1.0 or ends.outcomes.promoted.mean() <= 0.065, name
    assert found["200, by Zipf's law, alike", "5, 25, 50 %", 2.0].outcomes.rolled_back.mean() >= 0.9
    assert found[UNEVEN, "25, 50 %", 2.0].outcomes.rolled_back.mean() >= 0.8
    assert found[UNEVEN, "25, 50 %", 1.0].outcomes.promoted.mean() >= 0.8


def test_how_long_it_takes() -> None:
    rows: list[Row] = [
        ("1 request a second, no errors", TWO_STEPS, SteadyTraffic(1, 0.0), 200, 2 * AN_HOUR),
        ("1, 0.1 %", TWO_STEPS, SteadyTraffic(1, 0.001), 200, 4 * AN_HOUR),
        ("1, 1 %", TWO_STEPS, SteadyTraffic(1, 0.01), 200, 12 * AN_HOUR),
        ("0.1, 0.1 %", TWO_STEPS, SteadyTraffic(0.1, 0.001), 200, 24 * AN_HOUR),
        ("5000, 0.01 %", THREE_STEPS, SteadyTraffic(5000, 0.0001), 200, 2 * AN_HOUR),
        ("5000, 0.1 %", THREE_STEPS, SteadyTraffic(5000, 0.001), 200, 2 * AN_HOUR),
        ("5, 1 %, 5 times worse, 5 % of traffic", THREE_STEPS, SteadyTraffic(5, 0.01, 5.0), 200, 2 * AN_HOUR),
        ("100, 1 %, 3 times worse, 25 % of traffic", TWO_STEPS, SteadyTraffic(100, 0.01, 3.0), 1000, AN_HOUR),
        ("50, 1 %, twice as bad, 5 % of traffic", THREE_STEPS, SteadyTraffic(50, 0.01, 2.0), 200, 4 * AN_HOUR),
    ]
    title = "How long it takes: requests a second, and how many fail"
    designed = [*map(told, AS_DESIGNED)]
    found = played(Record("promises_times", title, (*COLUMNS, "median, as designed")), rows, designed)
    assert all(each.promoted.mean() >= 0.95 for each in found[:6])
    assert all(each.rolled_back.mean() >= 0.95 for each in found[6:])
    medians = [float(np.median(each.minutes)) for each in found]
    assert not [rows[index][0] for index, minutes in enumerate(medians) if not is_as_told(index, minutes)], medians
    assert np.quantile(found[7].minutes, 0.8, method="higher") <= FOUND_BY


def is_as_told(row: int, minutes: float) -> bool:
    """Return whether a median duration is that of the design, or the known later one."""
    if row in LATER:
        return abs(minutes / LATER[row] - 1) <= LATER_HOLDS
    return math.isinf(AS_DESIGNED[row]) or abs(minutes / AS_DESIGNED[row] - 1) <= DESIGN_HOLDS
