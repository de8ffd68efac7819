"""All about one Experiment, for people."""

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
    title_line,
)
from sundog_operator.shell.plan_text import checks_section, plan_section, steps_section

ONE_SIDED_NOTE: Final = (
    "Better and Worse are each found by one side alone, at every look; an interval has both its ends at that level, "
    "so it is a little wider and may still contain 1."
)


def describe_experiment(obj: Object, events: Sequence[Object], now: datetime) -> RenderableType:
    """An Experiment in full."""
    meta = obj["metadata"]
    status = ExperimentStatus.parse(obj.get("status"))
    return Group(
        title_line(f"Experiment {meta['namespace']}/{meta['name']}"),
        facts_section([("Model", str((obj.get("spec") or {}).get("modelDeployment", "")))]),
        *rollout(obj, now),
        *make_section("Conditions", conditions_section(status.conditions, now)),
        *make_section("Events", events_section(events, now)),
    )


def rollout(experiment: Object, now: datetime) -> list[RenderableType]:
    """A rollout or an Experiment: its plan, arms and metrics."""
    status = ExperimentStatus.parse(experiment.get("status"))
    what = "Rollout" if _is_of_rollout(status) else "Experiment"
    heading = f"{what} {experiment['metadata']['name']}: {status.phase}"
    if status.paused is not None:
        heading += f", paused ({status.paused.reason})"
    if status.giving_back is not None:
        heading += f", gives its traffic back ({status.giving_back.reason})"
    parts: list[RenderableType] = [Text(), title_line(heading)]
    if status.plan.steps:
        parts.append(steps_section(status))
    if status.arms:
        parts.append(_arms(status))
    if (state.is_over(status) or status.verdict.decision == state.PASSED) and status.verdict.reason:
        parts.append(Text(status.verdict.reason))
    if status.plan.notify:
        parts += make_section("Told to", facts_section(_receivers(status)))
    if status.plan.guardrails:
        parts += make_section("Plan", facts_section(plan_section(status, now)))
    if status.plan.checks:
        parts += make_section("Checks of Prometheus", checks_section(status))
    parts += _beside_weights(status)
    if status.metrics:
        parts += make_section(_age_of_evidence(status, now), _metrics(status))
        parts += [Text(told) for told in _told_beside(status)]
    return parts


def _beside_weights(status: ExperimentStatus) -> list[RenderableType]:
    """What the candidate got that is in no count of an arm."""
    parts: list[RenderableType] = []
    if status.shadow is not None:
        parts += make_section("Copies", facts_section(_copies(status.shadow)))
    if (told := plan_text.describe_header_requests(status)) is not None:
        parts += make_section("By header", facts_section([(names.CANARY, told)]))
    return parts


def _copies(shadow: ShadowStatus) -> Iterator[tuple[str, str]]:
    yield "shadow", plan_text.describe_copies(shadow)
    for each in shadow.earlier or ():
        yield "before", each


def _is_of_rollout(status: ExperimentStatus) -> bool:
    """One of a user's own has no steps; before it is frozen nobody can tell, and it has nothing to show."""
    return status.plan.comparison is None and bool(status.plan.steps)


def _receivers(status: ExperimentStatus) -> Iterator[tuple[str, str]]:
    """Who is told of it, and how far each of them is."""
    waiting = {each.receiver: each.notice for each in notifications.pending_notices(status)}
    deliveries = {each.receiver: each for each in status.deliveries}
    for number, receiver in enumerate(status.plan.notify):
        notice, delivery = waiting.get(number), deliveries.get(number)
        told = f"{notice.event} is to be told" if notice is not None else "all was told"
        if delivery is not None and delivery.lost:
            told += f", {delivery.lost} given up"
        if delivery is not None and delivery.problem:
            told += f": {delivery.problem}"
        yield webhook_urls.url_origin(receiver.webhook), told


def _age_of_evidence(status: ExperimentStatus, now: datetime) -> str:
    age = f", {ago(status.counted_at, now)} old" if status.counted_at is not None else ""
    arms = "stable/candidate" if _is_of_rollout(status) else "control/arm"
    return f"Evidence{' at its end' if state.is_over(status) else age} (events of {arms})"


def _metrics(status: ExperimentStatus) -> RenderableType:
    table = grid("METRIC", "ROLE", "EVENTS", "RATIO", "INTERVAL", "ALLOWED", "VERDICT", "ETA", header=True)
    for metric in status.metrics:
        told = metric.name if _is_of_rollout(status) or not metric.arm else f"{metric.arm}: {metric.name}"
        table.add_row(*map(Text, (told, *_metric(metric, over=state.is_over(status)))))
    return table


def _metric(metric: MetricStatus, *, over: bool) -> tuple[str, ...]:
    judged = metric.role not in ("harm", "success", "secondary")
    waits = metric.role not in ("harm", SHADOW) and not over and metric.verdict == "Undecided"
    return (
        metric.role,
        "/".join(map(str, metric.events)),
        "" if metric.ratio is None else f"{metric.ratio:.3g}",
        format_interval(metric),
        f"{metric.allowed:.3g}" if judged and metric.allowed is not None else "",
        metric.verdict,
        ("unknown" if metric.eta is None else format_span(metric.eta)) if waits else "",
    )


def format_interval(metric: MetricStatus) -> str:
    """Both ends, or the lower one where the upper is not known, and that they are of this step alone; empty where neither is."""
    alone = " in this step" if metric.basis == "ThisStep" else ""
    match metric.interval:
        case (lower, upper):
            return f"{lower:.3g}–{upper:.3g}{alone}"
        case (lower,):
            return f"{lower:.3g}–{alone}"
        case _:
            return ""


def _told_beside(status: ExperimentStatus) -> Iterator[str]:
    """Sentences about metrics that stand in the way, or are not judged, and that are not told as the step's reason or the outcome."""
    told = (status.step.reason if status.step else "") + status.verdict.reason
    for metric in status.metrics:
        stands = metric.role == "guardrail" and metric.verdict not in ("Passed", "NoData")
        stands = stands or metric.role == "success"
        if (stands or metric.verdict == "Harm") and metric.message and metric.message not in told:
            yield metric.message
    if side := find_one_sided_note(status.metrics):
        yield side


def find_one_sided_note(metrics: Sequence[MetricStatus]) -> str:
    """Why an interval that is shown beside `Better` or `Worse` contains 1; empty where none does."""
    ends = ((*each.interval, math.inf)[:2] for each in metrics if each.interval and each.verdict in ("Better", "Worse"))
    return ONE_SIDED_NOTE if any(lower <= 1 <= upper for lower, upper in ends) else ""


def _arms(status: ExperimentStatus) -> RenderableType:
    table = grid("ARM", "REVISION", "WEIGHT", "REQUESTS", "ERRORS", header=True)
    for arm in status.arms:
        weight = f"{arm.weight:g} %" + (" (dropped)" if arm.dropped else "")
        cells = (arm.name, f"r{arm.revision}", weight, str(arm.requests), str(arm.errors))
        table.add_row(*map(Text, cells))
    return table
