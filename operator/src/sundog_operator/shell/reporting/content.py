"""What there is to tell of one rollout, out of its Experiment: for the terminal and for the page alike. Pure."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import Final

from sundog_operator.api import (
    ExperimentStatus,
    FrozenPlan,
    HistoryPoint,
    MetricStatus,
    PlanGuardrail,
    is_latency,
)
from sundog_operator.core import names, power, units
from sundog_operator.core.evidence import many, weighing
from sundog_operator.core.rollout import history, judging, machine
from sundog_operator.core.rollout.tallies import Tallies, Tally
from sundog_operator.ports import Object
from sundog_operator.shell.describing import interval, limit, span

_HEADINGS: Final = {"Promoted": "Promoted on evidence", "RolledBack": "Rolled back on evidence"}
_TONES: Final = {"Promoted": "good", "RolledBack": "bad"}
_ARMS: Final = (names.STABLE, names.CANARY)


@dataclass(frozen=True, slots=True)
class Look:
    """What was known at one time.

    Attributes:
        at_s: seconds since the rollout began.
        weight: the candidate's percent of the traffic from then on.
        requests: of stable and of the candidate, until then.
        errors: of those, the ones that failed.
    """

    at_s: float
    weight: int
    requests: tuple[int, int]
    errors: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bound:
    """What was known of one metric at one time; `allowed` is the ratio up to which the gate of that time passes.

    An end that is None is not known; a ratio that is None is of a metric that stable never had.
    """

    at_s: float
    ratio: float | None
    lower: float | None
    upper: float | None
    verdict: str
    allowed: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric over all of the time.

    Attributes:
        name: as in the plan.
        judged: whether gates wait for it; else it can only do harm.
        limit: how much worse the candidate may be, in words.
        margin: the ratio beyond which the candidate does harm.
        bounds: oldest first.
        last: its numbers as they were told last; None where nothing was.
    """

    name: str
    judged: bool
    limit: str
    margin: float
    bounds: tuple[Bound, ...]
    last: MetricStatus | None


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm: its revision, percent of the traffic now, requests in all and of those as evidence, and failures."""

    name: str
    revision: int
    weight: int
    requests: int
    evidence: int | None
    errors: int

    @property
    def error_rate(self) -> float | None:
        """The share of its requests that failed."""
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Report:
    """A rollout, told.

    Attributes:
        title: the Experiment, such as `vision/digits-r8`.
        heading: how it ended, or where it is.
        tone: good, bad or open.
        why: sentences.
        facts: (name, value) of what it is and was held to.
        quality: (name, value) of how far the counts can be trusted.
        seconds: from its begin to its end, or to now.
        remembered: whether its status has a history.
    """

    title: str
    heading: str
    tone: str
    why: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    quality: tuple[tuple[str, str], ...]
    arms: tuple[ArmFigures, ...]
    looks: tuple[Look, ...]
    metrics: tuple[Metric, ...]
    seconds: float
    remembered: bool


def report_of(obj: Object, now: datetime) -> Report:
    """Tell an Experiment as it is stored."""
    status, meta = ExperimentStatus.parse(obj.get("status")), obj["metadata"]
    tallies = Tallies.unpack(status.tallies, str(meta.get("uid", "")))
    begun = _begun(status, meta, now)
    ended = _ended(status) or now
    points = _points(status, ended)
    heading, tone = _heading(status)
    return Report(
        title=printable(f"{meta['namespace']}/{meta['name']}"),
        heading=printable(heading),
        tone=tone,
        why=tuple(map(printable, _why(status))),
        facts=tuple((name, printable(value)) for name, value in _facts(obj, status, begun, ended)),
        quality=tuple((name, printable(value)) for name, value in _quality(status, tallies)),
        arms=tuple(_arms(status, tallies)),
        looks=tuple(_look(point, begun) for point in points if len(point.requests) == len(point.errors) == len(_ARMS)),
        metrics=tuple(_metric(status, guardrail, points, begun) for guardrail in status.plan.guardrails),
        seconds=max((ended - begun).total_seconds(), 1.0),
        remembered=bool(status.history),
    )


def printable(text: str) -> str:
    """A text without control characters, which terminals obey and which no document may hold."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def _begun(status: ExperimentStatus, meta: Object, now: datetime) -> datetime:
    first = status.history[0].at if status.history else None
    created = str(meta.get("creationTimestamp") or "")
    return status.plan.frozen_at or first or (datetime.fromisoformat(created) if created else now)


