"""Rollouts of a service whose replicas stall: by the plan that its traffic gets, for two hours, with the rules for errors.

Stalls begin at any moment. Seeds are fixed, and the machine's speed does not matter. Takes some three minutes of two cores.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from default_plans import by_default
from measuring.parallel_simulations import in_processes
from measuring.record import Record
from stalling_replicas import SEED, Stalling
from sundog_operator.api import PlanStep, Rollout
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.power.rollout_simulation import (
    TICK_S,
    SimulatedPlan,
    SimulatedRollouts,
    SteadyTraffic,
    simulate_rollouts,
)
from sundog_operator.core.trial.replica_counts import step_replicas

pytestmark = [pytest.mark.bench, pytest.mark.timeout(21600)]

RUNS = 400
TWO_HOURS = 720
ALPHA = 0.05
BY_CHANCE = 2 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5
BASE = 0.001
TRAFFIC = (1.0, 10.0, 100.0, 2000.0)
REPLICAS = (1, 2, 4)
STALLS: dict[str, tuple[str, dict[str, object]]] = {
    "short": ("2 to 15 s, six an hour", {"lengths_s": (2.0, 15.0)}),
    "long": ("20 to 60 s, six an hour", {"lengths_s": (20.0, 60.0)}),
    "episodes": ("2 to 10 min, one an hour", {"lengths_s": (120.0, 600.0), "per_hour": 1.0}),
}
"""By name: the stalls of each replica in words, and as arguments of `Stalling`."""
BEFORE = {
    (1.0, 0.01, 5.0): 25.8,
    (10.0, 0.01, 2.0): 36.5,
    (10.0, 0.01, 5.0): 4.5,
    (100.0, 0.01, 2.0): 11.5,
    (100.0, 0.01, 5.0): 3.2,
    (100.0, 0.001, 5.0): 7.7,
    (2000.0, 0.01, 2.0): 3.7,
    (2000.0, 0.01, 5.0): 1.8,
    (2000.0, 0.001, 2.0): 11.2,
    (2000.0, 0.001, 5.0): 2.8,
}
"""By requests a second, stable's errors and times of them: median minutes until harm, before it was bounded by bursts.

