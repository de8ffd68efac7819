"""Weighs what the edges count for the rollout that is under way: what is stored, what they report, what follows."""

from collections.abc import Mapping
from typing import Any, Final

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis import arm_pair, counters, evaluate
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.rollout import state
from sundog_operator.core.rollout.resolve import StableTraffic, needs_threshold

DEFAULT_REQUEST_TIMEOUT_S: Final = 30.0


def evaluate_rollout(context: PlanContext) -> Counters | None:
    """Judge the active attempt. Gives what was counted; None where no evidence is weighed."""
    progress, attempt = context.progress, context.rollout
    if progress is None or attempt is None or not state.is_evaluated(progress) or state.is_over(progress):
        return None
    stable, candidate = state.arm_revisions(progress)
    edges, waits_s = context.observed.edges, request_deadline_s(context.observed.split)
    now_s = counters.counted_until_s(edges, context.now.timestamp())
    epochs = [epoch.number for epoch in progress.evidence_epochs]
    look = counters.CountScope(epochs, progress.epoch.number, now_s, waits_s)
    blocks = counters.collect_blocks(attempt.uid, edges)
    counted = counters.update_counters(Counters.unpack(progress.tallies, attempt.uid), edges, blocks, look)
    healthy = [confirmation.healthy_replicas(context.service, number, edges) for number in (stable, candidate)]
    seen = arm_pair.RolloutCounts(
        tallies=counted,
        reports=edges,
        blocks=blocks,
        traffic=_traffic(context, progress, stable, attempt.uid),
        replicas=(healthy[0], healthy[1]),
        now_s=now_s,
        timeout_s=waits_s,
    )
    context.evaluation = evaluate.evaluate_rollout(progress, seen)
    return counted


def _traffic(context: PlanContext, progress: ExperimentStatus, stable: int, attempt: str) -> StableTraffic:
    """Stable's, as long as a latency is not known that the candidate's is to be compared with."""
    if not needs_threshold(progress.plan.guardrails):
        return StableTraffic()
    return context.traffic_of(stable, attempt, progress.epoch.number)


def request_deadline_s(split: Mapping[str, Any] | None) -> float:
    """For how long the edges let a request wait and run, as they were told: whatever became of the spec since."""
    told = split or {}
    waits = (told.get("queue") or {}).get("timeoutSeconds", 0.0)
    return float(told.get("requestTimeoutSeconds", DEFAULT_REQUEST_TIMEOUT_S)) + float(waits)
