"""What tools that hold an error rate against a threshold make of traffic: their rules alone, minute by minute.

Both look at the candidate's share of failed requests in the last minute. Sources: the specifications of Argo Rollouts 1.9 (`steps`,
`AnalysisTemplate`) and Flagger 1.44 (`analysis`), whose failed checks add up and are forgotten by a new revision alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from doubles.traffic import Place, Replicas, Traffic, Unit

MINUTE_S: Final = 60.0


class Policy(Protocol):
    """Attributes:
    weight: the candidate's, in percent.
    """

    weight: int

    def check(self, failing: float) -> str:
        """Take in the share that failed in a minute: "Promoted" or "RolledBack", where that ends the rollout."""
        ...


@dataclass
class Argo:
    """At each weight an analysis of so many checks, a minute apart, of which so many may fail."""

    most: float
    weights: Sequence[int] = (25, 50)
    checks: int = 5
    failure_limit: int = 1
    step: int = 0
    done: int = 0
    failures: int = 0

    @property
    def weight(self) -> int:
        return self.weights[self.step]

    def check(self, failing: float) -> str:
        """See Policy."""
        self.done, self.failures = self.done + 1, self.failures + (failing > self.most)
        if self.failures > self.failure_limit:
            return "RolledBack"
        if self.done < self.checks:
            return ""
        if self.step + 1 == len(self.weights):
            return "Promoted"
        self.step, self.done, self.failures = self.step + 1, 0, 0
        return ""


@dataclass
class Flagger:
    """A check a minute: the weight grows with each that does not fail, and so many that fail end it."""

    most: float
    step_weight: int = 10
    max_weight: int = 50
    threshold: int = 5
    weight: int = 10
    failures: int = 0

    def check(self, failing: float) -> str:
        """See Policy."""
        if failing > self.most:
            self.failures += 1
            return "RolledBack" if self.failures >= self.threshold else ""
        if self.weight >= self.max_weight:
            return "Promoted"
        self.weight += self.step_weight
        return ""


@dataclass
class Uncounted:
    """An edge whose counts nobody asks for."""

    def answered(
        self,
        now_s: float,
        place: Place,
        end: str,
        times_us: Sequence[int],
        slow_us: int = 0,
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
    """How a rollout ended, after how many minutes, and how many of the candidate's answers were failures by then."""

    how: str
    minutes: float
    failed: int


def play(policy: Policy, traffic: Traffic, service: str, applications: tuple[str, str], replicas: Replicas) -> Played:
    """One rollout by a policy. `applications` are stable's and the candidate's."""
    place, minutes, how = Place(service, "1", 1, "canary"), 0, ""
    while not how:
        requests, failed = traffic.assigned[place], traffic.failed[place]
        document = _document(place, applications, policy.weight)
        traffic.flow(minutes * MINUTE_S, MINUTE_S, [(Uncounted(), document)], replicas)
        minutes += 1
        requests, failed = traffic.assigned[place] - requests, traffic.failed[place] - failed
        # Of no request a rate is not a number, which meets no condition.
        how = policy.check(failed / requests if requests else float("inf"))
    return Played(how, minutes, traffic.failed[place])


def _document(place: Place, applications: tuple[str, str], weight: int) -> dict[str, Any]:
    arms = [
        {"name": name, "application": application, "weight": share}
        for name, application, share in zip(("stable", "canary"), applications, (100 - weight, weight), strict=True)
    ]
    return {"services": [{"name": place.service, "attempt": place.attempt, "epoch": place.epoch, "arms": arms}]}
