"""What a report says of a rollout or an experiment, from its stored object alone."""

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    ExperimentStatus,
    FrozenPlan,
    HistoryMetric,
    HistoryPoint,
    MetricStatus,
    PlanGuardrail,
    PlanOutcome,
    ShadowStatus,
    format_duration,
    is_latency_metric,
)
from sundog_operator.core.analysis import power, split_mismatch
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import percent
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import (
    explanations,
    freeze,
    history,
    plan_text,
    prometheus_checks,
    state,
)
from sundog_operator.core.stats import guardrail_test, multiple_testing
from sundog_operator.ports import Object
from sundog_operator.shell.describe_experiment import find_one_sided_note, format_interval
from sundog_operator.shell.layout import format_span
from sundog_operator.shell.plan_text import (
    baseline_arm,
    describe_end_conditions,
    describe_guardrail_limit,
    describe_outcome_goal,
)
from sundog_operator.shell.report.model import (
    MAX_ARMS,
    OUTSIDE,
    ROLLOUT,
    ExperimentReport,
    MetricPoint,
    ReportArm,
    ReportLane,
    ReportMetric,
    ReportPoint,
)

_HEADINGS: Final = {
    "Promoted": "Promoted on evidence",
    "RolledBack": "Rolled back on evidence",
    "Harm": "Every arm did harm",
    "NoWinner": "No arm can win",
}
_TONES: Final = {"Promoted": "good", "RolledBack": "bad", "Harm": "bad", "NoWinner": "open"}
_ARMS: Final = (names.STABLE, names.CANARY)
_OUTCOMES: Final = ("success", "secondary")


def make_report(obj: Object, now: datetime) -> ExperimentReport:
    """Tell an Experiment as it is stored."""
    status, meta = ExperimentStatus.parse(obj.get("status")), obj["metadata"]
    tallies = Counters.unpack(status.tallies, str(meta.get("uid", "")))
    begun = _begun(status, meta, now)
    ended = _ended(status) or now
    points = _points(status, ended)
    heading, tone = _heading(status)
    own = status.plan.comparison is not None
    return ExperimentReport(
        kind="Experiment" if own else ROLLOUT,
        who="arms" if own else "candidate",
        lanes=tuple(_lanes(status)),
        arms_compared=("control", "arm") if own else ("stable", "candidate"),
        title=replace_control_characters(f"{meta['namespace']}/{meta['name']}"),
        heading=replace_control_characters(heading),
        tone=tone,
        why=tuple(map(replace_control_characters, _why(status))),
        facts=tuple((name, replace_control_characters(value)) for name, value in _facts(obj, status, begun, ended)),
        quality=tuple((name, replace_control_characters(value)) for name, value in _quality(status, tallies)),
        arms=tuple(_arms(status, tallies)),
        looks=tuple(
            _look(point, begun, own=own)
            for point in points
            if len(point.requests) == len(point.errors) == (len(status.arms) if own else len(_ARMS))
        ),
        metrics=(
            *(
                _outcome(status, outcome, points, begun, arm)
                for outcome in _outcomes(status)
                for arm in _compared(status)
                if arm
            ),
            *(
                _metric(status, guardrail, points, begun, arm)
                for arm in _compared(status)
                for guardrail in status.plan.guardrails
            ),
        ),
        seconds=max((ended - begun).total_seconds(), 1.0),
        remembered=bool(status.history),
    )


def _compared(status: ExperimentStatus) -> list[str | None]:
    """The arms that metrics are about; None for the candidate of a rollout."""
    if status.plan.comparison is None:
        return [None]
    return [arm.name for arm in status.arms if arm.name not in names.STABLE_ARMS]


def replace_control_characters(text: str) -> str:
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
    if not state.is_over(status):
        return None
    told = next((each for each in status.conditions if each.type == "Running" and each.status == "False"), None)
    return told.last_transition_time if told else status.epoch.since


def _points(status: ExperimentStatus, ended: datetime) -> tuple[HistoryPoint, ...]:
    """Its history, and what is known now or was at the end, where that is newer: a command ends an attempt between two looks."""
    at = ended if state.is_over(status) else status.counted_at
    if at is None or (status.history and status.history[-1].at >= at):
        return status.history
    return (*status.history, history.make_point(status, status.metrics, at))


