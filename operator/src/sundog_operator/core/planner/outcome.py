"""What a pass does when a candidate ends: it becomes stable, or it goes."""

from datetime import datetime
from typing import Literal

from sundog_operator.api import (
    ExperimentStatus,
    LastRollout,
    RevisionStatus,
)
from sundog_operator.core import events
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import (
    desired_state,
    held_back_revisions,
    rollback_window,
)
from sundog_operator.core.planner.context import Json, PlanContext
from sundog_operator.core.planner.deadline import find_failure
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.rollout import (
    explanations,
    state,
    transitions,
)

RolloutOutcome = Literal["Promoted", "Aborted", "RolledBack", "Superseded"]


def apply_rollout_outcome(draft: PlanContext) -> None:
    """Carry over into the status what an Experiment has already decided."""
    name = draft.status.experiment
    attempt = next((rollout for rollout in draft.seen.rollouts if rollout.name == name), None)
    if attempt is None and draft.own is None:
        draft.set(experiment="")
    if attempt is None:
        return
    draft.rollout = attempt
    if not state.is_over(attempt.status):
        return
    draft.rollout = None
    if attempt.status.phase == state.CONCLUDED:
        by = explanations.promotion_reason(attempt.status)
        promote_revision(draft, attempt.revision, attempt.name, attempt.status.plan.reason, by)
    else:
        end_candidate(draft, attempt.revision, *rollout_outcome(attempt.status), attempt.name)


def rollout_outcome(status: ExperimentStatus) -> tuple[RolloutOutcome, str]:
    """How an attempt ended without its revision, and why."""
    reason, _, message = status.verdict.reason.partition(": ")
    match reason:
        case "Superseded" | "RolledBack" | "Aborted":
            return reason, message
        case _:
            return "Aborted", f"{reason}: {message}"


def promote_revision(draft: PlanContext, number: int, experiment: str = "", reason: str = "", by: str = "") -> None:
    """Make a revision stable and let the previous one drain. `by` is what decided that, for the event."""
    previous, attempt = draft.status.stable, _attempt_of(draft, number, experiment)
    draft.set(
        stable_before=rollback_window.record_promotion(draft.status.stable_before, draft.stable_number, number),
        held_back=held_back_revisions.remove_hold(draft.status.held_back, number),
    )
    if previous is not None and previous.revision != number:
        start_draining(draft, previous)
    stable = make_revision_status(draft, number, draft.replicas)
    draft.set(stable=stable.model_copy(update={"cluster": _own_cluster(draft, number)}), candidate=None, experiment="")
    draft.events.append(events.revision_promoted(number, previous.revision if previous else None, attempt, by))
    # A rollback by command is none of these: why it went back stays told.
    if previous is not None and (experiment or (draft.wanted is not None and draft.wanted.number == number)):
        draft.set(last_rollout=make_last_rollout(draft, number, "Promoted", reason, experiment))


def end_candidate(draft: PlanContext, number: int, outcome: RolloutOutcome, reason: str, experiment: str = "") -> None:
    """Let a candidate go, with all traffic on stable, and remember why."""
    candidate, last = draft.status.candidate, make_last_rollout(draft, number, outcome, reason, experiment)
    attempt = _attempt_of(draft, number, experiment)
    # The spec does not stand for what a command brought back, and what it was brought back for is held back already.
    is_held = held_back_revisions.is_failed_rollout(last) and not (
        candidate is not None and is_rollback(draft, candidate)
    )
    if candidate is not None and candidate.revision == number:
        if candidate.retry_at is None:
            # One that waits for its next attempt runs nowhere.
            start_draining(draft, candidate)
        draft.set(candidate=None)
    if held_back_revisions.is_failed_rollout(last) and _had_traffic(draft, experiment):
        draft.set(stable_before=rollback_window.forget_revision(draft.status.stable_before, number))
    if is_held:
        draft.set(held_back=held_back_revisions.add_hold(draft.status.held_back, last))
    draft.set(experiment="", last_rollout=last)
    draft.events.append(events.rollout_ended(outcome, attempt, f"revision {number}: {reason}"))


def _attempt_of(draft: PlanContext, number: int, experiment: str) -> str:
    """What tells an attempt at a revision from others: its Experiment, else since when the revision is the candidate."""
    candidate = draft.status.candidate
    since = candidate.since if candidate is not None and candidate.revision == number else None
    return experiment or f"{names.application(draft.service, number)} since {since}"