def _ended(status: ExperimentStatus) -> datetime | None:
    """When it ended; None while it goes on."""
    if not machine.is_over(status):
        return None
    told = next((each for each in status.conditions if each.type == "Running" and each.status == "False"), None)
    return told.last_transition_time if told else status.epoch.since


def _points(status: ExperimentStatus, ended: datetime) -> tuple[HistoryPoint, ...]:
    """Its history, and what is known now or was at the end, where that is newer: a command ends an attempt between two looks."""
    at = ended if machine.is_over(status) else status.counted_at
    if at is None or (status.history and status.history[-1].at >= at):
        return status.history
    return (*status.history, history.point_of(status, status.metrics, at))


def _heading(status: ExperimentStatus) -> tuple[str, str]:
    reason = status.verdict.reason.partition(":")[0]
    match status.phase:
        case machine.CONCLUDED | machine.STOPPED if status.verdict.decision in _HEADINGS:
            return _HEADINGS[status.verdict.decision], _TONES[status.verdict.decision]
        case machine.CONCLUDED:
            return "Promoted, not by evidence", "open"
        case machine.STOPPED:
            return f"Ended without a verdict of evidence: {reason or 'no reason was told'}", "open"
        case machine.RUNNING if status.paused is not None:
            return f"Paused: {status.paused.reason}", "open"
        case machine.RUNNING:
            return "Undecided, goes on", "open"
    return "Has not begun", "open"


def _why(status: ExperimentStatus) -> Iterator[str]:
    """The outcome or what is waited for, then what is known of each guardrail, no sentence twice."""
    step = status.step.reason if status.step else ""
    first = status.verdict.reason if machine.is_over(status) else machine.paused_for(status) if status.paused else step
    if first:
        yield first
    for each in status.metrics:
        if each.message and each.message not in first and (each.role == "guardrail" or each.verdict == "Harm"):
            yield each.message


def _facts(obj: Object, status: ExperimentStatus, begun: datetime, ended: datetime) -> Iterator[tuple[str, str]]:
    plan = status.plan
    yield "model deployment", str((obj.get("spec") or {}).get("modelDeployment", ""))
    yield "began", f"{begun:%Y-%m-%d %H:%M:%S} UTC"
    if machine.is_over(status):
        yield "ended", f"{ended:%Y-%m-%d %H:%M:%S} UTC, after {span(ended - begun)}"
    else:
        yield "so far", span(ended - begun)
    yield "steps", " → ".join(f"{step.weight} %" for step in plan.steps) or "not frozen yet"
    if plan.requests_per_second is not None:
        yield "traffic", f"{plan.requests_per_second:.3g} requests a second when it began"
    for guardrail in plan.guardrails:
        yield guardrail.metric, limit(guardrail)
    if plan.alpha is not None and plan.guardrails:
        yield "alpha", f"{plan.alpha:g}, the error of each direction"
    if not machine.is_over(status) and (doubt := power.doubt(plan)):
        yield "beware", doubt


def _quality(status: ExperimentStatus, tallies: Tallies) -> Iterator[tuple[str, str]]:
    told = next((each for each in status.conditions if each.type == "DataQuality"), None)
    if told is not None:
        yield "data quality", f"{told.reason}: {told.message}" if told.message else told.reason
    silent = told is not None and told.reason == "EdgeSilent"
    if status.plan.guardrails:
        yield "silent edges", told.message if told is not None and silent else "none, as of the last write"
    if not tallies.sources:
        yield "counts", "none are kept"
        return
    yield "sample ratio", _sample_ratio(status, tallies)
    stable, canary = (_of_arm(tallies, name) for name in _ARMS)
    yield "lost", f"{stable.lost} of stable's requests and {canary.lost} of the candidate's ended, nobody knows how"
    yield "running", f"{stable.running} of stable's and {canary.running} of the candidate's, when that was last told"


