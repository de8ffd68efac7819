"""Progress deadlines and failures of a candidate."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from sundog_operator.api import Condition, RevisionStatus, format_duration, parse_timestamp
from sundog_operator.api.reasons import Cause, DeploymentReason, EndReason
from sundog_operator.core import revisions
from sundog_operator.core.analysis.blocks import BLOCK_S
from sundog_operator.core.analysis.dead_arm import RESTART_BLOCKS
from sundog_operator.core.edge import confirmation
from sundog_operator.core.kubernetes import pod_problems, spot
from sundog_operator.core.planner import shared_capacity
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import held_back_revisions
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import state, windows

UNAVAILABLE_GRACE: Final = timedelta(seconds=RESTART_BLOCKS * BLOCK_S)
"""Time for which a candidate or an arm with traffic may lack a healthy replica while stable has one: its only one may be restarting."""
NO_PLACE_GRACE: Final = timedelta(seconds=30)
"""The same for one whose pods have no place. No restart brings it back."""
EARLIEST_TIME: Final = datetime.min.replace(tzinfo=UTC)
_NO_PLACE: Final = frozenset(
    {DeploymentReason.UNSCHEDULABLE, DeploymentReason.POD_REFUSED, DeploymentReason.NOT_ADMITTED}
)
"""Reasons of pods that the cluster or Kueue has no capacity for, whatever the revision is."""

AnyRevision = TypeVar("AnyRevision", bound=RevisionStatus)


def has_traffic(context: PlanContext) -> bool:
    """Whether the candidate gets traffic."""
    return context.progress is not None and state.has_traffic(context.progress)


def find_failure(context: PlanContext, candidate: RevisionStatus) -> Cause | None:
    """Return why a rollout must stop now; None if it may continue."""
    if _is_reclaimed(context, candidate):
        needed, number = context.pods_per_replica(candidate.revision), candidate.revision
        left = (
            f"no pod of revision {number} is left on a node"
            if needed == 1
            else f"fewer than the {needed} pods of a replica of revision {number} are left on nodes"
        )
        return Cause(EndReason.SPOT_RECLAIMED, f"{left}; it allows spot nodes, and is rolled out again")
    readiness = context.readiness(candidate.revision)
    if readiness.failed and (not readiness.retryable or has_traffic(context)):
        return Cause(readiness.reason, readiness.message)
    if (lost := _find_loss(context, candidate)) is not None:
        return lost
    late = find_late_reason(context, candidate)
    if not late or not _is_deadline_fatal(context):
        return None
    return Cause(EndReason.PROGRESS_DEADLINE_EXCEEDED, f"{describe_deadline(context)}: {late}")


def _find_loss(context: PlanContext, candidate: RevisionStatus) -> Cause | None:
    """Return why the candidate has had no healthy replica for too long; None if it has one, or may still get one."""
    failing = _stored_not_ready(context)
    has_no_place = failing is not None and failing.reason in _NO_PLACE and not _has_placed_pods(context, candidate)
    grace = NO_PLACE_GRACE if has_no_place else UNAVAILABLE_GRACE
    if not is_unavailable(context, candidate, grace):
        return None
    why = f": {failing.message}" if failing is not None else ""
    reason = EndReason.CAPACITY_LOST if has_no_place else EndReason.CANDIDATE_UNAVAILABLE
    return Cause(reason, f"no healthy replica for {grace.total_seconds():g} s{why}")


def _is_reclaimed(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate with traffic lost so many of its nodes that no replica is left, and allows spot nodes.

    A model that crashes or is killed for its memory keeps its pod on the node. A pod that the kubelet evicts does not count.
    """
    revision = context.revision(candidate.revision)
    if revision is None or not context.observed.in_cluster or not has_traffic(context) or context.is_rollout_at_zero:
        return False
    allows_spot = revisions.spec_of(revision).scheduling.spot != "never"
    pods = context.worker_pods_of(candidate.revision)
    return allows_spot and spot.were_reclaimed(pods, context.pods_per_replica(candidate.revision))


