"""Decisions of tools that compare an error rate, or a latency, with a threshold: only their rules, minute by minute.

Both check the canary in the last minute. Sources: the specifications of Argo Rollouts 1.9 (`steps`, `AnalysisTemplate`, here with an
`initialDelay` of a minute, because there is no data before) and Flagger 1.44 (`analysis`), which counts failed checks until there is a
new revision.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from doubles.traffic import Place, Replicas, Traffic, Unit

MINUTE_S: Final = 60.0
BLOCKS_A_MINUTE: Final = 6
_ANY: Final = float("inf")
_P95: Final = 0.95


class Policy(Protocol):
    """Attributes:
    weight: the candidate's, in percent.
    """

    weight: int

    def check(self, failing: float, slower: float = 0.0) -> str:
        """Take in a minute's share that failed, and its 95th percentile as a multiple of stable's; infinite where there is none.

        "Promoted" or "RolledBack", where that ends the rollout.
        """
        ...


@dataclass
class Argo:
    """At each weight an analysis of so many checks, a minute apart, of which so many may fail: of each of its two metrics.

    Attributes:
        most: of requests that may fail.
        slower: how many times stable's 95th percentile the candidate's may be.
    """

    most: float = _ANY
    slower: float = _ANY
    weights: Sequence[int] = (25, 50)
    checks: int = 5
    failure_limit: int = 1
    step: int = 0
    done: int = 0
    failures: tuple[int, int] = (0, 0)

    @property
    def weight(self) -> int:
        return self.weights[self.step]

    def check(self, failing: float, slower: float = 0.0) -> str:
        """See Policy."""
        errors, latencies = self.failures
        self.done += 1
        self.failures = errors + (failing > self.most), latencies + (slower > self.slower)
        if max(self.failures) > self.failure_limit:
            return "RolledBack"
        if self.done < self.checks:
            return ""
        if self.step + 1 == len(self.weights):
            return "Promoted"
        self.step, self.done, self.failures = self.step + 1, 0, (0, 0)
        return ""


@dataclass
class Flagger:
    """A check a minute: the weight grows with each that passes, and the tick after so many that fail ends it. Attributes as Argo's."""

    most: float = _ANY
    slower: float = _ANY
    step_weight: int = 10
    max_weight: int = 50
    threshold: int = 5
    weight: int = 10
    failures: int = 0

    def check(self, failing: float, slower: float = 0.0) -> str:
        """See Policy."""
        if self.failures >= self.threshold:
            return "RolledBack"
        if failing > self.most or slower > self.slower:
            self.failures += 1
            return ""
        if self.weight >= self.max_weight:
            return "Promoted"
        self.weight += self.step_weight
        return ""


@dataclass
class Uncounted:
    """An edge that reports no counts."""

    def answered(
        self,
        now_s: float,
        place: Place,
        end: str,
        times_us: Sequence[int],
        slow_us: Sequence[int] = (),
        units: Sequence[Unit] = (),
    ) -> None:
        pass

    def hangs(self, now_s: float, place: Place, count: int, timeout_s: float, units: Sequence[Unit] = ()) -> None:
        pass


@dataclass
class Fixed:
    """So many replicas of every application."""

    replicas: int

    def running(self, name: str) -> int:
        del name
        return self.replicas


@dataclass
class Played:
    """The end of a rollout, its minutes, and the canary's failures."""

    how: str
    minutes: float
    failed: int


def play(policy: Policy, traffic: Traffic, service: str, applications: tuple[str, str], replicas: Replicas) -> Played:
    """Run one rollout by a policy. `applications` are those of stable and canary."""
    place, minutes, how = Place(service, "1", 1, "canary"), 0, ""
    while not how:
        requests, failed = traffic.assigned[place], traffic.failed[place]
        document = _document(place, applications, policy.weight)
        traffic.flow(minutes * MINUTE_S, MINUTE_S, [(Uncounted(), document)], replicas)
        minutes += 1
        requests, failed = traffic.assigned[place] - requests, traffic.failed[place] - failed
        # Without requests the rate is NaN, which meets no condition.
        how = policy.check(failed / requests if requests else float("inf"))
    return Played(how, minutes, traffic.failed[place])


class Block(NamedTuple):
    """Counts of ten seconds.

    Attributes:
        requests: of both arms.
        ended: the candidate's.
        failed: of those.
        slow: of those, by whatever was called slow where it was counted.
        took, stable_took: how long the candidate's and stable's answers took, in seconds.
    """

    requests: int
    ended: int
    failed: int
    slow: int = 0
    took: tuple[float, ...] = ()
    stable_took: tuple[float, ...] = ()


@dataclass(frozen=True)
class Replayed:
    """The end that a rollout would have had, its minutes, and the bad and slow answers that its weights would have let through.

    Attributes:
        exposed: requests that the candidate would have had.
        repeated: how many of the minutes the recording had to be begun anew for.
    """

    how: str
    minutes: float
    exposed: float
    failed: float
    slow: float
    repeated: float


def replay(policy: Policy, recorded: Sequence[Block]) -> Replayed:
    """Run one rollout by a policy on a recording: the canary fails as it did then, at the same requests.

    A minute's share of failures, and by how much the candidate was slower than stable in it, is what was recorded of it, at whatever
    weight: a policy's own would have had another sample of the same. What it lets through are the requests of both arms by its own weight.
    A recording that is too short begins anew.

    Raises:
        ValueError: there are less than six blocks.
    """
    if len(recorded) < BLOCKS_A_MINUTE:
        raise ValueError(f"{len(recorded)} blocks were recorded; a check takes {BLOCKS_A_MINUTE}")
    minutes, exposed, failed, slow, how = 0, 0.0, 0.0, 0.0, ""
    coming = itertools.cycle(recorded)
    while not how:
        minute = list(itertools.islice(coming, BLOCKS_A_MINUTE))
        ended = sum(block.ended for block in minute)
        own = sum(block.requests for block in minute) * policy.weight / 100
        # Without answers the rate is NaN, which meets no condition.
        share = sum(block.failed for block in minute) / ended if ended else _ANY
        if ended:
            exposed, failed = exposed + own, failed + own * share
            slow += own * sum(block.slow for block in minute) / ended
        minutes += 1
        how = policy.check(share, slower_than_stable(minute))
    return Replayed(how, minutes, exposed, failed, slow, max(0.0, minutes - len(recorded) / BLOCKS_A_MINUTE))


def slower_than_stable(minute: Sequence[Block]) -> float:
    """Return the canary's 95th percentile divided by stable's in the same time; infinite if one of them had no answers."""
    own = [took for block in minute for took in block.took]
    stable = [took for block in minute for took in block.stable_took]
    return float(np.quantile(own, _P95) / np.quantile(stable, _P95)) if own and stable else _ANY


def _document(place: Place, applications: tuple[str, str], weight: int) -> dict[str, Any]:
    arms = [
        {"name": name, "application": application, "weight": share}
        for name, application, share in zip(("stable", "canary"), applications, (100 - weight, weight), strict=True)
    ]
    return {"services": [{"name": place.service, "attempt": place.attempt, "epoch": place.epoch, "arms": arms}]}