def _heading(status: ExperimentStatus) -> tuple[str, str]:
    reason = status.verdict.reason.partition(":")[0]
    if status.verdict.winner and status.plan.comparison is not None:
        return f"{status.verdict.winner} has won", "good"
    if state.is_decided_by_copies(status):
        return _of_copies(status, reason)
    match status.phase:
        case state.CONCLUDED | state.STOPPED if status.verdict.decision in _HEADINGS:
            return _HEADINGS[status.verdict.decision], _TONES[status.verdict.decision]
        case state.CONCLUDED if status.plan.comparison is not None:
            return f"Has run its course, undecided: {reason}", "open"
        case state.CONCLUDED:
            return "Promoted, not by evidence", "open"
        case state.STOPPED:
            return f"Ended without a verdict of evidence: {reason or 'no reason was told'}", "open"
        case state.RUNNING if status.paused is not None:
            return f"Paused: {status.paused.reason}", "open"
        case state.RUNNING:
            return "Undecided, goes on", "open"
    return "Has not begun", "open"


def _of_copies(status: ExperimentStatus, reason: str) -> tuple[str, str]:
    """What became of a candidate that has passed by copies alone."""
    match status.phase:
        case state.CONCLUDED:
            return "Promoted by command, after its copies had passed", "good"
        case state.STOPPED:
            return f"Its copies had passed, and it was not promoted: {reason}", "open"
    return "Its copies have passed: promote or abort it", "good"


def _why(status: ExperimentStatus) -> Iterator[str]:
    """The outcome or what is waited for, then what is known of each guardrail, no sentence twice."""
    step = status.step.reason if status.step else ""
    if state.is_over(status) or status.verdict.winner or state.is_decided_by_copies(status):
        first = status.verdict.reason
    else:
        first = explanations.describe_pause(status) if status.paused else step
    if first:
        yield first
    for each in status.metrics:
        if (
            each.message
            and each.message not in first
            and (each.role in ("guardrail", "success") or each.verdict == "Harm")
        ):
            yield each.message
    if side := find_one_sided_note(status.metrics):
        yield side
    for check in status.checks:
        if check.message and check.message not in first:
            yield check.message


def _facts(obj: Object, status: ExperimentStatus, begun: datetime, ended: datetime) -> Iterator[tuple[str, str]]:
    plan = status.plan
    yield "model deployment", str((obj.get("spec") or {}).get("modelDeployment", ""))
    yield "began", f"{begun:%Y-%m-%d %H:%M:%S} UTC"
    if state.is_over(status):
        yield "ended", f"{ended:%Y-%m-%d %H:%M:%S} UTC, after {format_span(ended - begun)}"
    else:
        yield "so far", format_span(ended - begun)
    if plan.comparison is None:
        yield from _steps(plan)
    else:
        yield "arms", ", ".join(f"{arm.name} {percent(arm.buckets):g} %" for arm in plan.comparison.arms)
        yield "ends", describe_end_conditions(plan.comparison)
    if plan.requests_per_second is not None:
        yield "traffic", f"{plan.requests_per_second:.3g} requests a second when it began"
    for guardrail in plan.guardrails:
        yield guardrail.metric, describe_guardrail_limit(guardrail, baseline_arm(plan))
    for check in plan.checks:
        yield check.name, f"{prometheus_checks.format_limits(check)}, as Prometheus gives it"
    if status.shadow is not None:
        yield from _copies(status.shadow)
    if plan.alpha is not None and (plan.guardrails or plan.harm_shares):
        yield "alpha", plan_text.describe_alpha(plan)
    for outcome in _outcomes(status):
        yield outcome.name, f"{outcome.role}: {describe_outcome_goal(outcome)}"
    if not state.is_over(status) and (doubt := power.find_undecidable_step(plan)):
        yield "beware", doubt


def _steps(plan: FrozenPlan) -> Iterator[tuple[str, str]]:
    yield "steps", " → ".join(f"{step.weight} %" for step in plan.steps) or "not frozen yet"
    for step in plan.steps:
        if step.gate == freeze.BAKE:
            yield "bake", f"{100 - step.weight} % stays with stable for {format_duration(step.min_duration)}"


def _copies(shadow: ShadowStatus) -> Iterator[tuple[str, str]]:
    yield "copies", plan_text.describe_copies(shadow)
    yield "compared", shadow.message
    for each in shadow.earlier or ():
        yield "compared before", each


