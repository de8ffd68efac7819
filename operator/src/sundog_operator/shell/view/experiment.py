"""Describe an Experiment in full."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import (
    ExperimentStatus,
    MetricStatus,
    ShadowStatus,
)
from sundog_operator.core import metric_text
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import notifications, plan_text, webhook_urls
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW
from sundog_operator.ports import Object
from sundog_operator.shell.view.layout import (
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
from sundog_operator.shell.view.plan_facts import checks_section, plan_section, steps_section
from sundog_operator.shell.view.verdict import describe_verdict, list_dependent_events, list_open_messages


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
        parts += make_section(_arms_title(status, experiment, now), _arms_table(status))
    parts += map(Text, describe_verdict(status))
    if status.plan.notify:
        parts += make_section("Notifications", facts_section(_receivers(status)))
    if status.plan.guardrails:
        parts += make_section("Plan", facts_section(plan_section(status, attempt, now)))
    if status.plan.checks:
        parts += make_section("Prometheus checks", checks_section(status))
    parts += _traffic_without_weight(status)
    if status.metrics:
        parts += make_section(_metrics_title(status, now), _metrics_table(status))
        parts += map(Text, (*_describe_measured_values(status), *list_open_messages(status)))
    return parts


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


def _arms_title(status: ExperimentStatus, experiment: Object, now: datetime) -> str:
    """Return a title with the time of the requests and errors, which differs from that of the evidence if edges were asked now."""
    if phases.is_over(status):
        return "Arms at its end"
    if (read_at := experiment.get("armsCountedAt")) is not None:
        return f"Arms, counted by the edges at {datetime.fromisoformat(str(read_at)):%H:%M:%S} UTC"
    return f"Arms, {ago(status.counted_at, now)} old" if status.counted_at is not None else "Arms"


def _describe_measured_values(status: ExperimentStatus) -> Iterator[str]:
    """Yield the values of success metrics with their intervals and units."""
    for metric in status.metrics:
        if metric.role == "success" and metric.values:
            yield f"{metric.name} of {metric.arm}: {metric_text.describe_values(metric)}"
    yield from list_dependent_events(status.metrics)


def _metrics_title(status: ExperimentStatus, now: datetime) -> str:
    age = f", {ago(status.counted_at, now)} old" if status.counted_at is not None else ""
    arms = "stable/candidate" if _is_rollout(status) else "control/arm"
    return f"Evidence{' at its end' if phases.is_over(status) else age} (events of {arms})"


def _metrics_table(status: ExperimentStatus) -> RenderableType:
    table = grid("METRIC", "ROLE", "EVENTS", "VALUES", "CHANGE", "ALLOWED", "VERDICT", "ETA", header=True)
    for metric in filter(metric_text.is_shown, status.metrics):
        name = metric.name if _is_rollout(status) or not metric.arm else f"{metric.arm}: {metric.name}"
        table.add_row(*map(Text, (name, *_metric_cells(metric, is_over=phases.is_over(status)))))
    return table


def _metric_cells(metric: MetricStatus, *, is_over: bool) -> tuple[str, ...]:
    has_limit = metric.role not in ("harm", "success", "secondary")
    has_eta = metric.role not in ("harm", SHADOW) and not is_over and metric.verdict == "Undecided"
    return (
        metric.role,
        metric_text.format_events(metric),
        metric_text.format_values(metric),
        metric_text.format_change(metric),
        metric_text.format_allowed(metric) if has_limit and metric.allowed is not None else "",
        metric_text.format_verdict(metric),
        ("unknown" if metric.eta is None else format_span(metric.eta)) if has_eta else "",
    )


def _arms_table(status: ExperimentStatus) -> RenderableType:
    has_units = status.plan.comparison is not None
    head = metric_text.units_head(status).upper()
    table = grid("ARM", "REVISION", "WEIGHT", "REQUESTS", "ERRORS", *([head] if has_units else []), header=True)
    for arm in status.arms:
        weight = f"{arm.weight:g} %" + (" (dropped)" if arm.dropped else "")
        cells = (arm.name, f"r{arm.revision}", weight, str(arm.requests), str(arm.errors))
        table.add_row(*map(Text, (*cells, *([metric_text.format_units(arm, status)] if has_units else []))))
    return table
