"""What the edges of a namespace should do, and whether they do it."""

from dataclasses import dataclass
from typing import Any

from sundog_operator.api import (
    PlanHeader,
    PlanShadow,
    PlanUnit,
)
from sundog_operator.core.edge.buckets import BUCKETS, Range
from sundog_operator.core.kubernetes import names

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SplitArm:
    """One arm of a service: a revision and its share.

    `cluster` is empty where it is the service's. Answers that take longer than each of `slow_us`, in microseconds, are counted.
    `choosable`: an override may lead to it whatever its weight.
    """

    name: str
    revision: int
    weight: float
    ranges: tuple[Range, ...]
    cluster: str = ""
    slow_us: tuple[int, ...] = ()
    choosable: bool = False


@dataclass(frozen=True, slots=True)
class SplitFeedback:
    """The names of outcomes, and of how many units that come again the first exposure is kept."""

    metrics: tuple[str, ...]
    max_units: int


@dataclass(frozen=True, slots=True)
class Split:
    """The traffic of one service: who gets what, and the key under which it is counted.

    `unit` is what an attempt froze as its unit; None leaves it to the spec. `shadow` says which requests the candidate gets copies of; None
    is none. `headers` are those with which a request goes to the candidate, whatever its weight. `feedback` names the outcomes that are
    taken; None for none.
    """

    attempt: str
    salt: str
    epoch: int
    arms: tuple[SplitArm, ...]
    unit: PlanUnit | None = None
    shadow: PlanShadow | None = None
    headers: tuple[PlanHeader, ...] = ()
    feedback: SplitFeedback | None = None

    @property
    def choosable(self) -> frozenset[str]:
        """The arms that overrides may lead to. One that gets no traffic may not be ready yet, or be about to go."""
        return frozenset(arm.name for arm in self.arms if arm.weight or arm.choosable)


def make_stable_split(service: str, uid: str, stable: int, followed: int | None = None) -> Split:
    """All traffic on stable. A followed revision gets none; its replicas are health-checked ahead of the switch.

    `uid` is the ModelDeployment's.
    """
    attempt = names.stable_attempt(service, stable, uid)
    arms = [SplitArm(names.STABLE, stable, 100, ((0, BUCKETS),))]
    if followed is not None:
        arms.append(SplitArm(names.CANARY, followed, 0, ()))
    return Split(attempt, attempt, 0, tuple(arms))
