"""Describe an Experiment in full."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import (
    ExperimentStatus,
    MetricStatus,
    ShadowStatus,
)
from sundog_operator.api.reasons import MetricNote
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import (
    notifications,
    plan_text,
    state,
    webhook_urls,
)
from sundog_operator.core.rollout.shadow_comparison import SHADOW
from sundog_operator.ports import Object
from sundog_operator.shell.layout import (
    ago,
    conditions_section,
    events_section,
    facts_section,
    format_span,
    grid,
    make_section,
    reasons_section,
    title_line,
)
from sundog_operator.shell.plan_text import checks_section, plan_section, steps_section

ONE_SIDED_NOTE: Final = (
    "Verdicts on outcomes are one-sided, at every evaluation. An interval has both ends at that level, "
    "so it is a little wider and may still contain 1, or the allowed ratio of a guardrail."
)


def describe_experiment(obj: Object, events: Sequence[Object], now: datetime) -> RenderableType:
    """Describe an Experiment in full."""
    meta = obj["metadata"]
    status = ExperimentStatus.parse(obj.get("status"))
    return Group(
        title_line(f"Experiment {meta['namespace']}/{meta['name']}"),
        facts_section([("Model", str((obj.get("spec") or {}).get("modelDeployment", "")))]),
        *experiment_sections(obj, now),
        *make_section("Conditions", conditions_section(status.conditions, now)),
        *make_section("Reasons", reasons_section(status.conditions)),
        *make_section("Events", events_section(events, now)),
    )


def experiment_sections(experiment: Object, now: datetime) -> list[RenderableType]:
    """Return the plan, arms and metrics of a rollout or an Experiment."""
    status, attempt = ExperimentStatus.parse(experiment.get("status")), str(experiment["metadata"].get("uid", ""))
    kind = "Rollout" if _is_rollout(status) else "Experiment"
    heading = f"{kind} {experiment['metadata']['name']}: {status.phase}"
    if status.paused is not None:
        heading += f", paused ({status.paused.reason})"
    if status.giving_back is not None:
        heading += f", returns its traffic to stable ({status.giving_back.reason})"
    parts: list[RenderableType] = [Text(), title_line(heading)]
    if status.plan.steps:
        parts.append(steps_section(status))
    if status.arms:
        parts.append(_arms_table(status))
    if _has_findings(status) and status.verdict.reason:
        parts.append(Text(status.verdict.reason))
    if status.plan.notify:
        parts += make_section("Notifications", facts_section(_receivers(status)))
    if status.plan.guardrails:
        parts += make_section("Plan", facts_section(plan_section(status, attempt, now)))
    if status.plan.checks:
        parts += make_section("Prometheus checks", checks_section(status))
    parts += _traffic_without_weight(status)
    if status.metrics:
        parts += make_section(_metrics_title(status, now), _metrics_table(status))
        parts += [Text(line) for line in _metric_messages(status)]
    return parts


def _has_findings(status: ExperimentStatus) -> bool:
    """Report whether the verdict's reason is more than that a rollout is being evaluated."""
    is_evaluated = status.plan.comparison is not None and bool(status.evidence_epochs)
    return state.is_over(status) or status.verdict.decision == state.PASSED or is_evaluated


def _traffic_without_weight(status: ExperimentStatus) -> list[RenderableType]:
    """Return sections for requests of the candidate that no arm counts: copies and requests by header."""
    parts: list[RenderableType] = []
    if status.shadow is not None:
        parts += make_section("Copies", facts_section(_copies(status.shadow)))
    if (requests := plan_text.describe_header_requests(status)) is not None:
        parts += make_section("By header", facts_section([(names.CANARY, requests)]))
    return parts


def _copies(shadow: ShadowStatus) -> Iterator[tuple[str, str]]:
    yield "shadow", plan_text.describe_copies(shadow)
    for each in shadow.earlier or ():
        yield "before", each


def _is_rollout(status: ExperimentStatus) -> bool:
    """Report whether a frozen Experiment belongs to a rollout: only rollouts have steps."""
    return status.plan.comparison is None and bool(status.plan.steps)


def _receivers(status: ExperimentStatus) -> Iterator[tuple[str, str]]:
    """Yield each receiver of notifications with the state of its delivery."""
    pending = {each.receiver: each.notice for each in notifications.pending_notices(status)}
    deliveries = {each.receiver: each for each in status.deliveries}
    for number, receiver in enumerate(status.plan.notify):
        notice, delivery = pending.get(number), deliveries.get(number)
        text = f"{notice.event} is pending" if notice is not None else "all delivered"
        if delivery is not None and delivery.lost:
            text += f", {delivery.lost} given up"
        if delivery is not None and delivery.problem:
            text += f": {delivery.problem}"
        yield webhook_urls.url_origin(receiver.webhook), text


