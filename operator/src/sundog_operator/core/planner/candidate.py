"""Which revision is stable, which one is the candidate, and which ones may go."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeVar

from sundog_operator.api import (
    Condition,
    DrainingRevision,
    ExperimentStatus,
    LastRollout,
    ModelDeploymentSpec,
    PlanInPlace,
    RevisionStatus,
    format_duration,
)
from sundog_operator.core import events, revisions
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import (
    candidate_placement,
    desired_state,
    dry_run,
    evaluation,
    held_back_revisions,
    rollback_window,
    warm_revisions,
)
from sundog_operator.core.planner.context import Json, PlanContext, RolloutAttempt
from sundog_operator.core.planner.desired_state import live_revisions
from sundog_operator.core.planner.drain import start_draining
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.ray import clusters
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import freeze, replica_counts, state_machine, windows
from sundog_operator.core.rollout.freeze import STEPPED_STRATEGIES

DRAIN_GRACE: Final = timedelta(seconds=5)
MAX_DRAINING: Final = 6
"""Revisions, when another candidate begins: a status has room for 8, and the candidate and stable may have to drain beside them."""

UNAVAILABLE_GRACE: Final = timedelta(seconds=30)
"""For which a candidate or an arm with traffic may be without a healthy replica while stable has one."""

EARLIEST_TIME: Final = datetime.min.replace(tzinfo=UTC)
RETRY_BASE_S: Final = 10.0
RETRY_MAX_S: Final = 300.0

AnyRevision = TypeVar("AnyRevision", bound=RevisionStatus)
RolloutOutcome = Literal["Promoted", "Aborted", "RolledBack", "Superseded"]


def assign_cluster(draft: PlanContext) -> None:
    """Choose the first RayCluster."""
    if not draft.status.cluster and draft.wanted is not None:
        draft.set(cluster=choose_cluster(draft, draft.wanted.number))


def choose_cluster(draft: PlanContext, number: int) -> str:
    """The RayCluster of a revision: one that this service uses already and whose pods have its image, else one with room.

    In local mode all heads are the same, and the first one chosen is kept. Nothing is started for a service whose edge can never be ours.
    """
    if draft.seen.foreign and not draft.status.cluster:
        return ""
    revision = draft.revision(number)
    if draft.seen.installation is None or revision is None:
        return draft.status.cluster or clusters.assign_cluster(draft.seen.clusters_of_others)
    image = revision.image or draft.seen.image
    used = sorted(name for name in desired_state.needed_clusters(draft.status) if names.is_ray_cluster_of(name, image))
    return used[0] if used else clusters.assign_cluster(draft.seen.clusters_of_others, image)


def recover_lost_status(draft: PlanContext) -> None:
    """Take up what serves where the status that said so was lost: the split document and the rollouts still tell.

    Without this a ModelDeployment restored from a backup would be rolled out from nothing, over what serves. Where there is a candidate
    nothing was lost: of a ModelDeployment made anew the document may still tell what its namesake served.
    """
    if draft.status.stable is not None or draft.status.candidate is not None:
        return
    arms = {arm.get("name"): arm.get("revision") for arm in (draft.seen.split or {}).get("arms", ())}
    stable = arms.get(names.STABLE)
    if not isinstance(stable, int) or draft.revision(stable) is None:
        return
    attempts = sorted(
        draft.seen.rollouts, key=lambda attempt: (attempt.status.plan.frozen_at or draft.now, attempt.name)
    )
    latest = attempts[-1] if attempts and state_machine.is_frozen(attempts[-1].status) else None
    shared = latest.status.plan.in_place if latest is not None and not state_machine.is_over(latest.status) else None
    replicas = _serving(draft, [stable] if shared is None or latest is None else [stable, latest.revision])
    if replicas is None:
        return
    # Where its arms are told apart from it, the service's cluster is that of its newest revision.
    placed = {arm.get("revision"): str(arm.get("cluster", "")) for arm in (draft.seen.split or {}).get("arms", ())}
    cluster = draft.status.cluster or str((draft.seen.split or {}).get("cluster", ""))
    serving = make_revision_status(draft, stable, replicas).model_copy(update={"cluster": placed[stable]})
    draft.set(stable=serving, cluster=cluster)
    if latest is None:
        return
    if not state_machine.is_over(latest.status):
        draft.set(experiment=latest.name, candidate=make_revision_status(draft, latest.revision, replicas))
        if shared is not None:
            own = state_machine.shared_replicas(latest.status, replicas, stands_still=True)
            told = candidate_placement.make_capacity_status(draft.status.capacity, shared, replicas)
            draft.set(stable=serving.model_copy(update={"replicas": own.stable}), capacity=told)
    elif latest.status.phase == state_machine.STOPPED:
        draft.set(last_rollout=_last(draft, latest.revision, *_ended(latest.status), latest.name))


def _serving(draft: PlanContext, numbers: Sequence[int]) -> int | None:
    """Replicas for all traffic, of what is taken up: of stable, or of two revisions that share them. None while nobody knows.

    Where the spec is refused they are as many as serve: neither spec nor status tells more.
    """
    if draft.spec is not None:
        return draft.replicas
    told = [edge_split.reported_replicas(draft.service, number, draft.seen.edges) for number in numbers]
    known = [count for count in told if count is not None]
    return max(sum(known), draft.replicas) if len(known) == len(told) else None


def find_or_create_revision(draft: PlanContext) -> None:
    """Find the revision that the spec stands for, or make it."""
    if draft.spec is None:
        return
    content = revisions.content_of(draft.spec)
    digest = revisions.content_hash(content)
    found = revisions.find_by_hash(draft.seen.revisions, digest)
    if found is None:
        live = set(live_revisions(draft.status))
        number = draft.find_deployed_number(digest, live) or revisions.next_number((*draft.seen.taken, *live))
        found = Revision(number, digest, content, revisions.image_of(content, draft.seen.image))
        draft.objects_to_create.append(revisions.make_controller_revision(draft.seen.deployment, found))
        draft.events.append(events.revision_created(found.number))
    draft.wanted = found


def apply_rollout_outcome(draft: PlanContext) -> None:
    """Carry over into the status what an Experiment has already decided."""
    name = draft.status.experiment
    attempt = next((rollout for rollout in draft.seen.rollouts if rollout.name == name), None)
    if attempt is None and draft.own is None:
        draft.set(experiment="")
    if attempt is None:
        return
    draft.rollout = attempt
    if not state_machine.is_over(attempt.status):
        return
    draft.rollout = None
    if attempt.status.phase == state_machine.CONCLUDED:
        by = state_machine.promotion_reason(attempt.status)
        promote_revision(draft, attempt.revision, attempt.name, attempt.status.plan.reason, by)
    else:
        end_candidate(draft, attempt.revision, *_ended(attempt.status), attempt.name)


def _ended(status: ExperimentStatus) -> tuple[RolloutOutcome, str]:
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
        draft.set(last_rollout=_last(draft, number, "Promoted", reason, experiment))


def end_candidate(draft: PlanContext, number: int, outcome: RolloutOutcome, reason: str, experiment: str = "") -> None:
    """Let a candidate go, with all traffic on stable, and remember why."""
    candidate, last = draft.status.candidate, _last(draft, number, outcome, reason, experiment)
    attempt = _attempt_of(draft, number, experiment)
    # The spec does not stand for what a command brought back, and what it was brought back for is held back already.
    is_held = held_back_revisions.is_failed_rollout(last) and not (
        candidate is not None and _is_rollback(draft, candidate)
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
    return any(each.name == experiment and state_machine.had_traffic(each.status) for each in draft.seen.rollouts)


def _last(draft: PlanContext, number: int, outcome: RolloutOutcome, reason: str, experiment: str) -> LastRollout:
    return LastRollout(experiment=experiment, revision=number, outcome=outcome, reason=reason[:1024], at=draft.now)


def make_revision_status(draft: PlanContext, number: int, replicas: int) -> RevisionStatus:
    """A revision in a role that begins now."""
    revision = draft.revision(number)
    model: Json = dict(revision.content.get("model", {})) if revision else {}
    uri, digest = str(model.get("uri", "")), str(model.get("digest", ""))
    return RevisionStatus(
        revision=number, weight=0, uri=uri, digest=digest, replicas=replicas, ready_replicas=0, since=draft.now
    )


def choose_candidate(draft: PlanContext) -> None:
    """Compare what the spec wants with what serves, and start, replace or drop a candidate."""
    wanted, candidate, stable = draft.wanted, draft.status.candidate, draft.status.stable
    draft.set(queued=None)
    if wanted is None or (candidate is not None and candidate.revision == wanted.number):
        return
    if draft.is_held_back(wanted.number):
        _leave_held_back(draft, wanted)
        return
    if _rehearses(draft, wanted):
        return
    if stable is not None and stable.revision == wanted.number:
        _return_to_stable(draft)
        return
    if draft.own is not None:
        _wait_for_experiment(draft, wanted)
        return
    if candidate is not None and _outlasts_edits(draft):
        draft.set(queued=wanted.number)
        return
    if candidate is not None:
        drop_candidate(draft, "Superseded", f"revision {wanted.number} is wanted now")
    if draft.is_giving_back or _waits_for_room(draft):
        draft.set(queued=wanted.number)
        return
    _start(draft, wanted)


def _leave_held_back(draft: PlanContext, wanted: Revision) -> None:
    """The spec is back at a revision that is held back: nothing else is wanted, but what a command brings back."""
    candidate, rehearses = draft.status.candidate, draft.spec is not None and draft.spec.rollout.dry_run
    if candidate is None or rehearses or _is_rollback(draft, candidate) or _outlasts_edits(draft):
        return
    drop_candidate(draft, "Superseded", f"revision {wanted.number} is wanted now, which is held back")


def _wait_for_experiment(draft: PlanContext, wanted: Revision) -> None:
    """An Experiment of a user's own runs on stable: what is to replace that waits, or ends it first and begins at a next pass."""
    spec = draft.spec
    if spec is None or draft.held:
        return
    if should_stop_experiments(spec):
        if _finds_no_room(draft, spec) and not candidate_placement.can_fit_without_arms(draft, spec):
            # What finds no place all the same ends none for it.
            draft.set(kept=())
            return
        draft.capacity_shortage = None
        cleanup.stop_experiment(
            draft, "Superseded", f"revision {wanted.number} is wanted now, and spec.rollout.duringExperiment is stop"
        )
    draft.set(queued=wanted.number)


