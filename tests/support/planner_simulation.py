"""A whole rollout through the planner on a fake clock, with simulated traffic."""

import asyncio
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from doubles.cluster import NAME, Cluster
from doubles.traffic import Answers, Stalls, Traffic

LIMIT_MINUTES: Final = 60.0
LOOK_S: Final = 10.0
"""Seconds between two evaluations. An operator evaluates every five seconds, but counts change only with a block of ten seconds."""

APPLICATIONS: Final = ("digits-r1", "digits-r2")
ANY: Final = (0.001, 0.02)
"""Range of a service's error rate, log-uniform."""


@dataclass(frozen=True)
class Service:
    """A service, and a new revision."""

    rps: float
    replicas: int
    stable: Answers
    candidate: Answers

    def traffic(self, seed: int) -> Traffic:
        """Return its requests."""
        found = Traffic(seed)
        found.rps = {NAME: self.rps}
        found.answers = dict(zip(APPLICATIONS, (self.stable, self.candidate), strict=True))
        return found


@dataclass(frozen=True)
class Ended:
    """The end of a rollout: outcome, minutes, and the canary's requests that were evidence and that failed."""

    how: str
    minutes: float
    requests: int
    failed: int


def service(
    seed: int,
    stalls: Stalls | None,
    worse: Callable[[Answers], Answers] = lambda fine: fine,
    usual: tuple[float, float] = ANY,
) -> Service:
    """Return a service with 10 to 100 requests a second, a usual error rate, and one or four replicas."""
    draw = np.random.default_rng(seed)
    errors, rps = math.exp(draw.uniform(*np.log(usual))), float(draw.uniform(10, 100))
    stable = Answers(errors=errors, stalls=stalls)
    return Service(rps, int(draw.choice([1, 4])), stable, worse(stable))


async def _roll_out(asked: Service, seed: int) -> Ended:
    """Run one rollout by `rollout: {}`, for an hour at most."""
    cluster = Cluster()
    cluster.edges.traffic = asked.traffic(seed)
    spec = {"rollout": {}, "replicas": asked.replicas}
    await cluster.apply(**spec)
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.go_on(5, seconds=LOOK_S)
    await cluster.apply("file:///models/v2", **spec)
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
    traffic = cluster.edges.traffic
    requests = sum(n for at, n in traffic.assigned.items() if at.arm == "canary" and at.epoch in evidence)
    return Ended(how, minutes, requests, sum(n for at, n in traffic.failed.items() if at.arm == "canary"))


def play_out(asked: Service, seed: int) -> Ended:
    """Return the result of one rollout."""
    return asyncio.run(_roll_out(asked, seed))
