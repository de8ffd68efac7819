"""A report as data."""

from dataclasses import dataclass
from typing import Final, Literal

from sundog_operator.api import (
    MetricStatus,
)

ROLLOUT: Final = "Rollout"
OUTSIDE: Final = "outside"
"""Of an experiment what gets traffic, and is compared with nothing."""
MAX_ARMS: Final = 9
"""Beside control."""


@dataclass(frozen=True, slots=True)
class ReportLane:
    """Somebody who gets traffic.

    Attributes:
        kind: stable or candidate of a rollout; else `OUTSIDE`, control, or arm-1 to arm-9.
        name: for people.
    """

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class ReportPoint:
    """What was known at one time.

    Attributes:
        at_s: seconds since the rollout began.
        weight: percent of the traffic from then on of the candidate, or of all arms beside control, to a whole number.
        weights: of each lane; None where its history has their sum alone.
        requests: of each lane, until then.
        errors: of those, the ones that failed.
    """

    at_s: float
    weight: int
    weights: tuple[float, ...] | None
    requests: tuple[int, ...]
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """What was known of one metric at one time; `allowed` is the ratio up to which the gate of that time passes.

    An end that is None is not known; a ratio that is None is of a metric that stable never had. `basis` is as in `HistoryMetric`,
    empty where that has none.
    """

    at_s: float
    ratio: float | None
    lower: float | None
    upper: float | None
    verdict: str
    allowed: float
    basis: str = ""


@dataclass(frozen=True, slots=True)
class ReportMetric:
    """One metric over all of the time.

    Attributes:
        name: as in the plan, of an arm with the arm's.
        judged: whether gates wait for it; else it can only do harm, or is an outcome.
        compared: what its ratio is of: an arm and control, or the candidate and stable.
        type: what it is: an event of the edge, or an outcome that is a rate or a mean.
        limit: how much worse the candidate may be, or what is wanted of an outcome, in words.
        margin: the ratio beyond which the candidate does harm.
        bounds: oldest first.
        last: its numbers as they were told last; None where nothing was.
    """

    name: str
    judged: bool
    compared: tuple[str, str]
    type: Literal["event", "rate", "mean"]
    limit: str
    margin: float
    bounds: tuple[MetricPoint, ...]
    last: MetricStatus | None

    @property
    def unit(self) -> str:
        """What a ratio of 1 is."""
        return f"as {'much' if self.type == 'mean' else 'often'} as {self.compared[1]}"

    @property
    def meaning(self) -> str:
        """What the ratio is."""
        arm, base = self.compared
        if self.type == "mean":
            return f"How many times as much of it a unit of {arm} has as one of {base}"
        return f"How many times as often it happens with {arm} as with {base}"


@dataclass(frozen=True, slots=True)
class ReportArm:
    """One arm: its revision, percent of the traffic now, requests in all and of those as evidence, and failures."""

    name: str
    revision: int
    weight: float
    requests: int
    evidence: int | None
    errors: int

    @property
    def error_rate(self) -> float | None:
        """The share of its requests that failed."""
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """A rollout, told.

    Attributes:
        kind: Rollout, or Experiment for one of a user's own.
        who: what gets traffic beside stable: the candidate, or the arms.
        lanes: of whom the looks tell; those of a rollout are stable and the candidate.
        arms_compared: what the two arms of a metric are called.
        title: the Experiment, such as `vision/digits-r8`.
        heading: how it ended, or where it is.
        tone: good, bad or open.
        why: sentences.
        facts: (name, value) of what it is and was held to.
        quality: (name, value) of how far the counts can be trusted.
        seconds: from its begin to its end, or to now.
        remembered: whether its status has a history.
    """

    kind: str
    who: str
    lanes: tuple[ReportLane, ...]
    arms_compared: tuple[str, str]
    title: str
    heading: str
    tone: str
    why: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    quality: tuple[tuple[str, str], ...]
    arms: tuple[ReportArm, ...]
    looks: tuple[ReportPoint, ...]
    metrics: tuple[ReportMetric, ...]
    seconds: float
    remembered: bool