def should_stop_experiments(spec: ModelDeploymentSpec) -> bool:
    """Whether an Experiment of a user that runs is ended for a revision that is wanted."""
    return spec.rollout.during_experiment == "stop"


def _rehearses(draft: PlanContext, wanted: Revision) -> bool:
    """Tell what would begin or end, where the spec asks for no more."""
    spec, stable, candidate = draft.spec, draft.stable_number, draft.status.candidate
    if spec is None or not spec.rollout.dry_run or stable is None or (stable == wanted.number and candidate is None):
        return False
    if stable == wanted.number or not _finds_no_room(draft, spec):
        waits = stable != wanted.number and _outlasts_edits(draft)
        draft.dry_run_message = dry_run.describe_rollout(draft, spec, stable, wanted.number, waits=waits)
    return True


def _outlasts_edits(draft: PlanContext) -> bool:
    """Whether what is under way may end before what the spec stands for begins. Without a plan nothing has begun."""
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    under_way = draft.progress is not None and draft.progress.plan.strategy != state_machine.RECREATE
    return policy == "queue" and under_way and not draft.is_fast_rollback


def _waits_for_room(draft: PlanContext) -> bool:
    """Whether what the spec stands for begins only once the replicas of all but stable are gone, or of some of very many."""
    if len(draft.status.retiring) >= MAX_DRAINING and not draft.is_fast_rollback:
        return True
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    drains = draft.status.stable is not None and bool(draft.status.retiring)
    return policy == "restart" and drains and not draft.held and not draft.is_fast_rollback


