"""Success and secondary metrics of the edge: an arm's rate of errors, rejections or slow answers beside control's. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    ExperimentStatus,
    PlanGuardrail,
    PlanOutcome,
    is_latency_metric,
)
from sundog_operator.core.analysis import edge_reports
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.epoch_counts import EpochComparison
from sundog_operator.core.analysis.outcome_status import make_metric
from sundog_operator.core.edge import units
from sundog_operator.core.experiments import state
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout.default_plan import ERROR_RATE, REJECTIONS, format_latency, latency_guardrails
from sundog_operator.core.rollout.replica_counts import MAX_COMPARABLE_RATIO
from sundog_operator.core.stats import event_comparison, guardrail_comparison
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

EdgeFindings = Mapping[tuple[str, str], Sequence[OutcomeFinding]]
"""Findings by role and name of the metric: one for each arm beside control, in the order of the plan."""

_RATES: Final = tuple(PlanGuardrail(metric=name, role="measured", margin=0.0) for name in (ERROR_RATE, REJECTIONS))


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """Counts of one arm beside control.

    Attributes:
        arm: its name.
        counted: the epochs of evidence in which both have traffic, with an event for each of `measured_metrics`.
        load: the load of one of its replicas, divided by that of one of control's; NaN without healthy replicas.
    """

    arm: str
    counted: Sequence[EpochComparison]
    load: float


def planned_edge_metrics(status: ExperimentStatus) -> list[PlanOutcome]:
    """Return the metrics of the edge by which arms can win, and those that are only reported."""
    return [each for each in state.frozen_comparison(status).outcomes if each.metric is not None]


def measured_metrics(status: ExperimentStatus) -> tuple[PlanGuardrail, ...]:
    """Return what edges count: all latencies in the order of their thresholds, then the rates."""
    return (*latency_guardrails(status.plan.guardrails), *_RATES)


def evaluate_edge_metrics(
    status: ExperimentStatus, arms: Sequence[ArmComparison], collected: CollectedCounts
) -> EdgeFindings:
    """Return the findings; `arms` are all arms beside control. The arms and the metrics of one role share α."""
    planned, out = planned_edge_metrics(status), state.dropped_arms(status)
    roles = [each.role for each in state.frozen_comparison(status).outcomes]
    alpha = status.plan.alpha or DEFAULT_ALPHA
    found: dict[tuple[str, str], Sequence[OutcomeFinding]] = {}
    for each in planned:
        level = alpha / (roles.count(each.role) * max(1, len(arms)))
        missing = _find_missing(status, each, collected)
        found[each.role, each.name] = [_evaluate(status, each, arm, level, missing, out=arm.arm in out) for arm in arms]
    return found


def _evaluate(
    status: ExperimentStatus, outcome: PlanOutcome, arm: ArmComparison, level: float, missing: str, *, out: bool
) -> OutcomeFinding:
    measured = measured_metrics(status)
    index = next(
        place for place, each in enumerate(measured) if (each.metric, each.role) == (outcome.metric, "measured")
    )
    metric = _make_metric(outcome, measured[index])
    if missing:
        return OutcomeFinding(metric).hold(missing)
    if not arm.counted:
        return OutcomeFinding(metric)
    is_this = [place == index for place in range(len(measured))]
    ended, past = (
        guardrail_comparison.make_event_counts(len(measured), epochs).select(is_this)
        for epochs in ([each.gate for each in arm.counted], [each.harm for each in arm.counted])
    )
    finding = event_comparison.compare_events(metric, ended, past, level)
    held = "" if out or not is_latency_metric(outcome.name) else _describe_load(finding.verdict, arm)
    return finding.hold(held) if held and not finding.held else finding


def _make_metric(outcome: PlanOutcome, measured: PlanGuardrail) -> OutcomeMetric:
    metric, threshold = make_metric(outcome), measured.threshold_microseconds
    if not is_latency_metric(outcome.name):
        return metric
    above = "above control's" if threshold is None else f"above {format_latency(threshold)}"
    return replace(metric, label=f"{outcome.name} (share of answers {above})")


def _find_missing(status: ExperimentStatus, outcome: PlanOutcome, collected: CollectedCounts) -> str:
    """Return why nothing is known of a metric yet; empty if counts are."""
    latencies, attempt = latency_guardrails(status.plan.guardrails), collected.tallies.attempt
    if units.is_sticky(status.plan) and edge_reports.find_edges_without_groups(attempt, collected.reports):
        return "its edges do not count groups of units yet"
    if not is_latency_metric(outcome.name):
        return ""
    if any(each.threshold_microseconds is None for each in latencies):
        return f"waits for enough answers of {names.STABLE} to set the threshold"
    pods = edge_reports.find_edges_without_latencies(attempt, collected.reports, len(latencies))
    return f"{', '.join(pods)} does not count answers by several latencies yet" if pods else ""


def _describe_load(verdict: OutcomeVerdict, arm: ArmComparison) -> str:
    """Return why replicas' loads may explain a verdict on a latency, or the one that it may get; empty if they cannot."""
    if math.isnan(arm.load):
        return "not evaluated while an arm has no healthy replica"
    has_more, has_less = arm.load > MAX_COMPARABLE_RATIO, arm.load < 1 / MAX_COMPARABLE_RATIO
    by_more = has_more and verdict in (OutcomeVerdict.WORSE, OutcomeVerdict.NO_EFFECT)
    by_less = has_less and verdict in (OutcomeVerdict.BETTER, OutcomeVerdict.UNDECIDED)
    if not by_more and not by_less:
        return ""
    return f"not evaluated while each replica of {arm.arm} has {arm.load:.3g} times the load of one of {names.STABLE}"
