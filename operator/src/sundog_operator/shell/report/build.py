"""Build the report of a rollout or an Experiment from its stored object."""

import itertools
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from sundog_operator.api import (
    ExperimentStatus,
    FrozenPlan,
    HistoryPoint,
    ShadowStatus,
    format_duration,
)
from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core import metric_text
from sundog_operator.core.analysis import split_mismatch
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import BUCKETS, percent
from sundog_operator.core.forecast import gate_forecast
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats import sample_ratio
from sundog_operator.core.trial import history, phases
from sundog_operator.core.trial.default_plan import tested_guardrails
from sundog_operator.core.trial.experiment import evaluate
from sundog_operator.core.trial.rollout import freeze, plan_text, prometheus_checks
from sundog_operator.ports import Object
from sundog_operator.shell.report import outcome_history
from sundog_operator.shell.report.metrics import (
    make_guardrail_metric,
    make_outcome_metric,
    replace_control_characters,
    seconds_since,
)
from sundog_operator.shell.report.model import (
    MAX_ARMS,
    OUTSIDE,
    ROLLOUT,
    ExperimentReport,
    ReportArm,
    ReportLane,
    ReportPoint,
)
from sundog_operator.shell.view.layout import format_span
from sundog_operator.shell.view.plan_facts import (
    describe_end_conditions,
    error_facts,
    guardrail_facts,
    outcome_facts,
    planned_outcomes,
)
from sundog_operator.shell.view.verdict import explain, find_end, make_heading

_ARMS: Final = (names.STABLE, names.CANARY)


def make_report(obj: Object, now: datetime) -> ExperimentReport:
    """Build the report of a stored Experiment."""
    status, meta = ExperimentStatus.parse(obj.get("status")), obj["metadata"]
    counters = Counters.unpack(status.tallies, str(meta.get("uid", "")))
    start = _find_start(status, meta, now)
    end = find_end(status) or now
    points = _find_points(status, end)
    heading, tone = make_heading(status)
    is_experiment = status.plan.comparison is not None
    arm_count = len(status.arms) if is_experiment else len(_ARMS)
    return ExperimentReport(
        kind="Experiment" if is_experiment else ROLLOUT,
        who="arms" if is_experiment else "candidate",
        lanes=tuple(_make_lanes(status)),
        arms_compared=("control", "arm") if is_experiment else ("stable", "candidate"),
        title=replace_control_characters(f"{meta['namespace']}/{meta['name']}"),
        heading=replace_control_characters(heading),
        tone=tone,
        why=tuple(map(replace_control_characters, explain(status))),
        facts=tuple((name, replace_control_characters(value)) for name, value in _facts(obj, status, start, end)),
        quality=tuple((name, replace_control_characters(value)) for name, value in _quality(status, counters)),
        arms=tuple(_make_arms(status, counters)),
        points=tuple(
            _make_look(point, start, is_experiment=is_experiment)
            for point in points
            if len(point.requests) == len(point.errors) == arm_count
        ),
        metrics=(
            *(
                make_outcome_metric(status, outcome, points, start, arm)
                for outcome in planned_outcomes(status.plan)
                for arm in _compared_arms(status)
            ),
            *(
                make_guardrail_metric(status, guardrail, points, start, arm)
                for arm in _compared_arms(status)
                for guardrail in tested_guardrails(status.plan.guardrails)
            ),
        ),
        seconds=max((end - start).total_seconds(), 1.0),
        remembered=bool(status.history),
        units_head=metric_text.units_head(status),
        chances=tuple(outcome_history.make_chances(status, points, start)),
    )


def _compared_arms(status: ExperimentStatus) -> list[str | None]:
    """Return the arms with metrics; None stands for the candidate of a rollout."""
    if status.plan.comparison is None:
        return [None]
    return [arm.name for arm in status.arms if arm.name not in names.STABLE_ARMS]