def _return_to_stable(draft: PlanContext) -> None:
    """The spec stands for what serves already: a candidate is not wanted any more, and an earlier failure is history."""
    last = draft.status.last_rollout
    if draft.status.candidate is not None:
        drop_candidate(draft, "Superseded", "the spec is back at the stable revision")
    else:
        draft.set(held_back=(), last_rollout=None if held_back_revisions.is_failed_rollout(last) else last)


def abort_candidate(draft: PlanContext, why: str) -> None:
    """Let a candidate without steps go. Who calls a rollback off keeps the revision that serves, if the spec stands for it."""
    candidate, wanted = draft.status.candidate, draft.wanted
    was_rollback = candidate is not None and _is_rollback(draft, candidate)
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
        stopped = state_machine.stop(draft.progress, outcome, why, draft.now)
        draft.commit_rollout(stopped)
        if not state_machine.is_over(stopped):
            return
        outcome, why = _ended(stopped)
    draft.rollout = None
    if candidate is not None:
        end_candidate(draft, candidate.revision, outcome, why, draft.status.experiment)


def hold_back(draft: PlanContext, reason: str) -> None:
    """Do not roll out what the spec stands for before it is retried, or was at what is stable."""
    number = draft.wanted.number if draft.wanted else draft.stable_number
    if number is not None:
        last = _last(draft, number, "RolledBack", reason, "")
        draft.set(held_back=held_back_revisions.add_hold(draft.status.held_back, last), last_rollout=last)


