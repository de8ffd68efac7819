"""The counts of a rollout or of a user's Experiment in a pass: from the edges' reports to the status to commit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sundog_operator.api import ArmStatus, ExperimentStatus, MetricStatus, ShadowStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import counters, feedback
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters, CountScope
from sundog_operator.core.kubernetes import grace_periods, names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial import history
from sundog_operator.core.trial.default_plan import StableTraffic, needs_threshold

DEFAULT_REQUEST_TIMEOUT_S: Final = 30.0
CountArm = Callable[[ArmStatus, Counters | None], Mapping[str, Any]]
"""Returns the fields of an arm that have its counts; none while nothing is counted."""


def collect_counts(
    context: PlanContext,
    status: ExperimentStatus,
    attempt: str,
    control: str,
    selection: feedback.FeedbackSelection | None,
) -> tuple[CollectedCounts, Cause | None]:
    """Return the updated counts, and why the edges' outcomes are not usable; None if they are, or without a selection.

    Args:
        context: the state.
        status: the status of the rollout or Experiment, with a frozen plan.
        attempt: the UID of the rollout's or the user's Experiment.
        control: the name of the arm with which the others are compared.
        selection: the outcomes to keep from the edges' reports; None for none.
    """
    edges, timeout_s = context.observed.edges, request_deadline_s(context.observed.split)
    now_s = counters.counted_until_s(edges, context.now.timestamp())
    scope = CountScope(
        epochs=[epoch.number for epoch in status.evidence_epochs],
        in_force=status.epoch.number,
        now_s=now_s,
        timeout_s=timeout_s,
        control=control,
        arms=[arm.name for arm in status.arms if arm.name not in names.STABLE_ARMS],
    )
    blocks = counters.collect_blocks(attempt, edges)
    counted = counters.update_counters(Counters.unpack(status.tallies, attempt), edges, blocks, scope)
    counted, problem = update_feedback(counted, edges, selection)
    traffic = _traffic_for_thresholds(context, status, control, attempt)
    return CollectedCounts(counted, edges, blocks, traffic, now_s, timeout_s), problem


def update_feedback(
    counted: Counters, edges: Sequence[EdgeReport], selection: feedback.FeedbackSelection | None
) -> tuple[Counters, Cause | None]:
    """Return the counters with the edges' outcomes, and why those are not usable; unchanged without a selection."""
    if selection is None:
        return counted, None
    serving = [edge for edge in edges if edge.ready or edge.terminating]
    sums, problem = feedback.update_sums(counted.feedback, serving, selection)
    return replace(counted, feedback=sums), problem


def _traffic_for_thresholds(
    context: PlanContext, status: ExperimentStatus, control: str, attempt: str
) -> StableTraffic:
    """Return stable's traffic while a latency threshold is unknown; empty once all are known."""
    if not needs_threshold(status.plan.guardrails):
        return StableTraffic()
    stable = next((arm.revision or 0 for arm in status.arms if arm.name == control), 0)
    return context.traffic_of(stable, attempt, status.epoch.number)


def request_deadline_s(split: Mapping[str, Any] | None) -> float:
    """Return the seconds for which a request may wait and run at the edges, by their split and not by the present spec."""
    configured = split or {}
    run_s = float(configured.get("requestTimeoutSeconds", DEFAULT_REQUEST_TIMEOUT_S))
    return run_s + grace_periods.replica_wait_s(configured)


def next_status(
    context: PlanContext,
    before: ExperimentStatus,
    ticked: ExperimentStatus,
    counted: Counters | None,
    count_arm: CountArm,
    metrics: Sequence[MetricStatus] | None,
    shadow: ShadowStatus | None = None,
) -> ExperimentStatus | None:
    """Return the status to commit after a tick, with the counts that led to it and a point of its history; None without a change.

    Counts are written at each transition, else once a minute: a status must not change with each request.

    Args:
        context: the state.
        before: the status before this pass.
        ticked: the status after the tick of the state machine.
        counted: the counters, of edges that are gone too; None if nothing is counted.
        count_arm: returns the counts of an arm.
        metrics: the metrics of this pass's evaluation; None without one.
        shadow: the comparison of answers to copies of requests; None without one.
    """
    after = _with_counts(context, before, ticked, counted, count_arm) if context.is_report_due(ticked) else ticked
    if after == before and (metrics is None or not context.has_terminating_edge(before)):
        return None
    committed = _with_counts(context, before, after, counted, count_arm)
    tallies = committed.tallies if counted is None else counted.pack()
    committed = committed.model_copy(update={"tallies": tallies, "shadow": shadow or committed.shadow})
    return None if committed == before else history.record_point(committed, metrics or committed.metrics, context.now)


def _with_counts(
    context: PlanContext,
    before: ExperimentStatus,
    status: ExperimentStatus,
    counted: Counters | None,
    count_arm: CountArm,
) -> ExperimentStatus:
    counts = [count_arm(arm, counted) for arm in status.arms]
    arms = tuple(arm.model_copy(update=dict(own)) for arm, own in zip(status.arms, counts, strict=True))
    if not any(counts) or (arms, status.metrics, status.verdict) == (status.arms, before.metrics, before.verdict):
        return status
    return status.model_copy(update={"arms": arms, "counted_at": context.now})
