"""The time until the next pass of a ModelDeployment."""

from typing import Final

from sundog_operator.api.reasons import ExperimentReason
from sundog_operator.core.planner.conditions.traffic_synced import find_secret_problem
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial.phases import RUNNING

POLL_S: Final = 0.2
WAITING_POLL_S: Final = 1.0
EVIDENCE_POLL_S: Final = 5.0
"""Seconds between two evaluations: half of the shortest block."""
RESYNC_S: Final = 15.0

_SHORT: Final = frozenset({ExperimentReason.INSUFFICIENT_CAPACITY, ExperimentReason.INSUFFICIENT_QUOTA})


def requeue_after_s(context: PlanContext) -> float:
    """Return the seconds until the next pass: few while something changes, more while a step waits, else a resync."""
    truths = {condition.type: condition.status for condition in context.status.conditions}
    # The next pass decides what a new ControllerRevision or Experiment needs.
    if (
        context.commit is not None
        or context.new_attempt
        or any(each != context.spec_revision for each in context.new_revisions)
    ):
        return 0.0
    if (requested_s := _experiment_requeue_s(context)) is not None:
        return requested_s
    is_confirmed = context.is_split_confirmed
    if (
        context.status.candidate is None
        and context.status.queued is None
        and not context.status.retiring
        and truths["Ready"] == "True"
        and is_confirmed
    ):
        # There is no watch on replicas, nor on load.
        is_settled = context.status.ready_replicas == context.status.replicas and context.status.edge_load is None
        # Edges confirm an edit of the endpoint within a moment, unless they are late.
        is_awaited = truths["TrafficSynced"] == "Unknown" or find_secret_problem(context) is not None
        return RESYNC_S if is_settled and not is_awaited else WAITING_POLL_S
    if _is_waiting_for_window(context) and is_confirmed:
        return WAITING_POLL_S
    if truths.get("Stalled") == "True" and context.status.stable is None:
        return RESYNC_S
    candidate = context.status.candidate
    if candidate is not None and candidate.retry_at is not None and not context.status.retiring:
        return min(max((candidate.retry_at - context.now).total_seconds(), POLL_S), RESYNC_S)
    if find_secret_problem(context) is not None and context.status.candidate is None and not context.status.retiring:
        return WAITING_POLL_S
    progress = context.progress
    is_collecting = (
        progress is not None
        and progress.step is not None
        and progress.step.since is not None
        and progress.epoch.confirmed
        and not context.is_giving_back
    )
    if is_collecting and (context.evaluation or context.shadow) is not None and is_confirmed:
        return EVIDENCE_POLL_S
    return WAITING_POLL_S if (is_collecting and is_confirmed) or _is_held_up(context) else POLL_S


def _is_held_up(context: PlanContext) -> bool:
    """Whether nothing can change within a moment: a user holds the rollout, or an edge does not answer."""
    is_paused = context.progress is not None and context.progress.paused is not None
    is_silent = any(edge.evidence is None for edge in context.observed.edges if edge.ready or edge.terminating)
    return context.is_held or is_paused or is_silent


def _is_waiting_for_window(context: PlanContext) -> bool:
    """Whether a candidate is ready but has no traffic, because the windows are closed."""
    candidate = context.status.candidate
    if candidate is None or candidate.weight or context.status.stable is None or context.window_opens_at is None:
        return False
    return context.available(candidate.revision) >= candidate.replicas


def _experiment_requeue_s(context: PlanContext) -> float | None:
    """Return the seconds until the next pass for users' Experiments; None if no Experiment needs one."""
    active = context.experiment_progress
    if active is None:
        status, waits = context.status, {each.reason for each in context.experiment_waits.values()}
        # One that waits for capacity may wait for hours, and those behind it do too.
        is_short = context.capacity_shortage is not None or bool(waits & _SHORT)
        starts_next = ExperimentReason.QUEUED in waits and not status.retiring and status.candidate is None
        return POLL_S if starts_next and status.queued is None and not is_short else None
    if context.experiment is not None and context.experiment.name in context.experiment_statuses:
        return 0.0
    is_confirmed = context.is_split_confirmed
    if active.phase != RUNNING or not is_confirmed:
        return WAITING_POLL_S if is_confirmed else POLL_S
    return WAITING_POLL_S if context.status.retiring else EVIDENCE_POLL_S
