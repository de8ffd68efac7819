"""Metrics of a report: each with its interval at every evaluation."""

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
    is_latency_metric,
)
from sundog_operator.core.analysis.outcome_status import make_metric
from sundog_operator.core.kubernetes import names
from sundog_operator.core.metric_text import format_interval
from sundog_operator.core.stats import multiple_testing
from sundog_operator.core.trial.default_plan import tested_guardrails
from sundog_operator.core.trial.rollout import state
from sundog_operator.shell.plan_text import baseline_arm, describe_guardrail_limit, describe_outcome_goal
from sundog_operator.shell.report import outcome_history
from sundog_operator.shell.report.model import MetricPoint, ReportMetric

_OUTCOME_ROLES: Final = ("success", "secondary")
"""Roles that only outcomes have."""


def replace_control_characters(text: str) -> str:
    """Replace control characters, which terminals interpret and documents may not hold."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def seconds_since(start: datetime, at: datetime) -> float:
    """Return the seconds from `start` to `at`; 0 before it."""
    return max((at - start) / timedelta(seconds=1), 0.0)


def make_guardrail_metric(
    status: ExperimentStatus,
    guardrail: PlanGuardrail,
    points: tuple[HistoryPoint, ...],
    start: datetime,
    arm: str | None,
) -> ReportMetric:
    """Return a guardrail of an arm relative to control; `arm` is None in a rollout."""
    named = (each for each in status.metrics if each.name == guardrail.metric and each.role not in _OUTCOME_ROLES)
    last = next((each for each in named if arm in (None, each.arm)), None)
    return ReportMetric(
        name=_format_name(status.plan, guardrail.metric, guardrail.role, arm),
        judged=guardrail.role == "guardrail",
        compared=_compared_names(arm),
        type="event",
        limit=describe_guardrail_limit(guardrail, baseline_arm(status.plan)),
        margin=1.0 if is_latency_metric(guardrail.metric) else 1 + guardrail.margin,
        bounds=tuple(_guardrail_points(status.plan, guardrail, points, start, arm)),
        last=_without_control_characters(last),
    )


def _compared_names(arm: str | None) -> tuple[str, str]:
    """Return the names of an arm and its baseline; `arm` is None in a rollout."""
    return ("the candidate", names.STABLE) if arm is None else (f"arm {replace_control_characters(arm)}", names.CONTROL)


def _without_control_characters(metric: MetricStatus | None) -> MetricStatus | None:
    if metric is None:
        return None
    texts = {"message": metric.message, "verdict": metric.verdict}
    return metric.model_copy(update={name: replace_control_characters(text) for name, text in texts.items()})


def make_outcome_metric(
    status: ExperimentStatus, outcome: PlanOutcome, points: tuple[HistoryPoint, ...], start: datetime, arm: str | None
) -> ReportMetric:
    """Return an outcome of an arm relative to control; `arm` is None in a rollout."""
    key = (outcome.name, outcome.role, arm or names.CANARY)
    last = next((each for each in status.metrics if (each.name, each.role, each.arm) == key), None)
    values = [
        (point.at, metric)
        for point in points
        if (metric := _find_metric(status.plan, point, outcome.name, outcome.role, arm)) is not None
    ]
    frozen = make_metric(outcome)
    limit = round(frozen.tested, 6)
    period, periods = (
        outcome_history.make_periods(status, outcome, arm, points, start)
        if arm is not None and outcome.role == "success"
        else ("day", ())
    )
    return ReportMetric(
        name=_format_name(status.plan, outcome.name, outcome.role, arm),
        judged=outcome.margin is not None,
        compared=_compared_names(arm),
        type=outcome.type if outcome.metric is None else "event",
        limit=describe_outcome_goal(outcome, baseline_arm(status.plan)),
        margin=limit,
        bounds=tuple(
            MetricPoint(
                seconds_since(start, at),
                each.ratio,
                each.lower,
                each.upper,
                replace_control_characters(each.verdict or "Undecided"),
                limit,
            )
            for at, each in values
        ),
        last=_without_control_characters(last),
        effect=frozen.worth if outcome.minimum_effect else None,
        periods=periods,
        period=period,
    )


def _guardrail_points(
    plan: FrozenPlan, guardrail: PlanGuardrail, points: tuple[HistoryPoint, ...], start: datetime, arm: str | None
) -> Iterator[MetricPoint]:
    # Counts at a change of weight come from the weight before.
    for before, point in itertools.pairwise((*points[:1], *points)):
        metric = _find_metric(plan, point, guardrail.metric, guardrail.role, arm)
        if metric is not None:
            verdict = replace_control_characters(metric.verdict or "Undecided")
            allowed = _allowed_ratio(plan, guardrail, before.weight)
            at_s, basis = seconds_since(start, point.at), metric.basis or ""
            yield MetricPoint(at_s, metric.ratio, metric.lower, metric.upper, verdict, allowed, basis)


def _find_metric(plan: FrozenPlan, point: HistoryPoint, name: str, role: str, arm: str | None) -> HistoryMetric | None:
    """Return a metric of a point. Old points lack roles, so two metrics of one name cannot be distinguished there."""
    roles = (role,) if _has_shared_name(plan, name) else (role, None)
    named = (each for each in point.metrics or () if (each.name, each.arm) == (name, arm))
    return next((each for each in named if each.role in roles), None)


def _format_name(plan: FrozenPlan, metric: str, role: str, arm: str | None) -> str:
    """Format a metric's name, with its role if another metric has that name."""
    text = metric if arm is None else f"{arm}: {metric}"
    return replace_control_characters(f"{text} ({role})" if _has_shared_name(plan, metric) else text)


def _has_shared_name(plan: FrozenPlan, name: str) -> bool:
    if plan.comparison is None:
        return False
    metrics = [
        *(each.metric for each in tested_guardrails(plan.guardrails)),
        *(each.name for each in plan.comparison.outcomes),
    ]
    return metrics.count(name) > 1


def _allowed_ratio(plan: FrozenPlan, guardrail: PlanGuardrail, weight: int) -> float:
    """Return the largest ratio with which the gate at that weight passes."""
    if is_latency_metric(guardrail.metric):
        return 1.0
    return float(multiple_testing.allowed_ratio(guardrail.margin, state.weight_after(plan.steps, weight) / 100))


def format_point_interval(point: MetricPoint) -> str:
    """Format the interval of a point, as in the other tables."""
    ends = tuple(end for end in (point.lower, point.upper) if end is not None)
    return format_interval(MetricStatus(name="", interval=ends if point.lower is not None else (), basis=point.basis))
