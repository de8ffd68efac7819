"""Success and secondary metrics of the edge: an arm's rate of errors, rejections or slow answers beside control's. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.api import (
    CONTROL,
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
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats import event_comparison, guardrail_comparison
from sundog_operator.core.stats.event_counts import EventCounts
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict
from sundog_operator.core.trial.default_plan import (
    ERROR_RATE,
    MIN_WIN_THRESHOLD_US,
    REJECTIONS,
    format_latency,
    latency_guardrails,
)
from sundog_operator.core.trial.experiment import state
from sundog_operator.core.trial.replica_counts import MAX_COMPARABLE_RATIO, is_comparable

EdgeFindings = Mapping[tuple[str, str], Sequence[OutcomeFinding]]
"""Findings by role and name of the metric: one for each arm beside control, in the order of the plan."""

_RATES: Final = tuple(PlanGuardrail(metric=name, role="measured", margin=0.0) for name in (ERROR_RATE, REJECTIONS))


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """Counts of one arm beside control.

    Attributes:
        arm: its name.
        counted: the epochs of evidence in which both have traffic, with an event for each of `measured_metrics`.
        equal: those of them in which all replicas had about the same load.
        load: the load of one of its replicas, divided by that of one of control's; NaN without healthy replicas.
    """

    arm: str
    counted: Sequence[EpochComparison]
    equal: Sequence[EpochComparison]
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
    """Return the findings; `arms` are all arms beside control. The arms and the metrics of one role share α, and so do sets of evidence."""
    planned, out = planned_edge_metrics(status), state.dropped_arms(status)
    roles = [each.role for each in state.frozen_comparison(status).outcomes]
    alpha = status.plan.alpha or DEFAULT_ALPHA
    counts = [_count_events(arm, len(measured_metrics(status))) for arm in arms]
    found: dict[tuple[str, str], Sequence[OutcomeFinding]] = {}
    for each in planned:
        level = alpha / (roles.count(each.role) * max(1, len(arms)))
        levels = [level * state.evidence_share(status, equal_load=equal) for equal in (True, False)]
        missing = _find_missing(status, each, collected)
        found[each.role, each.name] = [
            _evaluate(status, each, arm, own, levels, missing, out=arm.arm in out)
            for arm, own in zip(arms, counts, strict=True)
        ]
    return found


def _count_events(arm: ArmComparison, metrics: int) -> tuple[EventCounts, EventCounts] | None:
    """Return the counts of ended and of all past requests, of shape (metrics, epochs); None without an epoch."""
    if not arm.counted:
        return None
    # Without any epoch of equal load the present one has none either, and no arm is better.
    ended, past = [each.gate for each in arm.equal or arm.counted], [each.harm for each in arm.counted]
    return guardrail_comparison.make_event_counts(metrics, ended), guardrail_comparison.make_event_counts(metrics, past)


def _evaluate(
    status: ExperimentStatus,
    outcome: PlanOutcome,
    arm: ArmComparison,
    counts: tuple[EventCounts, EventCounts] | None,
    levels: Sequence[float],
    missing: str,
    *,
    out: bool,
) -> OutcomeFinding:
    measured = measured_metrics(status)
    index = next(
        place for place, each in enumerate(measured) if (each.metric, each.role) == (outcome.metric, "measured")
    )
    metric = _make_metric(outcome, measured[index])
    if missing:
        return OutcomeFinding(metric).hold(missing)
    held = "" if out else describe_load(status, arm.arm, arm.load)
    if counts is None or (out and not arm.equal):
        return OutcomeFinding(metric).hold(held)
    ended, past = counts
    is_this = [place == index for place in range(len(measured))]
    finding = event_comparison.compare_events(metric, ended.select(is_this), past.select(is_this), *levels)
    if is_latency_metric(outcome.name):
        finding = _without_worse(finding)
        held = held or _describe_short_latency(measured[index])
        if not held and finding.verdict == OutcomeVerdict.BETTER:
            held = _describe_trade(ended, index)
    can_hold = not finding.held and finding.verdict != OutcomeVerdict.WORSE
    return finding.hold(held) if held and can_hold else finding


def _without_worse(finding: OutcomeFinding) -> OutcomeFinding:
    """Return a latency's finding. The arm has the lower threshold, so more slow answers do not show that it is worse than control."""
    verdict = OutcomeVerdict.NO_EFFECT if finding.verdict == OutcomeVerdict.WORSE else finding.verdict
    return replace(finding, worse=-math.inf, verdict=verdict)


def _make_metric(outcome: PlanOutcome, measured: PlanGuardrail) -> OutcomeMetric:
    metric = make_metric(outcome)
    control, arm = measured.threshold_microseconds, measured.candidate_threshold_microseconds
    if not is_latency_metric(outcome.name):
        return metric
    above = f"{CONTROL}'s"
    if control is not None and arm is not None:
        above = f"{format_latency(arm)}, of {CONTROL} above {format_latency(control)}"
    return replace(metric, label=f"{outcome.name} (share of answers above {above})")


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


def describe_load(status: ExperimentStatus, arm: str, load: float) -> str:
    """Return why replicas' loads may explain a verdict, or the one that it may get; empty if they cannot.

    `load` is that of one of the arm's replicas, divided by that of one of control's.
    """
    if math.isnan(load):
        return "not evaluated while an arm has no healthy replica"
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    if not is_comparable(load):
        return (
            f"not evaluated: replicas of {arm} have {load:.3g} times the load of {CONTROL}'s in this epoch; expected"
            f" {1 / MAX_COMPARABLE_RATIO:.2g} to {MAX_COMPARABLE_RATIO:g} times. Use exposure: 100% and equal weights, or wait for"
            " all replicas"
        )
    if newest is None or not newest.unequal_load:
        return ""
    if state.restarts_for_load(status):
        return "not evaluated: replicas had unequal load in this epoch; a new one begins once all loads are equal"
    return (
        "not evaluated: replicas had unequal load in this epoch, and no other one begins for that. Start another Experiment with a"
        " constant number of replicas"
    )


def _describe_short_latency(measured: PlanGuardrail) -> str:
    """Return why control's latency is too short to win by; empty if it is not."""
    threshold = measured.threshold_microseconds
    if threshold is None or threshold >= MIN_WIN_THRESHOLD_US:
        return ""
    return (
        f"not evaluated: {measured.metric} of {CONTROL} is {format_latency(threshold)}; expected at least"
        f" {format_latency(MIN_WIN_THRESHOLD_US)}, because processes of one model differ by tenths of a millisecond. Use another"
        " metric"
    )


def _describe_trade(ended: EventCounts, index: int) -> str:
    """Return why an arm with fewer slow answers may only fail or reject them; empty if it does not. `index` is the latency's."""
    control, arm, of_control, of_arm = ended.sums
    change = arm / of_arm - control / of_control
    rise, fall = float(change[-len(_RATES) :].sum()), float(-change[index])
    if rise < fall:
        return ""
    return (
        f"not evaluated: errors and rejections rose by {100 * rise:.2g} % of all requests, slow answers fell by"
        f" {100 * fall:.2g} %; expected a smaller rise. Find out what the arm fails or rejects"
    )