def _find_start(status: ExperimentStatus, meta: Object, now: datetime) -> datetime:
    first = status.history[0].at if status.history else None
    created = str(meta.get("creationTimestamp") or "")
    return status.plan.frozen_at or first or (datetime.fromisoformat(created) if created else now)


def _find_points(status: ExperimentStatus, end: datetime) -> tuple[HistoryPoint, ...]:
    """Return the history with a point for the present or the end, if that is newer: a command may end it between two points."""
    at = end if phases.is_over(status) else status.counted_at
    if at is None or (status.history and status.history[-1].at >= at):
        return status.history
    return (*status.history, history.make_point(status, status.metrics, at))


def _facts(obj: Object, status: ExperimentStatus, start: datetime, end: datetime) -> Iterator[tuple[str, str]]:
    plan = status.plan
    yield "model deployment", str((obj.get("spec") or {}).get("modelDeployment", ""))
    yield "began", f"{start:%Y-%m-%d %H:%M:%S} UTC"
    if phases.is_over(status):
        yield "ended", f"{end:%Y-%m-%d %H:%M:%S} UTC, after {format_span(end - start)}"
    else:
        yield "so far", format_span(end - start)
    if plan.comparison is None:
        yield from _steps(plan)
    else:
        yield "arms", ", ".join(f"{arm.name} {percent(arm.buckets):g} %" for arm in plan.comparison.arms)
        yield "ends", describe_end_conditions(plan.comparison)
    if plan.requests_per_second is not None:
        yield "traffic", f"{plan.requests_per_second:.3g} requests a second at its start"
    yield from guardrail_facts(plan)
    for check in plan.checks:
        yield check.name, f"{prometheus_checks.format_limits(check)}, from Prometheus"
    if status.shadow is not None:
        yield from _copies(status.shadow)
    yield from error_facts(plan)
    yield from outcome_facts(plan)
    if not phases.is_over(status) and (warning := gate_forecast.find_undecidable_step(plan)):
        yield "warning", warning


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


def _quality(status: ExperimentStatus, counters: Counters) -> Iterator[tuple[str, str]]:
    condition = next((each for each in status.conditions if each.type == "DataQuality"), None)
    if condition is not None:
        yield "data quality", f"{condition.reason}: {condition.message}" if condition.message else condition.reason
    if status.plan.guardrails:
        is_silent = condition is not None and condition.reason == ExperimentReason.EDGE_SILENT
        yield "silent edges", condition.message if condition is not None and is_silent else "none, as of the last write"
    if not counters.sources:
        yield "counts", "none are kept"
        return
    if status.plan.comparison is not None:
        yield from _experiment_quality(status, counters)
        return
    yield "sample ratio", _describe_sample_ratio(status, counters)
    stable, canary = (counters.over_epochs(name) for name in _ARMS)
    yield from _outcome_quality(status, counters)
    yield "lost", f"{stable.lost} of stable's requests and {canary.lost} of the candidate's have an unknown result"
    yield (
        "running",
        f"{stable.running} of stable's requests and {canary.running} of the candidate's, as of the last report",
    )


def _experiment_quality(status: ExperimentStatus, counters: Counters) -> Iterator[tuple[str, str]]:
    yield "sample ratio", _describe_split_of_arms(status, counters)
    lost = [f"{counters.over_epochs(arm.name).lost} of {arm.name}" for arm in status.arms]
    yield "lost", f"{', '.join(lost)}: requests with an unknown result"
    yield from _outcome_quality(status, counters)


def _outcome_quality(status: ExperimentStatus, counters: Counters) -> Iterator[tuple[str, str]]:
    if any(each.metric is None for each in planned_outcomes(status.plan)):
        sums = counters.feedback
        yield (
            "outcomes",
            f"{sums.accepted} counted, {sums.late} late ({sums.early} of them before the exposure that they name),"
            f" {sums.future} in the future, {sums.unknown} of unknown units, {sums.overflow} without space in the store",
        )


