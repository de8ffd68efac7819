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


def has_traffic(draft: PlanContext) -> bool:
    """Whether the candidate gets traffic."""
    return draft.progress is not None and state.has_traffic(draft.progress)


def find_failure(draft: PlanContext, candidate: RevisionStatus) -> tuple[str, str] | None:
    """Why a rollout must stop now, as (reason, message); None while it may go on."""
    readiness = draft.readiness(candidate.revision)
    if readiness.failed and (not readiness.retryable or has_traffic(draft)):
        return readiness.reason, readiness.message
    if is_unavailable(draft, candidate):
        failing = _unready(draft)
        why = f": {failing.message}" if failing is not None else ""
        return "CandidateUnavailable", f"no healthy replica for {UNAVAILABLE_GRACE.total_seconds():g} s{why}"
    late = find_late_reason(draft, candidate)
    return (state.DEADLINE_EXCEEDED, f"{describe_deadline(draft)}: {late}") if late and _ends(draft) else None


def _ends(draft: PlanContext) -> bool:
    """Whether a rollout whose candidate is late ends with that: one that has not begun waits where it is paused."""
    told = draft.progress
    waits = told is not None and told.paused is not None and told.phase != state.RUNNING
    return not waits and not is_retried_after_deadline(draft)


def find_late_reason(draft: PlanContext, candidate: RevisionStatus) -> str:
    """Why a candidate without traffic, or what a step asks for, is not ready although its time is over; else empty."""
    if short := _short_for_long(draft, candidate):
        return short
    ready = draft.available(candidate.revision) >= candidate.replicas
    if has_traffic(draft) or ready or draft.held or not has_exceeded_deadline(draft, candidate):
        return ""
    failing = _unready(draft)
    return failing.message if failing is not None else "its replicas are not all there"


def _short_for_long(draft: PlanContext, candidate: RevisionStatus) -> str:
    """Which replicas a step of a rollout that has begun lacks although its time is over; empty where it lacks none, or may wait."""
    progress, spec = draft.progress, draft.spec
    step = progress.step if progress is not None else None
    if progress is None or spec is None or step is None or step.short_since is None or draft.held:
        return ""
    needed = state.replicas_waited_for(progress, draft.replicas, draft.available(candidate.revision))
    counted = () if state.is_fast_rollback(progress) else spec.rollout.windows
    begun = max(step.short_since, progress.resumed_at or EARLIEST_TIME)
    if not needed or not windows.has_lasted(counted, begun, draft.now, spec.rollout.progress_deadline):
        return ""
    place = f"step {step.index} of {step.of}"
    return f"{draft.serving(candidate.revision)} of {needed} replicas are available for {place}"


def _unready(draft: PlanContext) -> Condition | None:
    """What is told of a revision that is not ready, if it is told."""
    told = next((c for c in draft.before.conditions if c.type == "RevisionReady"), None)
    return told if told is not None and told.status == "False" else None


def is_retried_after_deadline(draft: PlanContext) -> bool:
    """Whether a candidate that is not ready in time is tried on."""
    return draft.spec is not None and draft.spec.rollout.progress_deadline_action == "pause"


def find_deadline_pause_reason(draft: PlanContext, candidate: RevisionStatus) -> str:
    """Why a candidate that is tried on was not ready in time, in half a sentence; empty where nothing follows on that."""
    late = find_late_reason(draft, candidate) if is_retried_after_deadline(draft) else ""
    return f"{describe_deadline(draft)}: {late}" if late else ""


def describe_deadline(draft: PlanContext) -> str:
    """Which limit a revision that was not ready in time has reached."""
    limit = draft.spec.rollout.progress_deadline if draft.spec is not None else timedelta(0)
    return f"not ready within {format_duration(limit)}, spec.rollout.progressDeadline"


def track_candidate(draft: PlanContext) -> None:
    """Note since when the spec holds a candidate, and since when one with traffic has no healthy replica although stable has."""
    candidate = draft.status.candidate
    if candidate is not None:
        draft.set(candidate=track_lost_since(draft, _held(draft, candidate), begun=has_traffic(draft)))


def _held(draft: PlanContext, candidate: RevisionStatus) -> RevisionStatus:
    """A candidate with since when the spec holds its rollout, or when it ceased to. Nothing holds a first revision."""
    held = draft.held and draft.status.stable is not None
    if held == (candidate.held_since is not None):
        return candidate
    ended = {} if held else {"resumed_at": draft.now}
    return candidate.model_copy(update={"held_since": draft.now if held else None, **ended})


def track_lost_since(draft: PlanContext, revision: AnyRevision, *, begun: bool) -> AnyRevision:
    """A revision, whose traffic has `begun` or not, with since when it is known that nobody sees it healthy, though stable is.

    A clock that is set back begins that time anew.
    """
    lost = begun and _lost_alone(draft, revision.revision)
    since = min(revision.lost_since or draft.now, draft.now)
    return revision.model_copy(update={"lost_since": since if lost else None})


def is_unavailable(draft: PlanContext, revision: RevisionStatus) -> bool:
    """Whether nobody has seen it healthy for so long that it must not go on."""
    return revision.lost_since is not None and draft.now - revision.lost_since >= UNAVAILABLE_GRACE


def _lost_alone(draft: PlanContext, candidate: int) -> bool:
    """Whether the candidate has no healthy replica while stable has: when both are gone, the cluster is to blame and not the candidate.

    By the edges that tell: one that has just started knows of neither.
    """
    of_candidate, of_stable = (
        confirmation.reported_replicas(draft.service, number, draft.seen.edges)
        for number in (candidate, draft.stable_number or 0)
    )
    return of_candidate == 0 and bool(of_stable)


def is_dead(draft: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate answers nothing, or fails most of what it is asked, while stable does neither."""
    fails = draft.evaluation is not None and draft.evaluation.dead
    return fails or _lost_alone(draft, candidate.revision)


def has_exceeded_deadline(draft: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a candidate without traffic took longer than the progress deadline to become ready.

    What is outside of windows is left aside, and what was before a pause or a hold ended.
    """
    begun = _not_ready_since(draft, candidate)
    if draft.spec is None or begun is None:
        return False
    rollout, returning_now = (
        draft.spec.rollout,
        draft.progress is not None and state.is_fast_rollback(draft.progress),
    )
    counted = () if draft.status.stable is None or returning_now else rollout.windows
    resumed = (candidate.resumed_at, draft.progress.resumed_at if draft.progress is not None else None)
    begun = max(begun, *(each or EARLIEST_TIME for each in resumed))
    return windows.has_lasted(counted, begun, draft.now, rollout.progress_deadline)


def _not_ready_since(draft: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """From when a candidate's time to become ready counts: where it was ready before, from when it stopped to be so, as far as is told."""
    if draft.progress is None or draft.progress.phase != state.RUNNING:
        return candidate.since or draft.now
    failing = _unready(draft)
    return failing.last_transition_time if failing is not None else None
