"""Test of harm in a canary's first blocks: false rollbacks, and failures until a rollback.

Seeds are fixed, and the machine's speed does not matter. Takes some four minutes of a core.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from default_plans import by_default
from measuring.parallel_simulations import in_processes
from measuring.record import Record
from measuring.thresholds import Argo, Flagger, Policy
from stalling_replicas import SEED, Stalling, always
from sundog_operator.api import Rollout
from sundog_operator.core.forecast.rollout_simulation import (
    TICK_S,
    SimulatedPlan,
    SimulatedRollouts,
    SteadyTraffic,
    TrafficModel,
    simulate_rollouts,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(21600)]

RUNS, WORSE_RUNS = 1000, 300
TEN_MINUTES, HALF_AN_HOUR = 60, 180
ALPHA = 0.05
BY_CHANCE = 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5
NONE = 1e-9
"""A rate of failures of which nobody sees one."""

ALIKE: dict[str, Callable[[float], TrafficModel]] = {
    "2 s of 30 %, one replica each": lambda rps: stalling(rps, 2.0, 0.3),
    "3 s of 50 %, one each": lambda rps: stalling(rps, 3.0, 0.5),
    "20 s of 20 %, one each": lambda rps: stalling(rps, 20.0, 0.2),
    "20 s of 20 %, four of stable": lambda rps: stalling(rps, 20.0, 0.2, stable=4),
    "60 s of 50 %, four of stable": lambda rps: stalling(rps, 60.0, 0.5, stable=4),
    "60 s of 99 %, one each": lambda rps: stalling(rps, 60.0, 0.99),
    "1 to 60 s of 10 to 100 %, two of stable": lambda rps: Stalling(RUNS, rps),
    "the same, half of them in both arms at once": lambda rps: Stalling(RUNS, rps, together=0.5),
    "the same of 90 to 100 %, twice as many, 1 % fail else": lambda rps: Stalling(
        RUNS, rps, base=0.01, failing=(0.9, 1.0), per_hour=12.0
    ),
}
TOOLS: dict[str, Callable[[], Policy]] = {
    "Argo ≤ 5 %": lambda: Argo(0.05),
    "Argo ≤ 1 %": lambda: Argo(0.01),
    "Flagger ≥ 99 %": lambda: Flagger(0.01),
}


def stalling(rps: float, seconds: float, failing: float, stable: int = 1) -> TrafficModel:
    return Stalling(RUNS, rps, 0.001, replicas=(stable, 1), **always(seconds, failing))


def plans(rps: float) -> tuple[SimulatedPlan, SimulatedPlan]:
    """Return the default plan without early harm and with it, after its warm-up."""
    asked, now = Rollout().warmup, by_default(rps)
    warm_s = min(asked.duration.total_seconds(), asked.requests / (rps * now.weights[0]))
    now = replace(now, warmup_ticks=math.ceil(warm_s / TICK_S))
    left = 1 - now.early_alpha / now.alpha
    return replace(now, metrics=now.metrics * left, early_alpha=0.0), now


def test_candidates_like_stable_whose_replicas_stall() -> None:
    title = (
        "Rolled back within ten minutes although it is like stable: replicas of both arms stall six times an hour each"
    )
    columns = ("stalls and what fails in them", "requests a second", "without early harm", "with it")
    record = Record("early_harm_alike", title, columns)
    asked = {
        (name, rps, early): partial(
            simulate_rollouts, plan, world(rps), runs=RUNS, ticks=TEN_MINUTES, seed=SEED + 200 + place
        )
        for place, (name, world) in enumerate(ALIKE.items())
        for rps in (1.0, 10.0, 100.0)
        for early, plan in enumerate(plans(rps))
    }
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    shares = {at: float(each.rolled_back.mean()) for at, each in ends.items()}
    found = {(name, rps): (shares[name, rps, 0], shares[name, rps, 1]) for name, rps, early in asked if early}
    for (name, rps), both in found.items():
        record.add(name, f"{rps:g}", *(f"{share:.1%}" for share in both))
    record.finish()
    # Stalls of a minute are several events to the usual test, which may be more than α by itself.
    assert all(after <= max(ALPHA, before) + BY_CHANCE for before, after in found.values()), found


def test_failures_until_it_is_rolled_back() -> None:
    title = "Failures of a worse candidate until it is rolled back, median; how many were, where not all"
    columns = ("requests a second", "candidate", "stable", "without early harm", "after", "with it", "after", *TOOLS)
    record = Record("early_harm_worse", title, columns)
    for rps in (10.0, 20.0, 100.0):
        for failing in (0.14, 0.05):
            for base in (NONE, 0.001, 0.01):
                world = SteadyTraffic(rps, base, failing / base)
                before, after = (
                    simulate_rollouts(plan, world, runs=WORSE_RUNS, ticks=HALF_AN_HOUR, seed=SEED + 300)
                    for plan in plans(rps)
                )
                tools = (by_threshold(made, rps, failing) for made in TOOLS.values())
                shares = (f"{failing:.0%}", "0" if base == NONE else f"{base:.1%}")
                record.add(f"{rps:g}", *shares, *told(before), *told(after), *tools)
                assert np.median(after.failed) <= np.median(before.failed) * 1.1
                assert after.rolled_back.mean() >= 0.95
    record.finish()


def told(ends: SimulatedRollouts) -> tuple[str, str]:
    """Failures and minutes."""
    found = ends.rolled_back.astype(bool)
    return _failures(ends.failed[found], len(found)), f"{np.median(ends.minutes[found]):.1f} min"


def by_threshold(made: Callable[[], Policy], rps: float, failing: float) -> str:
    """Run a policy on the same canary, minute by minute."""
    draw, found = np.random.default_rng(SEED), []
    for _ in range(WORSE_RUNS):
        policy, failed, how = made(), 0, ""
        while not how:
            requests = int(draw.poisson(rps * 60 * policy.weight / 100))
            more = int(draw.binomial(requests, failing))
            failed, how = failed + more, policy.check(more / requests if requests else math.inf)
        if how == "RolledBack":
            found.append(failed)
    return _failures(np.array(found), WORSE_RUNS)


def _failures(failed: "np.typing.NDArray[np.float64]", runs: int) -> str:
    """Return the median over the runs that rolled back."""
    if not failed.size:
        return "none rolled back"
    few = "" if failed.size == runs else f" ({failed.size / runs:.0%})"
    return f"{np.median(failed):.0f}{few}"