def start_rollback(draft: PlanContext, target: int) -> None:
    """Bring an earlier revision up for all traffic at once."""
    _become_candidate(draft, target, draft.replicas, brought_back=True)


def _become_candidate(
    draft: PlanContext, number: int, replicas: int, shared: PlanInPlace | None = None, *, brought_back: bool = False
) -> None:
    """A candidate of another image has another RayCluster: the status then names each revision's own.

    With it the status says where its replicas come from, until its plan does.
    """
    place = desired_state.clusters_by_revision(draft.status).get(number) or choose_cluster(draft, number)
    if place != draft.status.cluster:
        _name_clusters(draft)
    candidate = make_revision_status(draft, number, replicas)
    draft.set(
        capacity=candidate_placement.make_capacity_status(draft.status.capacity, shared, draft.replicas),
        cluster=place,
        candidate=candidate.model_copy(update={"brought_back": brought_back}),
        retiring=tuple(r for r in draft.status.retiring if r.revision != number),
        kept=tuple(r for r in draft.status.kept if r.revision != number),
    )


def _name_clusters(draft: PlanContext) -> None:
    """Write down where every revision is, before `status.cluster`, which an empty one stands for, means another."""
    before = draft.status.cluster
    stable, retiring = draft.status.stable, draft.status.retiring
    draft.set(
        stable=stable and stable.model_copy(update={"cluster": stable.cluster or before}),
        retiring=tuple(r.model_copy(update={"cluster": r.cluster or before}) for r in retiring),
    )


def _own_cluster(draft: PlanContext, number: int) -> str:
    """A revision's RayCluster as its status names it: empty where it is the newest one's."""
    place = desired_state.clusters_by_revision(draft.status).get(number, draft.status.cluster)
    return "" if place == draft.status.cluster else place


def _start(draft: PlanContext, wanted: Revision) -> None:
    spec, stable = draft.spec, draft.status.stable
    if spec is None or (stable is not None and draft.held):
        return
    if stable is not None and _finds_no_room(draft, spec):
        # What is only kept gives way: its room is found at the next looks.
        draft.set(kept=())
        return
    replicas = _first_replicas(draft, spec) if stable else draft.replicas
    _become_candidate(draft, wanted.number, replicas, draft.shared)