Cases in which fewer than half are rolled back have none.
"""
MOST_DELAY = 1.25


def plan_for(rps: float, *, from_one_percent: bool = False) -> SimulatedPlan:
    """Return the plan that so much traffic gets, with its warm-up, or the same after a step of 1 %."""
    plan, warmup = by_default(rps), Rollout().warmup
    if from_one_percent and plan.weights[0] > 0.01:
        plan = replace(plan, weights=(0.01, *plan.weights))
    warm_s = min(warmup.duration.total_seconds(), warmup.requests / (rps * plan.weights[0]))
    return replace(plan, warmup_ticks=math.ceil(warm_s / TICK_S))


def replicas_for(plan: SimulatedPlan, stable: int) -> tuple[int, list[int]]:
    """Return the replicas of stable, and of the canary in each step."""
    steps = [PlanStep(weight=round(100 * weight), gate="evidence") for weight in plan.weights]
    return stable, [step_replicas(step, stable) for step in steps]


def percents(weights: Sequence[float]) -> str:
    return ", ".join(f"{100 * weight:g}" for weight in weights)


def share(found: "np.typing.NDArray[np.bool_]") -> str:
    """Return a share with two standard errors."""
    mean = float(found.mean())
    return f"{mean:.1%} ± {2 * math.sqrt(mean * (1 - mean) / len(found)):.1%}"


def make_record(kind: str, title: str) -> Record:
    columns = ("requests a second", "replicas", "steps, %", "rolled back", "promoted")
    match kind:
        case "short":
            return Record("stalls_short", title, columns)
        case "long":
            return Record("stalls_long", title, columns)
        case _:
            return Record("stalls_episodes", title, columns)


@pytest.mark.parametrize("kind", STALLS)
def test_candidates_like_stable(kind: str) -> None:
    name, stalls = STALLS[kind]
    title = (
        f"Each replica of both arms stalls for {name}, and then fails 20 to 100 %; else 0.1 % fail: {RUNS} candidates like stable each,"
        " two hours, α = 5 % (± two standard errors)"
    )
    record = make_record(kind, title)
    asked, small = {}, [(rps, 1, True) for rps in TRAFFIC[1:3]]
    for rps, stable, one in [*((rps, stable, False) for rps in TRAFFIC for stable in REPLICAS), *small]:
        plan = plan_for(rps, from_one_percent=one)
        world = Stalling(RUNS, rps, BASE, 1.0, replicas_for(plan, stable), failing=(0.2, 1.0), **stalls)  # type: ignore[arg-type]
        seed = SEED + 1000 + 100 * [*STALLS].index(kind) + len(asked)
        key = (f"{rps:g}", str(stable), percents(plan.weights))
        asked[key] = partial(simulate_rollouts, plan, world, runs=RUNS, ticks=TWO_HOURS, seed=seed)
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    for key, each in ends.items():
        record.add(*key, share(each.rolled_back), share(each.promoted))
    record.finish()
    found = {key: float(each.rolled_back.mean()) for key, each in ends.items()}
    assert kind == "episodes" or all(rolled_back <= ALPHA + BY_CHANCE for rolled_back in found.values()), found


def test_candidates_beyond_the_margin() -> None:
    title = f"The same with 1.26 times the errors and no floor: {RUNS} each, one replica of either arm"
    record = Record("stalls_margin", title, ("stalls of each replica", "requests a second", "promoted", "rolled back"))
    asked = {}
    for name, stalls in STALLS.values():
        for rps in TRAFFIC[1:]:
            plan = replace(plan_for(rps), floor=0.0)
            world = Stalling(RUNS, rps, BASE, 1.26, (1, 1), failing=(0.2, 1.0), **stalls)  # type: ignore[arg-type]
            asked[name, f"{rps:g}"] = partial(
                simulate_rollouts, plan, world, runs=RUNS, ticks=TWO_HOURS, seed=SEED + 500 + len(asked)
            )
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    for key, each in ends.items():
        record.add(*key, share(each.promoted), share(each.rolled_back))
    record.finish()
    found = {key: float(each.promoted.mean()) for key, each in ends.items() if "min" not in key[0]}
    assert all(promoted <= ALPHA + BY_CHANCE for promoted in found.values()), found


def test_worse_candidates() -> None:
    """Without stalls: the bound by bursts delays harm by a quarter at most."""
    title = (
        f"Minutes until a worse candidate is rolled back, without stalls: {RUNS // 2} each, by the plan of its traffic"
    )
    columns = ("requests a second", "stable fails", "times the errors", "rolled back", "median", "80 %", "failures")
    record, asked = Record("stalls_worse", title, columns), {}
    for rps in TRAFFIC:
        for base in (0.01, 0.001):
            for ratio in (2.0, 5.0):
                world, every = SteadyTraffic(rps, base, ratio), 1 if rps >= 100 else 3
                asked[rps, base, ratio] = partial(
                    simulate_rollouts, plan_for(rps), world, runs=RUNS // 2, ticks=TWO_HOURS, seed=5, every=every
                )
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    for (rps, base, ratio), each in ends.items():
        record.add(f"{rps:g}", f"{base:.1%}", f"{ratio:g}", share(each.rolled_back), *_times(each))
    record.finish()
    found = {case: float(np.median(_minutes_to_rollback(ends[case]))) for case in BEFORE}
    assert all(minutes <= MOST_DELAY * BEFORE[case] for case, minutes in found.items()), found


def _minutes_to_rollback(ends: SimulatedRollouts) -> Numbers:
    """Return the minutes until each run was rolled back; infinite for those that were not."""
    return np.where(ends.rolled_back.astype(bool), ends.minutes, np.inf)


def _times(ends: SimulatedRollouts) -> tuple[str, str, str]:
    found, minutes = ends.rolled_back.astype(bool), _minutes_to_rollback(ends)
    times = (np.median(minutes), np.quantile(minutes, 0.8, method="higher"))
    failed = f"{np.median(ends.failed[found]):.0f}" if found.any() else "–"
    median, most = (f"{each:.1f}" if np.isfinite(each) else "–" for each in times)
    return median, most, failed
