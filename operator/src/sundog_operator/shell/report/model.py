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
        units: units of each lane that were counted exactly; None if they were not.
    """

    at_s: float
    weight: int
    weights: tuple[float, ...] | None
    requests: tuple[int, ...]
    errors: tuple[int, ...]
    units: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class PeriodEffect:
    """Ratio of an outcome among the units and outcomes that one day, or one hour, added.

    Attributes:
        label: the period's beginning, such as `Mar 3`.
        start_s: seconds from the start to its beginning; `end_s` likewise.
        units: units of control and of the arm that it added.
        values: rates or means of control and of the arm.
        ratio: their ratio; None if control's is not above 0.
        lower: lower end of the interval of that period alone; None if too few units have a value. `upper` likewise.
    """

    label: str
    start_s: float
    end_s: float
    units: tuple[int, int]
    values: tuple[float, float]
    ratio: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class ArmChance:
    """Chances of one arm in one success metric, by the units until one time.

    Attributes:
        at_s: seconds since the start.
        power: probability to show the minimum effect with so many units; None for control.
        best: probability that its true value is the best of all arms, if all values were as likely before.
    """

    at_s: float
    power: float | None
    best: float | None


@dataclass(frozen=True, slots=True)
class OutcomeChances:
    """Chances of control and of each arm in one success metric over time.

    Attributes:
        metric: its name.
        effect: its minimum effect, as a share.
        lanes: for each lane of the report, its chances; empty for stable.
    """

    metric: str
    effect: float
    lanes: tuple[tuple[ArmChance, ...], ...]


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
        periods: its effect by day, or by hour in a short experiment; empty if that is unknown.
        period: day or hour.
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
    periods: tuple[PeriodEffect, ...] = ()
    period: str = "day"

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

    `units` are those whose first request it got, and `units_text` says if they are estimated; None and empty in a rollout.
    """

    name: str
    revision: int
    weight: float
    requests: int
    evidence: int | None
    errors: int
    units: int | None = None
    units_text: str = ""

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
        units_head: head of the column of units, with their period.
        chances: of each success metric of outcomes.
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
    units_head: str = "Units"
    chances: tuple[OutcomeChances, ...] = ()