def _describe_split_of_arms(status: ExperimentStatus, counters: Counters) -> str:
    """Describe how the units of the evidence split over the arms, and the evidence against the weights."""
    arms = [arm.name for arm in status.arms]
    epochs = [each for each in status.evidence_epochs if each.buckets is not None and len(each.buckets) == len(arms)]
    is_sticky, exposed = units.is_sticky(status.plan), counters.feedback.exposed
    splits = [
        sample_ratio.ArmSplit(
            tuple(own / BUCKETS for own in each.buckets or ()),
            tuple(
                exposed.get((each.number, arm), 0) if exposed else counters.of(each.number, arm).assigned
                for arm in arms
            ),
        )
        for each in epochs
    ]
    if not any(sum(each.units) for each in splits):
        return "no evidence was counted"
    described = evaluate.describe_arm_counts(arms, splits, "units" if exposed else "requests")
    if is_sticky and not exposed:
        return f"{described}. Only units split by the weights; edges count those while the experiment runs"
    return (
        f"{described}; log E against the split is {sample_ratio.splits_log_e(splits):.3g};"
        f" nothing is decided from {split_mismatch.MISMATCH_LOG_E:.3g}"
    )


def _describe_sample_ratio(status: ExperimentStatus, counters: Counters) -> str:
    """Describe how the requests of the evidence split over the arms, and the evidence against the weights."""
    counted = [
        sample_ratio.ArmSplit.of_two(each.weight / 100, _assigned(counters, each.number))
        for each in status.evidence_epochs
        if 0 < each.weight < 100
    ]
    canary, total = sum(each.units[1] for each in counted), sum(sum(each.units) for each in counted)
    if not total:
        return "no evidence was counted"
    if units.frozen_unit(status.plan) != units.PER_REQUEST:
        return f"the candidate got {canary} of {total} requests. Only units split by the weights; edges count those while the rollout runs"
    return (
        f"{split_mismatch.describe_canary_count(counted, 'requests')}; log E against the split is"
        f" {sample_ratio.splits_log_e(counted):.3g}; the rollout pauses from {split_mismatch.MISMATCH_LOG_E:.3g}"
    )


def _assigned(counters: Counters, epoch: int) -> tuple[int, int]:
    stable, canary = (counters.of(epoch, name).assigned for name in _ARMS)
    return stable, canary


def _make_arms(status: ExperimentStatus, counters: Counters) -> Iterator[ReportArm]:
    epochs = [each.number for each in status.evidence_epochs]
    for arm in (each for each in status.arms if status.plan.comparison is not None or each.name in _ARMS):
        evidence = sum(counters.of(epoch, arm.name).assigned for epoch in epochs) if counters.sources else None
        assigned = arm.units if status.plan.comparison is not None else None
        text = "" if assigned is None else metric_text.format_units(arm, status)
        yield ReportArm(arm.name, arm.revision or 0, arm.weight, arm.requests, evidence, arm.errors, assigned, text)


def _make_lanes(status: ExperimentStatus) -> Iterator[ReportLane]:
    if status.plan.comparison is None:
        yield from (ReportLane("stable", "stable"), ReportLane("candidate", "candidate"))
        return
    known = {names.STABLE: ReportLane(OUTSIDE, "stable, outside"), names.CONTROL: ReportLane("control", names.CONTROL)}
    numbers = itertools.cycle(range(1, MAX_ARMS + 1))
    for arm in status.arms:
        yield known.get(arm.name) or ReportLane(f"arm-{next(numbers)}", replace_control_characters(arm.name))


def _make_look(point: HistoryPoint, start: datetime, *, is_experiment: bool) -> ReportPoint:
    weights: tuple[float, ...] | None = point.weights if is_experiment else (100 - point.weight, point.weight)
    if weights is not None and len(weights) != len(point.requests):
        weights = None
    units_of = point.units if point.units is not None and len(point.units) == len(point.requests) else None
    return ReportPoint(
        seconds_since(start, point.at),
        point.weight,
        weights,
        point.requests,
        point.errors,
        units_of if is_experiment else None,
    )
