"""The end of a candidate: it becomes stable, or it drains."""

from dataclasses import replace
from datetime import datetime
from typing import Literal, NamedTuple, Self

from sundog_operator.api import ExperimentStatus, LastRollout, RevisionStatus
from sundog_operator.api.reasons import Cause
from sundog_operator.core import events
from sundog_operator.core.edge import split_document
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.planner.facts import Json
from sundog_operator.core.planner.rollout import held_back_revisions, rollback_window
from sundog_operator.core.planner.rollout.deadline import find_failure
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import explanations, state, transitions

RolloutOutcome = Literal["Promoted", "Aborted", "RolledBack", "Superseded"]


class RolloutEnd(NamedTuple):
    """How a rollout ended: the outcome, the reason for it, and a text. A failure aborts with a reason of its own."""

    outcome: RolloutOutcome
    code: str
    text: str

    @classmethod
    def of(cls, outcome: RolloutOutcome, text: str) -> Self:
        """Return an end whose reason is its outcome."""
        return cls(outcome, outcome, text)

    @classmethod
    def of_failure(cls, cause: Cause) -> Self:
        """Return the end of a rollout whose candidate failed."""
        return cls("Aborted", cause.reason, str(cause))


def apply_rollout_outcome(context: PlanContext) -> PlanContext:
    """Apply the outcome of an ended rollout Experiment to the status."""
    attempt = context.find_rollout(context.status.experiment)
    if attempt is None:
        return context.set(experiment="") if context.experiment is None else context
    if not phases.is_over(attempt.status):
        return replace(context, rollout=attempt)
    if attempt.status.phase == phases.CONCLUDED:
        event_reason = explanations.promotion_reason(attempt.status)
        return promote_revision(context, attempt.revision, attempt.name, attempt.status.plan.reason, event_reason)
    return end_candidate(context, attempt.revision, rollout_end(attempt.status), attempt.name)


def rollout_end(status: ExperimentStatus) -> RolloutEnd:
    """Return how an attempt ended whose revision was not promoted."""
    match status.verdict.code:
        case "Superseded" | "RolledBack" | "Aborted" as outcome:
            return RolloutEnd.of(outcome, status.verdict.message)
        case code:
            return RolloutEnd("Aborted", code or "", status.verdict.reason)


def promote_revision(
    context: PlanContext, number: int, experiment: str = "", reason: str = "", event_reason: str = ""
) -> PlanContext:
    """Make a revision stable and drain the previous one. `event_reason` is the reason for the event."""
    previous, attempt = context.status.stable, _attempt_of(context, number, experiment)
    context = context.set(
        stable_before=rollback_window.record_promotion(context.status.stable_before, context.stable_number, number),
        held_back=held_back_revisions.remove_hold(context.status.held_back, number),
    )
    if previous is not None and previous.revision != number:
        context = start_draining(context, previous)
    stable = make_revision_status(context, number, context.replicas)
    context = context.set(
        stable=stable.model_copy(update={"cluster": _own_cluster(context, number)}), candidate=None, experiment=""
    ).report(events.revision_promoted(number, previous.revision if previous else None, attempt, event_reason))
    # A rollback by command is neither of these, and keeps its reason in the status.
    is_of_spec = context.spec_revision is not None and context.spec_revision.number == number
    if previous is None or not (experiment or is_of_spec):
        return context
    return context.set(last_rollout=make_last_rollout(context, number, RolloutEnd.of("Promoted", reason), experiment))


def end_candidate(context: PlanContext, number: int, end: RolloutEnd, experiment: str = "") -> PlanContext:
    """Drain a candidate, with all traffic on stable, and record how its rollout ended."""
    candidate, last = context.status.candidate, make_last_rollout(context, number, end, experiment)
    attempt = _attempt_of(context, number, experiment)
    # A rollback candidate is not the spec's revision, which is held back already.
    is_held = held_back_revisions.is_failed_rollout(last) and not (candidate is not None and is_rollback(candidate))
    if candidate is not None and candidate.revision == number:
        if candidate.retry_at is None:
            # A candidate that waits for its next attempt has no replicas.
            context = start_draining(context, candidate)
        context = context.set(candidate=None)
    if held_back_revisions.is_failed_rollout(last) and _had_traffic(context, experiment):
        context = context.set(stable_before=rollback_window.forget_revision(context.status.stable_before, number))
    if is_held:
        context = context.set(held_back=held_back_revisions.add_hold(context.status.held_back, last))
    ended = events.rollout_ended(end.outcome, attempt, f"revision {number}: {end.text}")
    return context.set(experiment="", last_rollout=last).report(ended)


def _attempt_of(context: PlanContext, number: int, experiment: str) -> str:
    """Return a key of one attempt at a revision: its Experiment, or since when the revision is the candidate."""
    candidate = context.status.candidate
    since = candidate.since if candidate is not None and candidate.revision == number else None
    return experiment or f"{names.application(context.service, number)} since {since}"