def _quality(status: ExperimentStatus, tallies: Counters) -> Iterator[tuple[str, str]]:
    told = next((each for each in status.conditions if each.type == "DataQuality"), None)
    if told is not None:
        yield "data quality", f"{told.reason}: {told.message}" if told.message else told.reason
    silent = told is not None and told.reason == "EdgeSilent"
    if status.plan.guardrails:
        yield "silent edges", told.message if told is not None and silent else "none, as of the last write"
    if not tallies.sources:
        yield "counts", "none are kept"
        return
    if status.plan.comparison is not None:
        lost = [f"{tallies.over_epochs(arm.name).lost} of {arm.name}" for arm in status.arms]
        yield "lost", f"{', '.join(lost)}: requests that ended, nobody knows how"
        return
    yield "sample ratio", _sample_ratio(status, tallies)
    stable, canary = (tallies.over_epochs(name) for name in _ARMS)
    yield "lost", f"{stable.lost} of stable's requests and {canary.lost} of the candidate's ended, nobody knows how"
    yield "running", f"{stable.running} of stable's and {canary.running} of the candidate's, when that was last told"


def _sample_ratio(status: ExperimentStatus, tallies: Counters) -> str:
    """How the requests that are evidence fell to the arms, and how much that speaks against the weights."""
    counted = [
        guardrail_test.ArmSplit.of_two(each.weight / 100, _assigned(tallies, each.number))
        for each in status.evidence_epochs
        if 0 < each.weight < 100
    ]
    canary, total = sum(each.units[1] for each in counted), sum(sum(each.units) for each in counted)
    if not total:
        return "nothing was counted as evidence"
    if units.frozen_unit(status.plan) != units.PER_REQUEST:
        return (
            f"the candidate got {canary} of {total} requests, which need not fall to the arms by the weights; units are to, and edges tell"
            " those while the rollout goes on"
        )
    return (
        f"{split_mismatch.describe_split(counted, 'requests')}; log E against the split is"
        f" {guardrail_test.mismatch_log_e(counted):.3g}, and pauses from {split_mismatch.MISMATCH_LOG_E:.3g} on"
    )


def _assigned(tallies: Counters, epoch: int) -> tuple[int, int]:
    stable, canary = (tallies.of(epoch, name).assigned for name in _ARMS)
    return stable, canary


def _arms(status: ExperimentStatus, tallies: Counters) -> Iterator[ReportArm]:
    epochs = [each.number for each in status.evidence_epochs]
    for arm in (each for each in status.arms if status.plan.comparison is not None or each.name in _ARMS):
        evidence = sum(tallies.of(epoch, arm.name).assigned for epoch in epochs) if tallies.sources else None
        yield ReportArm(arm.name, arm.revision or 0, arm.weight, arm.requests, evidence, arm.errors)


def _lanes(status: ExperimentStatus) -> Iterator[ReportLane]:
    if status.plan.comparison is None:
        yield from (ReportLane("stable", "stable"), ReportLane("candidate", "candidate"))
        return
    known = {names.STABLE: ReportLane(OUTSIDE, "stable, outside"), names.CONTROL: ReportLane("control", names.CONTROL)}
    beside = itertools.cycle(range(1, MAX_ARMS + 1))
    for arm in status.arms:
        yield known.get(arm.name) or ReportLane(f"arm-{next(beside)}", replace_control_characters(arm.name))


def _look(point: HistoryPoint, begun: datetime, *, own: bool) -> ReportPoint:
    weights: tuple[float, ...] | None = point.weights if own else (100 - point.weight, point.weight)
    if weights is not None and len(weights) != len(point.requests):
        weights = None
    return ReportPoint(_since(begun, point.at), point.weight, weights, point.requests, point.errors)


def _since(begun: datetime, at: datetime) -> float:
    return max((at - begun) / timedelta(seconds=1), 0.0)