def _finds_no_room(draft: PlanContext, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate's pods would find no place: beside what runs, or in the place of stable's."""
    place = candidate_placement.find_placement(draft, spec)
    draft.capacity_shortage, draft.shared = place.short, place.shared
    return not place.fits


def _first_replicas(draft: PlanContext, spec: ModelDeploymentSpec) -> int:
    if draft.shared is not None:
        return 1
    if spec.rollout.strategy not in STEPPED_STRATEGIES or draft.is_fast_rollback:
        return draft.replicas
    return replica_counts.step_replicas(freeze.plan_steps(spec.rollout)[0], draft.replicas)


def ensure_rollout_experiment(draft: PlanContext) -> None:
    """Give a candidate with steps its Experiment, and whatever others are to be told of; and the Experiment its frozen plan."""
    candidate, stable, spec, wanted = draft.status.candidate, draft.stable_number, draft.spec, draft.wanted
    if candidate is None or stable is None or spec is None or wanted is None:
        return
    # What a command brings back has no steps, also where the spec has come to stand for it meanwhile.
    recorded = spec.rollout.strategy in STEPPED_STRATEGIES or bool(spec.rollout.notify)
    stepless = candidate.revision != wanted.number or _is_rollback(draft, candidate)
    if stepless or (not recorded and draft.rollout is None):
        return
    if draft.rollout is None:
        draft.rollout = _attempt(draft, wanted)
    # What ends the rollout before is written first: of one pass no second commit is.
    if draft.rollout is not None and draft.progress is None and draft.commit is None:
        draft.commit_rollout(_frozen(draft, spec, stable, candidate.revision))


def _frozen(draft: PlanContext, spec: ModelDeploymentSpec, stable: int, candidate: int) -> ExperimentStatus:
    if spec.rollout.strategy == state_machine.RECREATE and not draft.is_fast_rollback:
        why = f"replaces revision {stable} at once, as strategy recreate has it"
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, draft.now, why, state_machine.RECREATE)
    shared = draft.in_place
    if draft.is_fast_rollback:
        why = rollback_window.fast_rollback_reason(candidate)
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, draft.now, why, shared=shared)
    return freeze.freeze(spec.rollout, stable, candidate, draft.now, draft.traffic_of(stable), draft.replicas, shared)


def _attempt(draft: PlanContext, wanted: Revision) -> RolloutAttempt | None:
    mine = [rollout for rollout in draft.seen.rollouts if rollout.revision == wanted.number]
    open_one = next((rollout for rollout in mine if not state_machine.is_over(rollout.status)), None)
    if open_one is not None:
        draft.set(experiment=open_one.name)
        return open_one
    number = 1
    while (name := names.rollout_experiment(draft.service, wanted.number, number)) in draft.seen.experiment_names:
        number += 1
    draft.objects_to_create.append(freeze.make_experiment(draft.seen.deployment, wanted, name))
    draft.set(experiment=name)
    draft.events.append(events.rollout_started(name, wanted.number, draft.stable_number or 0))
    return None


def promote_without_steps(draft: PlanContext) -> None:
    """Make a candidate without an Experiment stable once it can carry all traffic: a first revision, `recreate`, or a rollback."""
    candidate, stable = draft.status.candidate, draft.status.stable
    if candidate is None or draft.status.experiment:
        return
    if stable is not None and (failure := find_failure(draft, candidate)):
        end_candidate(draft, candidate.revision, "Aborted", ": ".join(failure))
        return
    # A first revision is no rollout: there is nothing to hold it back for.
    held = draft.held and not _is_rollback(draft, candidate)
    if stable is not None and (held or window_opening_for(draft, candidate) is not None):
        return
    readiness = draft.readiness(candidate.revision)
    enough = readiness.ready and readiness.running >= draft.replicas
    # Before the first revision serves there is no arm whose replicas the edges could follow.
    if enough and (stable is None or draft.available(candidate.revision) >= draft.replicas):
        promote_revision(draft, candidate.revision)


def window_opening_for(draft: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """When a candidate without steps may be switched to by the windows of the spec; None where it need not wait for one."""
    if draft.status.stable is None or draft.is_fast_rollback or _is_rollback(draft, candidate):
        return None
    return draft.opens_at


def _is_rollback(draft: PlanContext, candidate: RevisionStatus) -> bool:
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


def retry_candidate(draft: PlanContext) -> None:
    """Take a candidate that cannot start out of the cluster, and put it back later where that can help."""
    candidate = draft.status.candidate
    if candidate is None:
        return
    if not _has_traffic(draft):
        draft.set(candidate=apply_retry_backoff(draft, candidate))
    elif candidate.retry_at is not None:
        # What serves is in the cluster, whatever a status from before says.
        draft.set(candidate=candidate.model_copy(update={"retry_at": None}))


def apply_retry_backoff(draft: PlanContext, starting: AnyRevision) -> AnyRevision:
    """A revision without traffic, out of the cluster for a while where it failed and another attempt can help."""
    readiness = draft.readiness(starting.revision)
    if starting.retry_at is not None:
        back = draft.now >= starting.retry_at and readiness.known and not _is_deployed(draft, starting.revision)
        return starting.model_copy(update={"retry_at": None}) if back else starting
    if not readiness.failed:
        return starting
    failures = starting.failures + 1
    # What cannot be retried is found failed again at every pass; Stalled says since the first one.
    told = next((c for c in draft.before.conditions if c.type == "Stalled"), None)
    if readiness.retryable or told is None or told.reason != readiness.reason:
        draft.events.append(events.revision_failed(starting.revision, readiness.reason, readiness.message, failures))
    if not readiness.retryable:
        return starting
    return starting.model_copy(update={"failures": failures, "retry_at": draft.now + _delay(failures - 1)})


def _is_deployed(draft: PlanContext, number: int) -> bool:
    """Whether Serve has a revision still. Before it has forgotten it, another attempt would be the same one: also of what only hangs."""
    return names.application(draft.service, number) in draft.serve_state_of(number).applications


def retry_stable(draft: PlanContext) -> None:
    """Start a stable revision anew that could not come back, after a restart of its cluster, say.

    It stays in the cluster: another attempt number makes Serve build it again.
    """
    stable = draft.status.stable
    if stable is None:
        return
    readiness = draft.readiness(stable.revision)
    dead = readiness.failed and not readiness.running
    if not dead and stable.retry_at is not None and readiness.known:
        draft.set(stable=stable.model_copy(update={"retry_at": None}))
    elif dead and stable.retry_at is None:
        draft.events.append(
            events.revision_failed(stable.revision, readiness.reason, readiness.message, stable.failures + 1)
        )
        draft.set(stable=stable.model_copy(update={"retry_at": draft.now + _delay(stable.failures)}))
    elif dead and stable.retry_at is not None and draft.now >= stable.retry_at:
        draft.set(stable=stable.model_copy(update={"failures": stable.failures + 1, "retry_at": None}))


def _delay(failures: int) -> timedelta:
    return timedelta(seconds=min(RETRY_BASE_S * 2.0 ** min(failures, 10), RETRY_MAX_S))


def _has_traffic(draft: PlanContext) -> bool:
    return draft.progress is not None and state_machine.has_traffic(draft.progress)


def find_failure(draft: PlanContext, candidate: RevisionStatus) -> tuple[str, str] | None:
    """Why a rollout must stop now, as (reason, message); None while it may go on."""
    readiness = draft.readiness(candidate.revision)
    if readiness.failed and (not readiness.retryable or _has_traffic(draft)):
        return readiness.reason, readiness.message
    if is_unavailable(draft, candidate):
        failing = _unready(draft)
        why = f": {failing.message}" if failing is not None else ""
        return "CandidateUnavailable", f"no healthy replica for {UNAVAILABLE_GRACE.total_seconds():g} s{why}"
    late = find_late_reason(draft, candidate)
    return (state_machine.DEADLINE_EXCEEDED, f"{describe_deadline(draft)}: {late}") if late and _ends(draft) else None


def _ends(draft: PlanContext) -> bool:
    """Whether a rollout whose candidate is late ends with that: one that has not begun waits where it is paused."""
    told = draft.progress
    waits = told is not None and told.paused is not None and told.phase != state_machine.RUNNING
    return not waits and not is_retried_after_deadline(draft)


def find_late_reason(draft: PlanContext, candidate: RevisionStatus) -> str:
    """Why a candidate without traffic, or what a step asks for, is not ready although its time is over; else empty."""
    if short := _short_for_long(draft, candidate):
        return short
    ready = draft.available(candidate.revision) >= candidate.replicas
    if _has_traffic(draft) or ready or draft.held or not has_exceeded_deadline(draft, candidate):
        return ""
    failing = _unready(draft)
    return failing.message if failing is not None else "its replicas are not all there"


def _short_for_long(draft: PlanContext, candidate: RevisionStatus) -> str:
    """Which replicas a step of a rollout that has begun lacks although its time is over; empty where it lacks none, or may wait."""
    progress, spec = draft.progress, draft.spec
    step = progress.step if progress is not None else None
    if progress is None or spec is None or step is None or step.short_since is None or draft.held:
        return ""
    needed = state_machine.replicas_waited_for(progress, draft.replicas, draft.available(candidate.revision))
    counted = () if state_machine.is_fast_rollback(progress) else spec.rollout.windows
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
        draft.set(candidate=track_lost_since(draft, _held(draft, candidate), begun=_has_traffic(draft)))


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
        edge_split.reported_replicas(draft.service, number, draft.seen.edges)
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
        draft.progress is not None and state_machine.is_fast_rollback(draft.progress),
    )
    counted = () if draft.status.stable is None or returning_now else rollout.windows
    resumed = (candidate.resumed_at, draft.progress.resumed_at if draft.progress is not None else None)
    begun = max(begun, *(each or EARLIEST_TIME for each in resumed))
    return windows.has_lasted(counted, begun, draft.now, rollout.progress_deadline)


def _not_ready_since(draft: PlanContext, candidate: RevisionStatus) -> datetime | None:
    """From when a candidate's time to become ready counts: where it was ready before, from when it stopped to be so, as far as is told."""
    if draft.progress is None or draft.progress.phase != state_machine.RUNNING:
        return candidate.since or draft.now
    failing = _unready(draft)
    return failing.last_transition_time if failing is not None else None


def release_drained_revisions(draft: PlanContext) -> None:
    """Forget revisions that no edge sends anything to any more, and whose last requests had their time."""
    if draft.commit is not None or draft.experiment_statuses:
        return
    if not draft.status.retiring:
        # A candidate that ended while it waited for its next attempt had nothing to drain.
        _come_home(draft)
        return
    split = draft.split()
    if split is None:
        draft.set(retiring=())  # nothing ever had traffic
        return
    if not edge_split.confirm(draft.service, split, draft.seen.edges).confirmed:
        return
    drained = tuple(retiring for retiring in draft.status.retiring if _is_drained(draft, retiring))
    warm_revisions.retain_drained(draft, drained)
    draft.set(retiring=tuple(retiring for retiring in draft.status.retiring if retiring not in drained))
    _come_home(draft)


def _come_home(draft: PlanContext) -> None:
    """Stable's RayCluster is the service's again once a candidate of another one is gone: that one may then go.

    Arms name no RayCluster where theirs is the service's, which then must not become another.
    """
    status, stable = draft.status, draft.status.stable
    is_alone = status.candidate is None and not status.retiring and not status.arms
    if stable is not None and stable.cluster and is_alone:
        draft.set(cluster=stable.cluster, stable=stable.model_copy(update={"cluster": ""}))


def _is_drained(draft: PlanContext, retiring: DrainingRevision) -> bool:
    deadline = timedelta(seconds=evaluation.request_deadline_s(draft.seen.split))
    idle = edge_split.count_in_flight(draft.service, retiring.revision, draft.seen.edges) == 0
    waited = draft.now - retiring.since
    return waited >= DRAIN_GRACE and (idle or waited >= deadline + DRAIN_GRACE)
