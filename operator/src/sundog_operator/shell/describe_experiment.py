"""Describe an Experiment in full."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from sundog_operator.api import (
    ExperimentStatus,
    MetricStatus,
    MetricValue,
    ShadowStatus,
)
from sundog_operator.core import metric_text
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial.rollout import notifications, plan_text, state, webhook_urls
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW
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

WINNERS_CURSE: Final = (
    "Winner's curse: the estimate at the moment of a win is too good on average, because an experiment ends sooner where chance adds to"
    " the effect. Plan with the end of the interval that is nearer to no effect."
)
_SAME_EVALUATION: Final = timedelta(seconds=1)
"""Times are stored in whole seconds."""


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
    parts += _describe_verdict(status)
    if status.plan.notify:
        parts += make_section("Notifications", facts_section(_receivers(status)))
    if status.plan.guardrails:
        parts += make_section("Plan", facts_section(plan_section(status, attempt, now)))
    if status.plan.checks:
        parts += make_section("Prometheus checks", checks_section(status))
    parts += _traffic_without_weight(status)
    if status.metrics:
        parts += make_section(_metrics_title(status, now), _metrics_table(status))
        parts += [Text(line) for line in _describe_measured_values(status)]
        parts += [Text(line) for line in _metric_messages(status, _find_winner(status))]
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


def _arms_title(status: ExperimentStatus, experiment: Object, now: datetime) -> str:
    """Return a title with the time of the requests and errors, which differs from that of the evidence if edges were asked now."""
    if state.is_over(status):
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


def list_dependent_events(metrics: Sequence[MetricStatus]) -> Iterator[str]:
    """Yield as how many independent events those of a metric count, where its message does not say so."""
    for metric in metrics:
        text = metric_text.describe_independence(metric)
        if text and text not in metric.message:
            yield f"{metric.name} of {metric.arm}: {text}"


def _metrics_title(status: ExperimentStatus, now: datetime) -> str:
    age = f", {ago(status.counted_at, now)} old" if status.counted_at is not None else ""
    arms = "stable/candidate" if _is_rollout(status) else "control/arm"
    return f"Evidence{' at its end' if state.is_over(status) else age} (events of {arms})"


def _metrics_table(status: ExperimentStatus) -> RenderableType:
    table = grid("METRIC", "ROLE", "EVENTS", "VALUES", "CHANGE", "ALLOWED", "VERDICT", "ETA", header=True)
    for metric in filter(metric_text.is_shown, status.metrics):
        name = metric.name if _is_rollout(status) or not metric.arm else f"{metric.arm}: {metric.name}"
        table.add_row(*map(Text, (name, *_metric_cells(metric, is_over=state.is_over(status)))))
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


def _describe_verdict(status: ExperimentStatus) -> list[RenderableType]:
    """Return what was decided, of a win with its time and what is known now; nothing while a rollout is being evaluated."""
    if _find_winner(status):
        return [Text(describe_win(status)), Text(f"When it won: {status.verdict.message}"), Text(WINNERS_CURSE)]
    return [Text(status.verdict.reason)] if _has_findings(status) and status.verdict.reason else []


def _find_winner(status: ExperimentStatus) -> str:
    """Return the winner of a user's Experiment; empty without one."""
    return status.verdict.winner if status.plan.comparison is not None else ""


def _metric_messages(status: ExperimentStatus, won: str) -> Iterator[str]:
    """Yield messages of success metrics, undecided guardrails and harm that neither the step nor the verdict repeats."""
    shown = (status.step.reason if status.step else "") + status.verdict.reason
    for metric in status.metrics:
        is_blocking = metric.role == "guardrail" and metric.verdict not in ("Passed", "NoData")
        is_open = metric.role == "success" and metric.arm != won
        is_relevant = is_blocking or is_open or metric.verdict == "Harm"
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
    head = metric_text.units_head(status).upper()
    table = grid("ARM", "REVISION", "WEIGHT", "REQUESTS", "ERRORS", *([head] if has_units else []), header=True)
    for arm in status.arms:
        weight = f"{arm.weight:g} %" + (" (dropped)" if arm.dropped else "")
        cells = (arm.name, f"r{arm.revision}", weight, str(arm.requests), str(arm.errors))
        table.add_row(*map(Text, (*cells, *([metric_text.format_units(arm, status)] if has_units else []))))
    return table


def find_end(status: ExperimentStatus) -> datetime | None:
    """Return when it ended; None while it runs."""
    if not state.is_over(status):
        return None
    ended = next((each for each in status.conditions if each.type == "Running" and each.status == "False"), None)
    return ended.last_transition_time if ended else status.epoch.since


def describe_win(status: ExperimentStatus) -> str:
    """Return when the winner won, by what it was better then, and the same number now: both estimates of one metric have a time."""
    winner = status.verdict.winner
    ended = next((each for each in status.conditions if each.type == "Conclusive" and each.status == "True"), None)
    at = ended.last_transition_time if ended is not None else find_end(status)
    own = [each for each in status.metrics if each.role == "success" and each.arm == winner]
    now = next((each for each in own if each.verdict == "Better"), own[0] if own else None)
    heading = f"{winner} won" if at is None else f"{winner} won at {at:%Y-%m-%d %H:%M} UTC"
    if now is None:
        return heading
    present = f"{'at the end' if state.is_over(status) else 'now'} {metric_text.summarize_values(now)}"
    is_later = at is not None and bool(status.history) and status.history[-1].at > at + _SAME_EVALUATION
    then = _find_metric_at(status, now, at) if at is not None and is_later else None
    if then is None:
        return f"{heading}: {now.name} {metric_text.summarize_values(now)}"
    return f"{heading} with {now.name} {metric_text.summarize_values(then)}; {present}"


def _find_metric_at(status: ExperimentStatus, metric: MetricStatus, at: datetime) -> MetricStatus | None:
    """Return a metric as the history has it at a time or soon before; None if it has not."""
    points = [each for each in status.history if each.at <= at + _SAME_EVALUATION]
    found = (
        each
        for each in (points[-1].metrics or () if points else ())
        if (each.name, each.role, each.arm) == (metric.name, metric.role, metric.arm)
    )
    if (known := next(found, None)) is None:
        return None
    values = None
    if known.values is not None and known.units is not None and len(known.values) == len(known.units):
        pairs = zip(known.values, known.units, strict=True)
        values = tuple(MetricValue(value=value, count=count) for value, count in pairs)
    ends = () if known.lower is None else (known.lower,) if known.upper is None else (known.lower, known.upper)
    return metric.model_copy(update={"ratio": known.ratio, "interval": ends, "values": values, "basis": ""})