def _has_placed_pods(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether the pods of a replica of the candidate have nodes and may stay there. Then the candidate may have failed on its own."""
    needed = context.pods_per_replica(candidate.revision)
    return not spot.have_lost_nodes(_find_own_places(context, candidate), needed)


def _find_own_places(context: PlanContext, candidate: RevisionStatus) -> list[dict[str, Any]]:
    """Return the pods in which replicas of the candidate may be: not shared pods on a node that other models fill."""
    pods = context.worker_pods_of(candidate.revision)
    if not shared_capacity.is_filled_by_others(context, candidate.revision):
        return pods
    return [pod for pod in pods if not spot.stays_on_node(pod)]


def _is_deadline_fatal(context: PlanContext) -> bool:
    """Whether an exceeded deadline ends the rollout. A rollout that is paused before its start waits instead."""
    progress = context.progress
    is_waiting = progress is not None and progress.paused is not None and progress.phase != phases.RUNNING
    return not is_waiting and not is_retried_after_deadline(context)


def find_late_reason(context: PlanContext, candidate: RevisionStatus) -> str:
    """Return why a candidate without traffic, or a step's replicas, exceeded the deadline; empty if they did not."""
    if short := _find_late_replicas(context, candidate):
        return short
    is_ready = context.available(candidate.revision) >= candidate.replicas
    if has_traffic(context) or is_ready or context.is_held or not has_exceeded_deadline(context, candidate):
        return ""
    failing = _stored_not_ready(context)
    return failing.message if failing is not None else "some of its replicas are missing"


def _find_late_replicas(context: PlanContext, candidate: RevisionStatus) -> str:
    """Return which replicas a step of a running rollout lacks after the deadline; empty if none, or if it may wait."""
    progress, spec = context.progress, context.spec
    step = progress.step if progress is not None else None
    if progress is None or spec is None or step is None or step.short_since is None or context.is_held:
        return ""
    needed = state.replicas_waited_for(progress, context.replicas, context.available(candidate.revision))
    counted = () if state.is_fast_rollback(progress) else spec.rollout.windows
    begun = max(step.short_since, progress.resumed_at or EARLIEST_TIME)
    if not needed or not windows.has_lasted(counted, begun, context.now, spec.rollout.progress_deadline):
        return ""
    place = f"step {step.index} of {step.of}"
    return f"{context.serving(candidate.revision)} of {needed} replicas are available for {place}"


def _stored_not_ready(context: PlanContext) -> Condition | None:
    """Return the stored `RevisionReady` condition if it is False."""
    stored = context.facts.conditions.get("RevisionReady")
    return stored if stored is not None and stored.status == "False" else None


def is_retried_after_deadline(context: PlanContext) -> bool:
    """Whether the operator retries a candidate that exceeded the deadline."""
    return context.spec is not None and context.spec.rollout.progress_deadline_action == "pause"


def find_deadline_pause_reason(context: PlanContext, candidate: RevisionStatus) -> str:
    """Return why the rollout of a late candidate is paused, as a clause; empty if it is not paused for that."""
    late = find_late_reason(context, candidate) if is_retried_after_deadline(context) else ""
    return f"{describe_deadline(context)}: {late}" if late else ""


def describe_deadline(context: PlanContext) -> str:
    """Return the deadline that a late revision exceeded, as a clause."""
    limit = context.spec.rollout.progress_deadline if context.spec is not None else timedelta(0)
    return f"not ready within {format_duration(limit)}, spec.rollout.progressDeadline"


def track_candidate(context: PlanContext) -> PlanContext:
    """Record since when the spec holds a candidate, and since when it has no healthy replica although stable has."""
    candidate = context.status.candidate
    if candidate is None:
        return context
    return context.set(
        candidate=track_lost_since(context, _with_held_since(context, candidate), begun=has_traffic(context))
    )


def _with_held_since(context: PlanContext, candidate: RevisionStatus) -> RevisionStatus:
    """Return a candidate with the time when the spec held or resumed its rollout. Nothing holds a first revision."""
    is_held = context.is_held and context.status.stable is not None
    if is_held == (candidate.held_since is not None):
        return candidate
    resumed = {} if is_held else {"resumed_at": context.now}
    return candidate.model_copy(update={"held_since": context.now if is_held else None, **resumed})


def track_lost_since(context: PlanContext, revision: AnyRevision, *, begun: bool) -> AnyRevision:
    """Return a revision with the time since when it has no healthy replica although stable has.

    `begun`: whether the revision has traffic; without, there is no such time. A clock that is set back restarts it.
    """
    is_lost = begun and _is_lost_alone(context, revision.revision)
    since = min(revision.lost_since or context.now, context.now)
    return revision.model_copy(update={"lost_since": since if is_lost else None})


def is_unavailable(context: PlanContext, revision: RevisionStatus, grace: timedelta = UNAVAILABLE_GRACE) -> bool:
    """Whether a revision has had no healthy replica for longer than `grace`."""
    return revision.lost_since is not None and context.now - revision.lost_since >= grace


def _is_lost_alone(context: PlanContext, candidate: int) -> bool:
    """Whether the candidate has no healthy replica while stable has. If both have none, the cluster failed and not the candidate.

    Only edges that report replicas count: an edge that just started knows none. At zero, revisions lose and get their replicas one
    after the other.
    """
    if context.is_rollout_at_zero:
        return False
    of_candidate, of_stable = (
        confirmation.reported_replicas(context.service, number, context.observed.edges)
        for number in (candidate, context.stable_number or 0)
    )
    return of_candidate == 0 and bool(of_stable)


def is_dead(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate answers nothing or fails most requests, while stable does neither."""
    is_failing = context.evaluation is not None and context.evaluation.is_dead
    return is_failing or _is_lost_alone(context, candidate.revision)


def has_exceeded_deadline(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate without traffic took longer than the progress deadline to become ready.

    Time outside of the windows does not count, nor time before the end of a pause or hold. After a rollout of the same revision that
    lost its nodes, the time begins once a pod has a node.
    """
    begun = _placed_since(context, candidate) if _awaits_nodes(context, candidate) else EARLIEST_TIME
    not_ready_since = _not_ready_since(context, candidate)
    if context.spec is None or begun is None or not_ready_since is None:
        return False
    rollout = context.spec.rollout
    is_fast_rollback = context.progress is not None and state.is_fast_rollback(context.progress)
    counted = () if context.status.stable is None or is_fast_rollback else rollout.windows
    resumed = (candidate.resumed_at, context.progress.resumed_at if context.progress is not None else None)
    begun = max(begun, not_ready_since, *(each or EARLIEST_TIME for each in resumed))
    return windows.has_lasted(counted, begun, context.now, rollout.progress_deadline)


def _awaits_nodes(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether the last rollout of the same revision lost its nodes. It is rolled out again at once, and may wait for new ones."""
    last = context.status.last_rollout
    return last is not None and last.revision == candidate.revision and held_back_revisions.has_lost_nodes(last)


def _placed_since(context: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """Return since when a candidate has the pods of a replica on nodes; None without. The earliest time stands for an unknown one."""
    scheduled = [
        pod_problems.find_condition(pod, "PodScheduled").get("lastTransitionTime")
        for pod in _find_own_places(context, candidate)
        if spot.stays_on_node(pod)
    ]
    times = sorted(parse_timestamp(at) if at else EARLIEST_TIME for at in scheduled)
    needed = context.pods_per_replica(candidate.revision)
    return times[needed - 1] if len(times) >= needed else None


def _not_ready_since(context: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """Return the start of a candidate's time to become ready. If it was ready before, this is the end of that, if stored."""
    if context.progress is None or context.progress.phase != phases.RUNNING:
        return candidate.since or context.now
    failing = _stored_not_ready(context)
    return failing.last_transition_time if failing is not None else None