def _had_traffic(draft: PlanContext, experiment: str) -> bool:
    """Whether a candidate ever got any."""
    return any(each.name == experiment and state.had_traffic(each.status) for each in draft.seen.rollouts)


def make_last_rollout(
    draft: PlanContext, number: int, outcome: RolloutOutcome, reason: str, experiment: str
) -> LastRollout:
    """The last rollout, as the status remembers it."""
    return LastRollout(experiment=experiment, revision=number, outcome=outcome, reason=reason[:1024], at=draft.now)


def make_revision_status(draft: PlanContext, number: int, replicas: int) -> RevisionStatus:
    """A revision in a role that begins now."""
    revision = draft.revision(number)
    model: Json = dict(revision.content.get("model", {})) if revision else {}
    uri, digest = str(model.get("uri", "")), str(model.get("digest", ""))
    return RevisionStatus(
        revision=number, weight=0, uri=uri, digest=digest, replicas=replicas, ready_replicas=0, since=draft.now
    )


def abort_candidate(draft: PlanContext, why: str) -> None:
    """Let a candidate without steps go. Who calls a rollback off keeps the revision that serves, if the spec stands for it."""
    candidate, wanted = draft.status.candidate, draft.wanted
    was_rollback = candidate is not None and is_rollback(draft, candidate)
    drop_candidate(draft, "Aborted", why)
    if was_rollback and wanted is not None and wanted.number == draft.stable_number:
        release_hold(draft, wanted.number)


def release_hold(draft: PlanContext, number: int) -> None:
    """Hold a revision back no longer."""
    last = draft.status.last_rollout
    known = last is not None and last.revision == number
    draft.set(
        held_back=held_back_revisions.remove_hold(draft.status.held_back, number), last_rollout=None if known else last
    )


def drop_candidate(draft: PlanContext, outcome: RolloutOutcome, why: str) -> None:
    """Let the candidate go, stopping its Experiment first. One in place goes once it has given its traffic back.

    What a command of the same pass has ended has ended as that says.
    """
    candidate, attempt = draft.status.candidate, draft.rollout
    if draft.is_giving_back:
        return
    if attempt is not None and draft.progress is not None:
        stopped = transitions.stop(draft.progress, outcome, why, draft.now)
        draft.commit_rollout(stopped)
        if not state.is_over(stopped):
            return
        outcome, why = rollout_outcome(stopped)
    draft.rollout = None
    if candidate is not None:
        end_candidate(draft, candidate.revision, outcome, why, draft.status.experiment)


def _own_cluster(draft: PlanContext, number: int) -> str:
    """A revision's RayCluster as its status names it: empty where it is the newest one's."""
    place = desired_state.clusters_by_revision(draft.status).get(number, draft.status.cluster)
    return "" if place == draft.status.cluster else place


def promote_without_steps(draft: PlanContext) -> None:
    """Make a candidate without an Experiment stable once it can carry all traffic: a first revision, `recreate`, or a rollback."""
    candidate, stable = draft.status.candidate, draft.status.stable
    if candidate is None or draft.status.experiment:
        return
    if stable is not None and (failure := find_failure(draft, candidate)):
        end_candidate(draft, candidate.revision, "Aborted", ": ".join(failure))
        return
    # A first revision is no rollout: there is nothing to hold it back for.
    held = draft.held and not is_rollback(draft, candidate)
    if stable is not None and (held or window_opening_for(draft, candidate) is not None):
        return
    readiness = draft.readiness(candidate.revision)
    enough = readiness.ready and readiness.running >= draft.replicas
    # Before the first revision serves there is no arm whose replicas the edges could follow.
    if enough and (stable is None or draft.available(candidate.revision) >= draft.replicas):
        promote_revision(draft, candidate.revision)


def window_opening_for(draft: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """When a candidate without steps may be switched to by the windows of the spec; None where it need not wait for one."""
    if draft.status.stable is None or draft.is_fast_rollback or is_rollback(draft, candidate):
        return None
    return draft.opens_at


def is_rollback(draft: PlanContext, candidate: RevisionStatus) -> bool:
    """Whether a command brought the candidate back: that outranks a spec that is paused or refused."""
    if candidate.brought_back is not None:
        return candidate.brought_back
    # A status from before does not say so: there a command was noted as the candidate began, and names no Experiment.
    last = draft.status.last_rollout
    return (
        last is not None
        and last.outcome == "RolledBack"
        and not last.experiment
        and last.at == candidate.since
        and last.revision != candidate.revision
    )