def _metrics_title(status: ExperimentStatus, now: datetime) -> str:
    age = f", {ago(status.counted_at, now)} old" if status.counted_at is not None else ""
    arms = "stable/candidate" if _is_rollout(status) else "control/arm"
    return f"Evidence{' at its end' if state.is_over(status) else age} (events of {arms})"


def _metrics_table(status: ExperimentStatus) -> RenderableType:
    table = grid("METRIC", "ROLE", "EVENTS", "RATIO", "INTERVAL", "ALLOWED", "VERDICT", "ETA", header=True)
    for metric in status.metrics:
        name = metric.name if _is_rollout(status) or not metric.arm else f"{metric.arm}: {metric.name}"
        table.add_row(*map(Text, (name, *_metric_cells(metric, is_over=state.is_over(status)))))
    return table


def _metric_cells(metric: MetricStatus, *, is_over: bool) -> tuple[str, ...]:
    has_limit = metric.role not in ("harm", "success", "secondary")
    has_eta = metric.role not in ("harm", SHADOW) and not is_over and metric.verdict == "Undecided"
    return (
        metric.role,
        "/".join(map(str, metric.events)),
        "" if metric.ratio is None else f"{metric.ratio:.3g}",
        format_interval(metric),
        f"{metric.allowed:.3g}" if has_limit and metric.allowed is not None else "",
        format_verdict(metric),
        ("unknown" if metric.eta is None else format_span(metric.eta)) if has_eta else "",
    )


def format_verdict(metric: MetricStatus) -> str:
    """Format a verdict, and that an undecided secondary metric is a discovery nevertheless."""
    return f"{metric.verdict}, differs" if metric.note == MetricNote.DISCOVERY else metric.verdict


def format_interval(metric: MetricStatus) -> str:
    """Format an interval, whose upper end may be unknown, and note if it is of this step only; empty without an interval."""
    basis = " in this step" if metric.basis == "ThisStep" else ""
    match metric.interval:
        case (lower, upper):
            return f"{lower:.3g}–{upper:.3g}{basis}"
        case (lower,):
            return f"{lower:.3g}–{basis}"
        case _:
            return ""


def _metric_messages(status: ExperimentStatus) -> Iterator[str]:
    """Yield messages of success metrics, undecided guardrails and harm that neither the step nor the verdict repeats."""
    shown = (status.step.reason if status.step else "") + status.verdict.reason
    for metric in status.metrics:
        is_blocking = metric.role == "guardrail" and metric.verdict not in ("Passed", "NoData")
        is_relevant = is_blocking or metric.role == "success" or metric.verdict == "Harm"
        if is_relevant and metric.message and metric.message not in shown:
            yield metric.message
    if note := find_one_sided_note(status.metrics):
        yield note


def find_one_sided_note(metrics: Sequence[MetricStatus]) -> str:
    """Return why the interval of a decided outcome contains the ratio that it was tested against; empty if none does."""
    return ONE_SIDED_NOTE if any(map(_contains_tested_ratio, metrics)) else ""


def _contains_tested_ratio(metric: MetricStatus) -> bool:
    # Guardrails of the edge have a basis, and intervals of their own tests.
    is_guardrail = metric.role == "guardrail" and not metric.basis
    tested = metric.allowed if is_guardrail else 1.0
    if tested is None or not metric.interval:
        return False
    lower, upper = (*metric.interval, math.inf)[:2]
    return metric.verdict in (("Passed", "Harm") if is_guardrail else ("Better", "Worse")) and lower <= tested <= upper


def _arms_table(status: ExperimentStatus) -> RenderableType:
    has_units = status.plan.comparison is not None
    table = grid("ARM", "REVISION", "WEIGHT", "REQUESTS", "ERRORS", *(["UNITS"] if has_units else []), header=True)
    for arm in status.arms:
        weight = f"{arm.weight:g} %" + (" (dropped)" if arm.dropped else "")
        cells = (arm.name, f"r{arm.revision}", weight, str(arm.requests), str(arm.errors))
        table.add_row(*map(Text, (*cells, *([str(arm.units)] if has_units else []))))
    return table