def _of_arm(tallies: Tallies, arm: str) -> Tally:
    rows = itertools.chain.from_iterable(own.items() for own in tallies.sources.values())
    return reduce(Tally.plus, (tally for (_, name), tally in rows if name == arm), Tally())


def _sample_ratio(status: ExperimentStatus, tallies: Tallies) -> str:
    """How the requests that are evidence fell to the arms, and how much that speaks against the weights."""
    counted = [
        weighing.Split(each.weight / 100, _assigned(tallies, each.number))
        for each in status.evidence_epochs
        if 0 < each.weight < 100
    ]
    canary, total = sum(each.units[1] for each in counted), sum(sum(each.units) for each in counted)
    if not total:
        return "nothing was counted as evidence"
    if units.frozen_in(status.plan) != units.REQUEST:
        return (
            f"the candidate got {canary} of {total} requests, which need not fall to the arms by the weights; units are to, and edges tell"
            " those while the rollout goes on"
        )
    return (
        f"{judging.as_they_fell(counted, 'requests')}; log E against the split is"
        f" {weighing.mismatch(counted):.3g}, and pauses from {judging.MISMATCH_LOG_E:.3g} on"
    )


def _assigned(tallies: Tallies, epoch: int) -> tuple[int, int]:
    stable, canary = (tallies.of(epoch, name).assigned for name in _ARMS)
    return stable, canary


def _arms(status: ExperimentStatus, tallies: Tallies) -> Iterator[ArmFigures]:
    epochs = [each.number for each in status.evidence_epochs]
    for arm in (each for each in status.arms if each.name in _ARMS):
        evidence = sum(tallies.of(epoch, arm.name).assigned for epoch in epochs) if tallies.sources else None
        yield ArmFigures(arm.name, arm.revision or 0, arm.weight, arm.requests, evidence, arm.errors)


def _look(point: HistoryPoint, begun: datetime) -> Look:
    (stable, canary), (stable_failed, canary_failed) = point.requests, point.errors
    return Look(_since(begun, point.at), point.weight, (stable, canary), (stable_failed, canary_failed))


def _since(begun: datetime, at: datetime) -> float:
    return max((at - begun) / timedelta(seconds=1), 0.0)


def _metric(
    status: ExperimentStatus, guardrail: PlanGuardrail, points: tuple[HistoryPoint, ...], begun: datetime
) -> Metric:
    last = next((each for each in status.metrics if each.name == guardrail.metric), None)
    return Metric(
        name=guardrail.metric,
        judged=guardrail.role == "guardrail",
        limit=limit(guardrail),
        margin=1.0 if is_latency(guardrail.metric) else 1 + guardrail.margin,
        bounds=tuple(_bounds(status.plan, guardrail, points, begun)),
        last=last and last.model_copy(update={"message": printable(last.message), "verdict": printable(last.verdict)}),
    )


def _bounds(
    plan: FrozenPlan, guardrail: PlanGuardrail, points: tuple[HistoryPoint, ...], begun: datetime
) -> Iterator[Bound]:
    # What is known when the weight changes was counted under the one before.
    for before, point in itertools.pairwise((*points[:1], *points)):
        found = next((each for each in point.metrics or () if each.name == guardrail.metric), None)
        if found is not None:
            verdict, allowed = printable(found.verdict or "Undecided"), _allowed(plan, guardrail, before.weight)
            yield Bound(_since(begun, point.at), found.ratio, found.lower, found.upper, verdict, allowed)


def _allowed(plan: FrozenPlan, guardrail: PlanGuardrail, weight: int) -> float:
    """The ratio up to which the gate at that weight passes."""
    if is_latency(guardrail.metric):
        return 1.0
    return float(many.allowed_ratio(guardrail.margin, machine.weight_after(plan.steps, weight) / 100))


def told_interval(bound: Bound) -> str:
    """Both ends, as in the other tables."""
    ends = tuple(end for end in (bound.lower, bound.upper) if end is not None)
    return interval(MetricStatus(name="", interval=ends if bound.lower is not None else ()))
