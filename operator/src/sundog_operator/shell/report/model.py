"""The data of a report. `-o json` prints the fields, so their names are part of the interface."""

from dataclasses import dataclass
from typing import Final, Literal

from sundog_operator.api import (
    MetricStatus,
)

ROLLOUT: Final = "Rollout"
OUTSIDE: Final = "outside"
"""Kind of the lane that gets the traffic outside of an Experiment."""
MAX_ARMS: Final = 9
"""Largest number of arms, control not included."""


@dataclass(frozen=True, slots=True)
class ReportLane:
    """A receiver of traffic.

    Attributes:
        kind: stable or candidate of a rollout; else `OUTSIDE`, control, or arm-1 to arm-9.
        name: display name.
    """

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class ReportPoint:
    """Traffic at one time.

    Attributes:
        at_s: seconds since the rollout began.
        weight: the candidate's percent of the traffic from then on, or that of all arms except control; a whole number.
        weights: percent of each lane; None if the history has only their sum.
        requests: requests of each lane until then.
        errors: failed requests of each lane.
    """

    at_s: float
    weight: int
    weights: tuple[float, ...] | None
    requests: tuple[int, ...]
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One metric at one time.

    Attributes:
        ratio: candidate to stable; None if stable never had the event.
        lower: lower end of the interval; None if unknown. `upper` likewise.
        allowed: the largest ratio with which the gate of that time passes.
        basis: as in `HistoryMetric`; empty if that has none.
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
    """One metric over time.

    Attributes:
        name: name in the plan, with the arm's name if it has one.
        judged: gates wait for it; otherwise it can only do harm, or is an outcome that is no guardrail.
        compared: the two sides of its ratio: an arm and control, or the candidate and stable.
        type: an event of the edge, or an outcome that is a rate, a mean or a ratio of sums.
        limit: description of the guardrail's limit or of the outcome's goal.
        margin: the ratio beyond which the candidate does harm.
        bounds: points, oldest first.
        last: its last reported numbers; None if there are none.
        effect: the ratio from which on an outcome has its minimum effect; None without one.
    """

    name: str
    judged: bool
    compared: tuple[str, str]
    type: Literal["event", "rate", "mean", "ratio"]
    limit: str
    margin: float
    bounds: tuple[MetricPoint, ...]
    last: MetricStatus | None
    effect: float | None = None

    @property
    def unit(self) -> str:
        """Description of a ratio of 1."""
        return f"as {'much' if self.type in ('mean', 'ratio') else 'often'} as {self.compared[1]}"

    @property
    def meaning(self) -> str:
        """Description of the ratio."""
        arm, base = self.compared
        if self.type == "mean":
            return f"Ratio of the mean by unit: {arm} to {base}"
        if self.type == "ratio":
            return f"Ratio of the ratios of sums: {arm} to {base}"
        return f"Ratio of the frequency: {arm} to {base}"


@dataclass(frozen=True, slots=True)
class ReportArm:
    """One arm: its revision, present percent of the traffic, requests, those of them that are evidence, and failures.

    `units` are those whose first request it got; None in a rollout.
    """

    name: str
    revision: int
    weight: float
    requests: int
    evidence: int | None
    errors: int
    units: int | None = None

    @property
    def error_rate(self) -> float | None:
        """Share of its requests that failed; None without requests."""
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """The report of a rollout or an Experiment.

    Attributes:
        kind: Rollout or Experiment.
        who: the receivers of traffic other than stable: the candidate, or the arms.
        lanes: the lanes of `points`; those of a rollout are stable and the candidate.
        arms_compared: display names of the two sides of a metric.
        title: the Experiment's full name, such as `vision/digits-r8`.
        heading: its end or its present state.
        tone: good, bad or open.
        why: sentences that explain the heading.
        facts: (name, value) of its plan and limits.
        quality: (name, value) of the quality of its data.
        points: traffic at each evaluation.
        seconds: from its start to its end, or to now.
        remembered: its status has a history.
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
    points: tuple[ReportPoint, ...]
    metrics: tuple[ReportMetric, ...]
    seconds: float
    remembered: bool