def _had_traffic(context: PlanContext, experiment: str) -> bool:
    """Whether the candidate of an Experiment ever got traffic."""
    return any(each.name == experiment and state.had_traffic(each.status) for each in context.observed.rollouts)


def make_last_rollout(context: PlanContext, number: int, end: RolloutEnd, experiment: str) -> LastRollout:
    """Return a `status.lastRollout` that ended now."""
    return LastRollout(
        experiment=experiment,
        revision=number,
        outcome=end.outcome,
        code=end.code,
        reason=end.text[:1024],
        at=context.now,
    )


def make_revision_status(context: PlanContext, number: int, replicas: int) -> RevisionStatus:
    """Return the status of a revision whose role starts now."""
    revision = context.revision(number)
    model: Json = dict(revision.content.get("model", {})) if revision else {}
    uri, digest = str(model.get("uri", "")), str(model.get("digest", ""))
    return RevisionStatus(
        revision=number, weight=0, uri=uri, digest=digest, replicas=replicas, ready_replicas=0, since=context.now
    )


def abort_candidate(context: PlanContext, why: str) -> PlanContext:
    """Drop a candidate without steps. An aborted rollback also releases the stable revision, if it is the spec's."""
    candidate, spec_revision = context.status.candidate, context.spec_revision
    was_rollback = candidate is not None and is_rollback(candidate)
    context = drop_candidate(context, RolloutEnd.of("Aborted", why))
    if was_rollback and spec_revision is not None and spec_revision.number == context.stable_number:
        return release_hold(context, spec_revision.number)
    return context


def release_hold(context: PlanContext, number: int) -> PlanContext:
    """Stop holding a revision back."""
    last = context.status.last_rollout
    is_last = last is not None and last.revision == number
    return context.set(
        held_back=held_back_revisions.remove_hold(context.status.held_back, number),
        last_rollout=None if is_last else last,
    )


def drop_candidate(context: PlanContext, end: RolloutEnd, command: str = "") -> PlanContext:
    """Stop the Experiment of a candidate, then drop the candidate. One in place first gives its traffic back.

    If a command in the same pass ended the rollout already, its outcome stays. `command` is the id of the command that drops it.
    """
    candidate, attempt = context.status.candidate, context.rollout
    if context.is_giving_back:
        return context
    if attempt is not None and context.progress is not None:
        stopped = transitions.stop(context.progress, Cause(end.code, end.text), context.now)
        stopped = stopped.model_copy(update={"last_command": command or stopped.last_command})
        context = context.commit_rollout(stopped)
        if not phases.is_over(stopped):
            return context
        end = rollout_end(stopped)
    context = replace(context, rollout=None)
    if candidate is None:
        return context
    return end_candidate(context, candidate.revision, end, context.status.experiment)


def _own_cluster(context: PlanContext, number: int) -> str:
    """Return the RayCluster for a revision's status: empty if it is `status.cluster`."""
    cluster = desired_state.clusters_by_revision(context.status).get(number, context.status.cluster)
    return "" if cluster == context.status.cluster else cluster


def promote_without_steps(context: PlanContext) -> PlanContext:
    """Promote a candidate without an Experiment once it can take all traffic: a first revision, `recreate`, or a rollback."""
    candidate, stable = context.status.candidate, context.status.stable
    if candidate is None or context.status.experiment:
        return context
    if stable is not None and (failure := find_failure(context, candidate)):
        return end_candidate(context, candidate.revision, RolloutEnd.of_failure(failure))
    # A first revision is no rollout, and nothing holds it.
    is_held = context.is_held and not is_rollback(candidate)
    if stable is not None and (is_held or window_opening_for(context, candidate) is not None):
        return context
    readiness = context.readiness(candidate.revision)
    is_complete = readiness.ready and readiness.running >= context.replicas
    # Before the first revision serves, the edges follow no replicas.
    if is_complete and (stable is None or _is_checked_by_edges(context, candidate.revision)):
        return promote_revision(context, candidate.revision)
    return context


def _is_checked_by_edges(context: PlanContext, number: int) -> bool:
    """Whether the edges report enough healthy replicas of a revision, and the stored document still has it as an arm.

    Edges may report from an older document. The document must have the arm before it gets traffic (`desired_state.contradicts_traffic`).
    """
    weights = split_document.find_weights(context.observed.split)
    return context.available(number) >= context.replicas and (number in weights or not any(weights.values()))


def window_opening_for(context: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """Return when the spec's windows allow a candidate without steps; None if it waits for no window."""
    if context.status.stable is None or context.is_fast_rollback or is_rollback(candidate):
        return None
    return context.window_opens_at


def is_rollback(candidate: RevisionStatus) -> bool:
    """Whether the candidate is a rollback by command, which also runs while the spec is paused or refused."""
    return bool(candidate.brought_back)