def _metric(
    status: ExperimentStatus,
    guardrail: PlanGuardrail,
    points: tuple[HistoryPoint, ...],
    begun: datetime,
    arm: str | None,
) -> ReportMetric:
    named = (each for each in status.metrics if each.name == guardrail.metric and each.role not in _OUTCOMES)
    last = next((each for each in named if arm in (None, each.arm)), None)
    return ReportMetric(
        name=_name(status.plan, guardrail.metric, guardrail.role, arm),
        judged=guardrail.role == "guardrail",
        compared=("the candidate", names.STABLE)
        if arm is None
        else (f"arm {replace_control_characters(arm)}", names.CONTROL),
        type="event",
        limit=describe_guardrail_limit(guardrail, baseline_arm(status.plan)),
        margin=1.0 if is_latency_metric(guardrail.metric) else 1 + guardrail.margin,
        bounds=tuple(_bounds(status.plan, guardrail, points, begun, arm)),
        last=last
        and last.model_copy(
            update={
                "message": replace_control_characters(last.message),
                "verdict": replace_control_characters(last.verdict),
            }
        ),
    )


def _outcomes(status: ExperimentStatus) -> tuple[PlanOutcome, ...]:
    return () if status.plan.comparison is None else status.plan.comparison.outcomes


def _outcome(
    status: ExperimentStatus, outcome: PlanOutcome, points: tuple[HistoryPoint, ...], begun: datetime, arm: str
) -> ReportMetric:
    """An outcome of an arm, around what control's would be."""
    key = (outcome.name, outcome.role, arm)
    last = next((each for each in status.metrics if (each.name, each.role, each.arm) == key), None)
    seen = [
        (point.at, found)
        for point in points
        if (found := _found(status.plan, point, outcome.name, outcome.role, arm)) is not None
    ]
    return ReportMetric(
        name=_name(status.plan, outcome.name, outcome.role, arm),
        judged=False,
        compared=(f"arm {replace_control_characters(arm)}", names.CONTROL),
        type=outcome.type,
        limit=describe_outcome_goal(outcome),
        margin=1.0,
        bounds=tuple(
            MetricPoint(
                _since(begun, at),
                each.ratio,
                each.lower,
                each.upper,
                replace_control_characters(each.verdict or "Undecided"),
                1.0,
            )
            for at, each in seen
        ),
        last=last
        and last.model_copy(
            update={
                "message": replace_control_characters(last.message),
                "verdict": replace_control_characters(last.verdict),
            }
        ),
    )


def _bounds(
    plan: FrozenPlan, guardrail: PlanGuardrail, points: tuple[HistoryPoint, ...], begun: datetime, arm: str | None
) -> Iterator[MetricPoint]:
    # What is known when the weight changes was counted under the one before.
    for before, point in itertools.pairwise((*points[:1], *points)):
        found = _found(plan, point, guardrail.metric, guardrail.role, arm)
        if found is not None:
            verdict, allowed = (
                replace_control_characters(found.verdict or "Undecided"),
                _allowed(plan, guardrail, before.weight),
            )
            at_s, basis = _since(begun, point.at), found.basis or ""
            yield MetricPoint(at_s, found.ratio, found.lower, found.upper, verdict, allowed, basis)


def _found(plan: FrozenPlan, point: HistoryPoint, name: str, role: str, arm: str | None) -> HistoryMetric | None:
    """What a point has of a metric. Before roles were kept, nobody knows of two of one name which it was."""
    roles = (role,) if _shares_its_name(plan, name) else (role, None)
    named = (each for each in point.metrics or () if (each.name, each.arm) == (name, arm))
    return next((each for each in named if each.role in roles), None)


def _name(plan: FrozenPlan, metric: str, role: str, arm: str | None) -> str:
    """A metric as it is told, with its role where another one has its name."""
    told = metric if arm is None else f"{arm}: {metric}"
    return replace_control_characters(f"{told} ({role})" if _shares_its_name(plan, metric) else told)


def _shares_its_name(plan: FrozenPlan, name: str) -> bool:
    if plan.comparison is None:
        return False
    return [*(each.metric for each in plan.guardrails), *(each.name for each in plan.comparison.outcomes)].count(
        name
    ) > 1


def _allowed(plan: FrozenPlan, guardrail: PlanGuardrail, weight: int) -> float:
    """The ratio up to which the gate at that weight passes."""
    if is_latency_metric(guardrail.metric):
        return 1.0
    return float(multiple_testing.allowed_ratio(guardrail.margin, state.weight_after(plan.steps, weight) / 100))


def format_point_interval(bound: MetricPoint) -> str:
    """Both ends, and that they are of one step alone, as in the other tables."""
    ends = tuple(end for end in (bound.lower, bound.upper) if end is not None)
    return format_interval(MetricStatus(name="", interval=ends if bound.lower is not None else (), basis=bound.basis))
