"""How long a candidate may take, and when it has failed."""

from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from sundog_operator.api import (
    Condition,
    RevisionStatus,
    format_duration,
)
from sundog_operator.core.edge import confirmation
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.rollout import state, windows

UNAVAILABLE_GRACE: Final = timedelta(seconds=30)
"""For which a candidate or an arm with traffic may be without a healthy replica while stable has one."""
EARLIEST_TIME: Final = datetime.min.replace(tzinfo=UTC)
AnyRevision = TypeVar("AnyRevision", bound=RevisionStatus)


def has_traffic(context: PlanContext) -> bool:
    """Whether the candidate gets traffic."""
    return context.progress is not None and state.has_traffic(context.progress)


def find_failure(context: PlanContext, candidate: RevisionStatus) -> tuple[str, str] | None:
    """Why a rollout must stop now, as (reason, message); None while it may go on."""
    readiness = context.readiness(candidate.revision)
    if readiness.failed and (not readiness.retryable or has_traffic(context)):
        return readiness.reason, readiness.message
    if is_unavailable(context, candidate):
        failing = _unready(context)
        why = f": {failing.message}" if failing is not None else ""
        return "CandidateUnavailable", f"no healthy replica for {UNAVAILABLE_GRACE.total_seconds():g} s{why}"
    late = find_late_reason(context, candidate)
    return (state.DEADLINE_EXCEEDED, f"{describe_deadline(context)}: {late}") if late and _ends(context) else None


def _ends(context: PlanContext) -> bool:
    """Whether a rollout whose candidate is late ends with that: one that has not begun waits where it is paused."""
    told = context.progress
    waits = told is not None and told.paused is not None and told.phase != state.RUNNING
    return not waits and not is_retried_after_deadline(context)


def find_late_reason(context: PlanContext, candidate: RevisionStatus) -> str:
    """Why a candidate without traffic, or what a step asks for, is not ready although its time is over; else empty."""
    if short := _short_for_long(context, candidate):
        return short
    ready = context.available(candidate.revision) >= candidate.replicas
    if has_traffic(context) or ready or context.is_held or not has_exceeded_deadline(context, candidate):
        return ""
    failing = _unready(context)
    return failing.message if failing is not None else "its replicas are not all there"


def _short_for_long(context: PlanContext, candidate: RevisionStatus) -> str:
    """Which replicas a step of a rollout that has begun lacks although its time is over; empty where it lacks none, or may wait."""
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


def _unready(context: PlanContext) -> Condition | None:
    """What is told of a revision that is not ready, if it is told."""
    told = next((c for c in context.before.conditions if c.type == "RevisionReady"), None)
    return told if told is not None and told.status == "False" else None


def is_retried_after_deadline(context: PlanContext) -> bool:
    """Whether a candidate that is not ready in time is tried on."""
    return context.spec is not None and context.spec.rollout.progress_deadline_action == "pause"


def find_deadline_pause_reason(context: PlanContext, candidate: RevisionStatus) -> str:
    """Why a candidate that is tried on was not ready in time, in half a sentence; empty where nothing follows on that."""
    late = find_late_reason(context, candidate) if is_retried_after_deadline(context) else ""
    return f"{describe_deadline(context)}: {late}" if late else ""


def describe_deadline(context: PlanContext) -> str:
    """Which limit a revision that was not ready in time has reached."""
    limit = context.spec.rollout.progress_deadline if context.spec is not None else timedelta(0)
    return f"not ready within {format_duration(limit)}, spec.rollout.progressDeadline"


def track_candidate(context: PlanContext) -> None:
    """Note since when the spec holds a candidate, and since when one with traffic has no healthy replica although stable has."""
    candidate = context.status.candidate
    if candidate is not None:
        context.set(candidate=track_lost_since(context, _held(context, candidate), begun=has_traffic(context)))


def _held(context: PlanContext, candidate: RevisionStatus) -> RevisionStatus:
    """A candidate with since when the spec holds its rollout, or when it ceased to. Nothing holds a first revision."""
    held = context.is_held and context.status.stable is not None
    if held == (candidate.held_since is not None):
        return candidate
    ended = {} if held else {"resumed_at": context.now}
    return candidate.model_copy(update={"held_since": context.now if held else None, **ended})


def track_lost_since(context: PlanContext, revision: AnyRevision, *, begun: bool) -> AnyRevision:
    """A revision, whose traffic has `begun` or not, with since when it is known that nobody sees it healthy, though stable is.

    A clock that is set back begins that time anew.
    """
    lost = begun and _lost_alone(context, revision.revision)
    since = min(revision.lost_since or context.now, context.now)
    return revision.model_copy(update={"lost_since": since if lost else None})


def is_unavailable(context: PlanContext, revision: RevisionStatus) -> bool:
    """Whether nobody has seen it healthy for so long that it must not go on."""
    return revision.lost_since is not None and context.now - revision.lost_since >= UNAVAILABLE_GRACE


def _lost_alone(context: PlanContext, candidate: int) -> bool:
    """Whether the candidate has no healthy replica while stable has: when both are gone, the cluster is to blame and not the candidate.

    By the edges that tell: one that has just started knows of neither.
    """
    of_candidate, of_stable = (
        confirmation.reported_replicas(context.service, number, context.observed.edges)
        for number in (candidate, context.stable_number or 0)
    )
    return of_candidate == 0 and bool(of_stable)


def is_dead(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate answers nothing, or fails most of what it is asked, while stable does neither."""
    fails = context.evaluation is not None and context.evaluation.dead
    return fails or _lost_alone(context, candidate.revision)


def has_exceeded_deadline(context: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate without traffic took longer than the progress deadline to become ready.

    What is outside of windows is left aside, and what was before a pause or a hold ended.
    """
    begun = _not_ready_since(context, candidate)
    if context.spec is None or begun is None:
        return False
    rollout, returning_now = (
        context.spec.rollout,
        context.progress is not None and state.is_fast_rollback(context.progress),
    )
    counted = () if context.status.stable is None or returning_now else rollout.windows
    resumed = (candidate.resumed_at, context.progress.resumed_at if context.progress is not None else None)
    begun = max(begun, *(each or EARLIEST_TIME for each in resumed))
    return windows.has_lasted(counted, begun, context.now, rollout.progress_deadline)


def _not_ready_since(context: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """From when a candidate's time to become ready counts: where it was ready before, from when it stopped to be so, as far as is told."""
    if context.progress is None or context.progress.phase != state.RUNNING:
        return candidate.since or context.now
    failing = _unready(context)
    return failing.last_transition_time if failing is not None else None
