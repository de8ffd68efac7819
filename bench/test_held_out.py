"""Promises of evidence in simulated services that no design decision was based on; `test_promises` has those of development.

Seeds are fixed and differ from those of development. Minutes are simulated. It takes some six minutes of a core, and uses all cores.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import simulated_users
from default_plans import by_default
from measuring.parallel_simulations import in_processes
from measuring.record import Record
from simulated_users import Users, by_beta, unevenly
from stalling_replicas import SEED, Stalling, always
from sundog_operator.core.forecast.rollout_simulation import simulate_rollouts

pytestmark = [pytest.mark.bench, pytest.mark.timeout(21600)]

RUNS = 1000
AN_HOUR = 360
ALPHA = 0.05
BY_CHANCE = 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5
Made = Callable[[float], Stalling]
DEVELOPMENT: dict[str, Made] = {
    "development: stalls of 2 s": lambda rps: Stalling(RUNS, rps, 0.001, replicas=(4, 1), **always(2.0, 0.3)),
    "development: stalls of 20 s": lambda rps: Stalling(RUNS, rps, 0.001, replicas=(1, 1), **always(20.0, 0.2)),
}
ALIKE: dict[str, Made] = {
    "stalls of 1 to 60 s": lambda rps: Stalling(RUNS, rps),
    "half of them in both arms at once": lambda rps: Stalling(RUNS, rps, together=0.5),
    "bursts of slow answers, 1 % slow": lambda rps: Stalling(RUNS, rps, base=0.01, failing=(0.9, 1.0), per_hour=12.0),
    "load that changes by 80 % over a day": lambda rps: Stalling(RUNS, rps, swing=0.8, together=0.5),
}


def test_candidates_like_stable_and_at_the_margin() -> None:
    record = Record(
        "promises_held_out",
        "Worlds of development and such that nothing was chosen by, an hour each",
        ("world", "requests a second", "like stable: promoted", "rolled back", "at the margin: promoted"),
    )
    asked = {}
    for place, (name, made) in enumerate({**DEVELOPMENT, **ALIKE}.items()):
        for rps in (10.0, 100.0):
            how, world = {"runs": RUNS, "ticks": AN_HOUR, "seed": SEED + 10 * place + (rps > 10)}, made(rps)
            plan = by_default(rps)
            asked[name, rps, False] = partial(simulate_rollouts, plan, world, **how)
            if name in ALIKE:
                # Without a floor, what is as bad as the margin allows is at the boundary of both tests.
                at_margin = replace(plan, floor=0.0), replace(world, ratio=1.25)
                asked[name, rps, True] = partial(simulate_rollouts, *at_margin, **how)
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    found = {}
    for name, rps, worse in ends:
        if worse:
            continue
        alike, at_margin, promoted = ends[name, rps, False], ends.get((name, rps, True)), "–"
        if at_margin is not None:
            promoted = f"{at_margin.promoted.mean():.1%}"
            found[name, rps] = alike.rolled_back.mean(), at_margin.promoted.mean()
        shares = (f"{share.mean():.1%}" for share in (alike.promoted, alike.rolled_back))
        record.add(name, f"{rps:g}", *shares, promoted)
    record.finish()
    assert all(max(each) <= ALPHA + BY_CHANCE for each in found.values()), found


def test_users_who_come_back() -> None:
    columns = ("users", "candidate", "promoted", "rolled back", "split called wrong")
    record = Record("promises_held_out_users", "Users of other numbers and ways than those of development", columns)
    plan = replace(by_default(1, units=True), floor=0.0, warmup_ticks=6)
    asked = {}
    for place, count in enumerate((60, 700)):
        for ratio in (1.0, 1.25):
            users = Users(count, unevenly, by_beta, rps=25.0, base=0.02, ratio=ratio, alone=0.2)
            asked[count, ratio] = partial(
                simulated_users.roll_out, plan, users, runs=300, ticks=AN_HOUR, seed=SEED + 100 + place
            )
    ends = dict(zip(asked, in_processes(record.part, [*asked.values()]), strict=True))
    for (count, ratio), found in ends.items():
        told = (found.outcomes.promoted, found.outcomes.rolled_back, found.mismatched)
        record.add(str(count), f"{ratio:g} times the errors", *(f"{np.mean(each):.1%}" for each in told))
    record.finish()
    most = ALPHA + 3 * (ALPHA * (1 - ALPHA) / 300) ** 0.5
    for (_, ratio), found in ends.items():
        assert found.mismatched.mean() <= 0.01
        assert found.outcomes.rolled_back.mean() <= most
        assert ratio == 1.0 or found.outcomes.promoted.mean() <= most
