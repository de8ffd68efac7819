"""Evaluation of the active rollout from the edges' counters and the stored ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sundog_operator.api import ExperimentStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import arm_pair, counters, evaluate, feedback, rollout_outcomes
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.kubernetes import grace_periods
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.default_plan import StableTraffic, needs_threshold
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import state

DEFAULT_REQUEST_TIMEOUT_S: Final = 30.0


def evaluate_rollout(context: PlanContext) -> tuple[Counters | None, RolloutEvaluation | None]:
    """Return the updated counters of the active attempt, and its evaluation; None where there is none."""
    progress, attempt = context.progress, context.rollout
    if progress is None or attempt is None or phases.is_over(progress):
        return None, None
    stable, candidate = state.arm_revisions(progress)
    edges, waits_s = context.observed.edges, request_deadline_s(context.observed.split)
    now_s = counters.counted_until_s(edges, context.now.timestamp())
    epochs = [epoch.number for epoch in progress.evidence_epochs]
    scope = counters.CountScope(epochs, progress.epoch.number, now_s, waits_s)
    blocks = counters.collect_blocks(attempt.uid, edges)
    counted = counters.update_counters(Counters.unpack(progress.tallies, attempt.uid), edges, blocks, scope)
    if not state.is_evaluated(progress):
        return counted, None
    selection = rollout_outcomes.make_feedback_selection(context.service, attempt.uid, progress)
    counted, problem = update_feedback(counted, edges, selection)
    if problem is not None:
        # Edges cannot report outcomes before they have the first split that asks for them.
        is_expected = progress.epoch.confirmed or counted.feedback.sequence > 0
        problem = (context.observed.storeless or problem) if is_expected else None
    healthy = [context.facts.healthy_replicas(number) for number in (stable, candidate)]
    rollout_counts = arm_pair.RolloutCounts(
        tallies=counted,
        reports=edges,
        blocks=blocks,
        traffic=traffic_for_thresholds(context, progress, stable, attempt.uid),
        replicas=(healthy[0], healthy[1]),
        now_s=now_s,
        timeout_s=waits_s,
    )
    return counted, evaluate.evaluate_rollout(progress, rollout_counts, problem)


def update_feedback(
    counted: Counters, edges: Sequence[EdgeReport], selection: feedback.FeedbackSelection | None
) -> tuple[Counters, Cause | None]:
    """Return the counters with the edges' outcomes, and why those are not usable; unchanged without a selection."""
    if selection is None:
        return counted, None
    serving = [edge for edge in edges if edge.ready or edge.terminating]
    sums, problem = feedback.update_sums(counted.feedback, serving, selection)
    return replace(counted, feedback=sums), problem


def traffic_for_thresholds(
    context: PlanContext, progress: ExperimentStatus, stable: int, attempt: str
) -> StableTraffic:
    """Return stable's traffic while a latency threshold is unknown; empty once all are known."""
    if not needs_threshold(progress.plan.guardrails):
        return StableTraffic()
    return context.traffic_of(stable, attempt, progress.epoch.number)


def request_deadline_s(split: Mapping[str, Any] | None) -> float:
    """Return the seconds for which a request may wait and run at the edges, by their split and not by the present spec."""
    configured = split or {}
    run_s = float(configured.get("requestTimeoutSeconds", DEFAULT_REQUEST_TIMEOUT_S))
    return run_s + grace_periods.replica_wait_s(configured)
