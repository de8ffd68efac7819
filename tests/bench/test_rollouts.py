"""Whole rollouts of a revision that is as good as stable, through the planner on a fake clock: what `rollout: {}` makes of them.

Seeds are fixed, and nothing is measured on the machine.
"""

import asyncio
import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from doubles.cluster import NAME, Cluster
from doubles.traffic import Answers, Stalls, Traffic
from measuring.record import Record

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

RUNS = 40
MOST_ROLLED_BACK = 5
"""Where one in twenty is promised, so many or fewer are expected 98 times of 100."""

LIMIT_MINUTES = 60.0
LOOK_S = 20.0
STALLS = (None, Stalls(2.0, 0.3), Stalls(3.0, 0.5), Stalls(20.0, 0.2))


@dataclass(frozen=True)
class Ended:
    """How a rollout ended, after how long, and after how many of the candidate's requests that were evidence."""

    how: str
    minutes: float
    requests: int


async def roll_out(seed: int, stalls: Stalls | None) -> Ended:
    """One rollout of a revision that answers as stable does, at 20 to 100 requests a second of which 0.1 to 2 % fail."""
    draw = np.random.default_rng(seed)
    answers = Answers(errors=math.exp(draw.uniform(math.log(0.001), math.log(0.02))), stalls=stalls)
    cluster = Cluster()
    cluster.edges.traffic = Traffic(seed)
    cluster.edges.traffic.rps = {NAME: float(draw.uniform(20, 100))}
    cluster.edges.traffic.answers = dict.fromkeys(("digits-r1", "digits-r2"), answers)
    await cluster.apply(rollout={})
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.go_on(5, seconds=LOOK_S)
    await cluster.apply("file:///models/v2", rollout={})
    began = cluster.clock.now()

    async def over() -> bool:
        return "lastRollout" in await cluster.status()

    await cluster.go_on(LIMIT_MINUTES, over, seconds=LOOK_S)
    minutes = (cluster.clock.now() - began).total_seconds() / 60
    status = (await cluster.experiment("digits-r2"))["status"]
    how = (
        (await cluster.status()).get("lastRollout", {}).get("outcome", "Paused" if "paused" in status else "Collecting")
    )
    evidence = {epoch["number"] for epoch in status["evidenceEpochs"]}
    assigned = cluster.edges.traffic.assigned.items()
    return Ended(how, minutes, sum(n for at, n in assigned if at.arm == "canary" and at.epoch in evidence))


def test_rollouts_of_what_is_as_good() -> None:
    title = (
        "`rollout: {}` of a revision as good as stable: 20 to 100 requests a second, 0.1 to 2 % errors, an hour at most"
    )
    columns = (
        "stalls of replicas, six an hour",
        "runs",
        "promoted",
        "rolled back",
        "paused",
        "goes on",
        "median",
        "80 %",
    )
    record, all_ = Record("rollouts", title, columns), []
    for kind, stalls in enumerate(STALLS):
        name = f"{stalls.seconds:g} s of {stalls.failing:.0%} failures" if stalls else "none"
        found = [asyncio.run(roll_out(seed, stalls)) for seed in range(kind, RUNS, len(STALLS))]
        record.add(name, str(len(found)), *told(found))
        all_ += found
    record.add("all", str(len(all_)), *told(all_))
    record.finish()
    assert sum(each.how == "RolledBack" for each in all_) <= MOST_ROLLED_BACK
    assert all(each.requests > 1000 for each in all_ if each.how == "Promoted")
    assert {each.how for each in all_} <= {"Promoted", "RolledBack", "Paused", "Collecting"}


def told(found: list[Ended]) -> list[str]:
    """Counts by how they ended, and when it was promoted: of all, also of those that were not."""
    counts = [str(sum(each.how == how for each in found)) for how in ("Promoted", "RolledBack", "Paused", "Collecting")]
    minutes = np.array([each.minutes if each.how == "Promoted" else np.inf for each in found])
    times = (np.quantile(minutes, share, method="higher") for share in (0.5, 0.8))
    return [*counts, *(f"{time:.0f} min" if np.isfinite(time) else "–" for time in times)]
