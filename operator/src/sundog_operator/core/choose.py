"""Which revision is stable, which one is the candidate, and which ones may go."""

from datetime import datetime, timedelta
from typing import Final, Literal

from sundog_operator.api import (
    ExperimentStatus,
    LastRollout,
    ModelDeploymentSpec,
    Retiring,
    RevisionStatus,
)
from sundog_operator.core import (
    accelerators,
    capacity,
    events,
    keeping,
    live,
    names,
    ray_cluster,
    rehearsing,
    returning,
    revisions,
    traffic,
)
from sundog_operator.core.draft import HELD_OUTCOMES, Draft, Json, Rollout
from sundog_operator.core.live import live_revisions
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import freeze, load, machine, stable_traffic, windows

DRAIN_GRACE: Final = timedelta(seconds=5)
MOST_DRAINING: Final = 6
"""Revisions, when another candidate begins: a status has room for 8, and the candidate and stable may have to drain beside them."""

CANDIDATE_GRACE: Final = timedelta(seconds=30)
RETRY_BASE_S: Final = 10.0
RETRY_MAX_S: Final = 300.0

Outcome = Literal["Promoted", "Aborted", "RolledBack", "Superseded"]


def assign_cluster(draft: Draft) -> None:
    """Choose the first RayCluster."""
    if not draft.status.cluster and draft.wanted is not None:
        draft.set(cluster=_cluster_for(draft, draft.wanted.number))


def _cluster_for(draft: Draft, number: int) -> str:
    """The RayCluster of a revision: one that this service uses already and whose pods have its image, else one with room.

    In local mode all heads are the same, and the first one chosen is kept. Nothing is started for a service whose edge can never be ours.
    """
    if draft.seen.foreign and not draft.status.cluster:
        return ""
    revision = draft.revision(number)
    if draft.seen.installation is None or revision is None:
        return draft.status.cluster or ray_cluster.assign(draft.seen.clusters_taken)
    image = revision.image or draft.seen.image
    used = sorted(name for name in live.clusters(draft.status) if names.is_ray_cluster_of(name, image))
    return used[0] if used else ray_cluster.assign(draft.seen.clusters_taken, image)


def recover(draft: Draft) -> None:
    """Take up what serves where the status that said so was lost: the split document and the rollouts still tell.

    Without this a ModelDeployment restored from a backup would be rolled out from nothing, over what serves.
    """
    arms = {arm.get("name"): arm.get("revision") for arm in (draft.seen.split or {}).get("arms", ())}
    stable = arms.get(names.STABLE)
    if draft.status.stable is not None or not isinstance(stable, int) or draft.revision(stable) is None:
        return
    # Where its arms are told apart from it, the service's cluster is that of its newest revision.
    placed = {arm.get("revision"): str(arm.get("cluster", "")) for arm in (draft.seen.split or {}).get("arms", ())}
    cluster = draft.status.cluster or str((draft.seen.split or {}).get("cluster", ""))
    serving = _revision_status(draft, stable, draft.replicas).model_copy(update={"cluster": placed[stable]})
    draft.set(stable=serving, cluster=cluster, candidate=None)
    attempts = sorted(
        draft.seen.rollouts, key=lambda attempt: (attempt.status.plan.frozen_at or draft.now, attempt.name)
    )
    if not attempts or not machine.is_frozen(attempts[-1].status):
        return
    latest = attempts[-1]
    if not machine.is_over(latest.status):
        draft.set(experiment=latest.name, candidate=_revision_status(draft, latest.revision, draft.replicas))
    elif latest.status.phase == machine.STOPPED:
        reason, _, message = latest.status.verdict.reason.partition(": ")
        outcome = _outcome(reason)
        told = message if reason == outcome else f"{reason}: {message}"
        draft.set(last_rollout=_last(draft, latest.revision, outcome, told, latest.name))


def know_revision(draft: Draft) -> None:
    """Find the revision that the spec stands for, or make it."""
    if draft.spec is None:
        return
    content = revisions.content_of(draft.spec)
    digest = revisions.content_hash(content)
    found = revisions.find(draft.seen.revisions, digest)
    if found is None:
        live = set(live_revisions(draft.status))
        number = draft.deployed_as(digest, live) or revisions.next_number((*draft.seen.taken, *live))
        found = Revision(number, digest, content, revisions.image_of(content, draft.seen.image))
        draft.creates.append(revisions.make_controller_revision(draft.seen.deployment, found))
        draft.events.append(events.revision_created(found.number))
    draft.wanted = found


def settle(draft: Draft) -> None:
    """Carry over into the status what an Experiment has already decided."""
    name = draft.status.experiment
    attempt = next((rollout for rollout in draft.seen.rollouts if rollout.name == name), None)
    if attempt is None:
        draft.set(experiment="")
        return
    draft.rollout = attempt
    if not machine.is_over(attempt.status):
        return
    draft.rollout = None
    reason, _, message = attempt.status.verdict.reason.partition(": ")
    if attempt.status.phase == machine.CONCLUDED:
        become_stable(draft, attempt.revision, attempt.name, attempt.status.plan.reason)
    else:
        outcome = _outcome(reason)
        end_candidate(
            draft, attempt.revision, outcome, message if reason == outcome else f"{reason}: {message}", attempt.name
        )


def _outcome(reason: str) -> Outcome:
    match reason:
        case "Superseded" | "RolledBack":
            return reason
        case _:
            return "Aborted"


def become_stable(draft: Draft, number: int, experiment: str = "", reason: str = "") -> None:
    """Make a revision stable and let the previous one drain."""
    previous = draft.status.stable
    draft.set(stable_before=returning.after_switch(draft.status.stable_before, draft.stable_number, number))
    if previous is not None and previous.revision != number:
        _retire(draft, previous)
    stable = _revision_status(draft, number, draft.replicas)
    draft.set(stable=stable.model_copy(update={"cluster": _own_cluster(draft, number)}), candidate=None, experiment="")
    draft.events.append(events.promoted(number, previous.revision if previous else None))
    # A rollback by command is none of these: why it went back stays told.
    if previous is not None and (experiment or (draft.wanted is not None and draft.wanted.number == number)):
        draft.set(last_rollout=_last(draft, number, "Promoted", reason, experiment))


def end_candidate(draft: Draft, number: int, outcome: Outcome, reason: str, experiment: str = "") -> None:
    """Let a candidate go, with all traffic on stable, and remember why."""
    if draft.status.candidate is not None and draft.status.candidate.revision == number:
        _retire(draft, draft.status.candidate)
        draft.set(candidate=None)
    if outcome in HELD_OUTCOMES and _had_traffic(draft, experiment):
        draft.set(stable_before=returning.without(draft.status.stable_before, number))
    draft.set(experiment="", last_rollout=_last(draft, number, outcome, reason, experiment))
    attempt = experiment or names.application(draft.service, number)
    draft.events.append(events.rollout_ended(outcome, attempt, f"revision {number}: {reason}"))


def _had_traffic(draft: Draft, experiment: str) -> bool:
    """Whether a candidate ever got any: an epoch begins with every change of weights."""
    return any(each.name == experiment and each.status.epoch.number > 0 for each in draft.seen.rollouts)


def _last(draft: Draft, number: int, outcome: Outcome, reason: str, experiment: str) -> LastRollout:
    return LastRollout(experiment=experiment, revision=number, outcome=outcome, reason=reason[:1024], at=draft.now)


def _retire(draft: Draft, gone: RevisionStatus) -> None:
    others = tuple(r for r in draft.status.retiring if r.revision != gone.revision)
    left = Retiring(revision=gone.revision, cluster=gone.cluster, replicas=gone.replicas, since=draft.now)
    draft.set(retiring=(*others, left))


def _revision_status(draft: Draft, number: int, replicas: int) -> RevisionStatus:
    revision = draft.revision(number)
    model: Json = dict(revision.content.get("model", {})) if revision else {}
    uri, digest = str(model.get("uri", "")), str(model.get("digest", ""))
    return RevisionStatus(
        revision=number, weight=0, uri=uri, digest=digest, replicas=replicas, ready_replicas=0, since=draft.now
    )


def choose(draft: Draft) -> None:
    """Compare what the spec wants with what serves, and start, replace or drop a candidate."""
    wanted, candidate, stable = draft.wanted, draft.status.candidate, draft.status.stable
    draft.set(queued=None)
    if wanted is None or (candidate is not None and candidate.revision == wanted.number):
        return
    if draft.is_held_back(wanted.number):
        return
    if _rehearses(draft, wanted):
        return
    if stable is not None and stable.revision == wanted.number:
        _return_to_stable(draft)
        return
    if candidate is not None and _outlasts_edits(draft):
        draft.set(queued=wanted.number)
        return
    if candidate is not None:
        drop_candidate(draft, "Superseded", f"revision {wanted.number} is wanted now")
    if _waits_for_room(draft):
        draft.set(queued=wanted.number)
        return
    _start(draft, wanted)


def _rehearses(draft: Draft, wanted: Revision) -> bool:
    """Tell what would begin or end, where the spec asks for no more."""
    spec, stable, candidate = draft.spec, draft.stable_number, draft.status.candidate
    if spec is None or not spec.rollout.dry_run or stable is None or (stable == wanted.number and candidate is None):
        return False
    if stable == wanted.number or not _finds_no_room(draft, spec):
        waits = stable != wanted.number and _outlasts_edits(draft)
        draft.rehearsal = rehearsing.tell(draft, spec, stable, wanted.number, waits=waits)
    return True


def _outlasts_edits(draft: Draft) -> bool:
    """Whether what is under way may end before what the spec stands for begins. Without a plan nothing has begun."""
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    return policy == "queue" and draft.progress is not None and not draft.returns


def _waits_for_room(draft: Draft) -> bool:
    """Whether what the spec stands for begins only once the replicas of all but stable are gone, or of some of very many."""
    if len(draft.status.retiring) >= MOST_DRAINING and not draft.returns:
        return True
    policy = draft.spec.rollout.on_new_revision if draft.spec else ""
    drains = draft.status.stable is not None and bool(draft.status.retiring)
    return policy == "restart" and drains and not draft.held and not draft.returns


def _return_to_stable(draft: Draft) -> None:
    """The spec stands for what serves already: a candidate is not wanted any more, and an earlier failure is history."""
    last = draft.status.last_rollout
    if draft.status.candidate is not None:
        drop_candidate(draft, "Superseded", "the spec is back at the stable revision")
    elif last is not None and last.outcome in HELD_OUTCOMES:
        draft.set(last_rollout=None)


def drop_candidate(draft: Draft, outcome: Outcome, why: str) -> None:
    """Let the candidate go, stopping its Experiment first."""
    candidate, attempt = draft.status.candidate, draft.rollout
    if attempt is not None and draft.progress is not None:
        draft.commit_rollout(machine.stop(draft.progress, outcome, why, draft.now))
    draft.rollout = None
    if candidate is not None:
        end_candidate(draft, candidate.revision, outcome, why, draft.status.experiment)


def hold_back(draft: Draft, reason: str) -> None:
    """Do not roll out what the spec stands for until it changes or is retried."""
    number = draft.wanted.number if draft.wanted else draft.stable_number
    if number is not None:
        draft.set(last_rollout=_last(draft, number, "RolledBack", reason, ""))


def start_rollback(draft: Draft, target: int) -> None:
    """Bring an earlier revision up for all traffic at once."""
    _become_candidate(draft, target, draft.replicas)


def _become_candidate(draft: Draft, number: int, replicas: int) -> None:
    """A candidate of another image has another RayCluster: the status then names each revision's own."""
    place = live.places(draft.status).get(number) or _cluster_for(draft, number)
    if place != draft.status.cluster:
        _name_clusters(draft)
    draft.set(
        cluster=place,
        candidate=_revision_status(draft, number, replicas),
        retiring=tuple(r for r in draft.status.retiring if r.revision != number),
        kept=tuple(r for r in draft.status.kept if r.revision != number),
    )


def _name_clusters(draft: Draft) -> None:
    """Write down where every revision is, before `status.cluster`, which an empty one stands for, means another."""
    before = draft.status.cluster
    stable, retiring = draft.status.stable, draft.status.retiring
    draft.set(
        stable=stable and stable.model_copy(update={"cluster": stable.cluster or before}),
        retiring=tuple(r.model_copy(update={"cluster": r.cluster or before}) for r in retiring),
    )


def _own_cluster(draft: Draft, number: int) -> str:
    """A revision's RayCluster as its status names it: empty where it is the newest one's."""
    place = live.places(draft.status).get(number, draft.status.cluster)
    return "" if place == draft.status.cluster else place


def _start(draft: Draft, wanted: Revision) -> None:
    spec, stable = draft.spec, draft.status.stable
    if spec is None or (stable is not None and draft.held):
        return
    if stable is not None and _finds_no_room(draft, spec):
        # What is only kept gives way: its room is found at the next looks.
        draft.set(kept=())
        return
    _become_candidate(draft, wanted.number, _first_replicas(draft, spec) if stable else draft.replicas)


def _finds_no_room(draft: Draft, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate's pods, as many as it needs for all traffic, would not fit beside what runs."""
    draft.no_room = shortage_for(draft, spec, draft.replicas)
    installation = draft.seen.installation
    comes = installation is not None and installation.gpu.nodes_come
    return draft.no_room is not None and not (comes and draft.no_room[0] == capacity.INSUFFICIENT)


def shortage_for(draft: Draft, spec: ModelDeploymentSpec, replicas: int) -> tuple[str, str] | None:
    """(reason, message) of why so many more replicas do not fit; None where they do, or nobody could look."""
    devices, room = accelerators.devices_of(spec.resources.gpu), draft.seen.room
    if devices is None or room is None:
        return None
    return capacity.shortage(devices, replicas, room, spec.resources.gpu.type)


def _first_replicas(draft: Draft, spec: ModelDeploymentSpec) -> int:
    if spec.rollout.strategy != "canary" or draft.returns:
        return draft.replicas
    return load.step_replicas(freeze.plan_steps(spec.rollout)[0], draft.replicas)


def find_rollout(draft: Draft) -> None:
    """Give a canary its Experiment, and the Experiment its frozen plan."""
    candidate, stable, spec, wanted = draft.status.candidate, draft.stable_number, draft.spec, draft.wanted
    if candidate is None or stable is None or spec is None or wanted is None:
        return
    # A candidate that is not what the spec stands for is a rollback, which has no steps.
    if candidate.revision != wanted.number or (spec.rollout.strategy != "canary" and draft.rollout is None):
        return
    if draft.rollout is None:
        draft.rollout = _attempt(draft, wanted)
    # What ends the rollout before is written first: of one pass no second commit is.
    if draft.rollout is not None and draft.progress is None and draft.commit is None:
        draft.commit_rollout(_frozen(draft, spec, stable, candidate.revision))


def _frozen(draft: Draft, spec: ModelDeploymentSpec, stable: int, candidate: int) -> ExperimentStatus:
    if draft.returns:
        return freeze.freeze_without_steps(spec.rollout, stable, candidate, draft.now, returning.reason(candidate))
    traffic_seen = stable_traffic.of_attempts(
        draft.service, [names.application(draft.service, stable)], draft.seen.edges, draft.now.timestamp()
    )
    return freeze.freeze(spec.rollout, stable, candidate, draft.now, traffic_seen, draft.replicas)


def _attempt(draft: Draft, wanted: Revision) -> Rollout | None:
    mine = [rollout for rollout in draft.seen.rollouts if rollout.revision == wanted.number]
    open_one = next((rollout for rollout in mine if not machine.is_over(rollout.status)), None)
    if open_one is not None:
        draft.set(experiment=open_one.name)
        return open_one
    number = 1
    while (name := names.experiment(draft.service, wanted.number, number)) in draft.seen.experiment_names:
        number += 1
    draft.creates.append(freeze.make_experiment(draft.seen.deployment, wanted, name))
    draft.set(experiment=name)
    draft.events.append(events.rollout_started(name, wanted.number, draft.stable_number or 0))
    return None


def switch_plainly(draft: Draft) -> None:
    """Make a candidate without an Experiment stable once it can carry all traffic: a first revision, `recreate`, or a rollback."""
    candidate, stable = draft.status.candidate, draft.status.stable
    if candidate is None or draft.status.experiment:
        return
    if stable is not None and (failure := failure_of(draft, candidate)):
        end_candidate(draft, candidate.revision, "Aborted", ": ".join(failure))
        return
    # A first revision is no rollout: there is nothing to hold it back for.
    held = draft.held and not _is_rollback(draft, candidate)
    if stable is not None and (held or opening_for(draft, candidate) is not None):
        return
    readiness = draft.readiness(candidate.revision)
    enough = readiness.ready and readiness.running >= draft.replicas
    # Before the first revision serves there is no arm whose replicas the edges could follow.
    if enough and (stable is None or draft.available(candidate.revision) >= draft.replicas):
        become_stable(draft, candidate.revision)


def opening_for(draft: Draft, candidate: RevisionStatus) -> datetime | None:
    """When a candidate without steps may be switched to by the windows of the spec; None where it need not wait for one."""
    if draft.status.stable is None or draft.returns or _is_rollback(draft, candidate):
        return None
    return draft.opens_at


def _is_rollback(draft: Draft, candidate: RevisionStatus) -> bool:
    """Whether a command brought the candidate back: that outranks a spec that is paused or refused."""
    last = draft.status.last_rollout
    return (
        last is not None
        and last.outcome == "RolledBack"
        and last.at == candidate.since
        and last.revision != candidate.revision
    )


def retry_failed(draft: Draft) -> None:
    """Take a candidate that cannot start out of the cluster, and put it back later where that can help."""
    candidate = draft.status.candidate
    if candidate is None or _has_traffic(draft):
        return
    readiness = draft.readiness(candidate.revision)
    if candidate.retry_at is not None:
        if draft.now >= candidate.retry_at and readiness.known and not readiness.failed:
            draft.set(candidate=candidate.model_copy(update={"retry_at": None}))
        return
    if not readiness.failed:
        return
    failures = candidate.failures + 1
    # What cannot be retried is found failed again at every pass; Stalled says since the first one.
    told = next((c for c in draft.before.conditions if c.type == "Stalled"), None)
    if readiness.retryable or told is None or told.reason != readiness.reason:
        draft.events.append(events.revision_failed(candidate.revision, readiness.reason, readiness.message, failures))
    if readiness.retryable:
        update = {"failures": failures, "retry_at": draft.now + _delay(failures - 1)}
        draft.set(candidate=candidate.model_copy(update=update))


def retry_stable(draft: Draft) -> None:
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


def _has_traffic(draft: Draft) -> bool:
    return draft.progress is not None and machine.canary_weight(draft.progress) > 0


def failure_of(draft: Draft, candidate: RevisionStatus) -> tuple[str, str] | None:
    """Why a rollout must stop now, as (reason, message); None while it may go on."""
    readiness = draft.readiness(candidate.revision)
    if readiness.failed and (not readiness.retryable or _has_traffic(draft)):
        return readiness.reason, readiness.message
    told = next((c for c in draft.before.conditions if c.type == "RevisionReady"), None)
    failing = told if told is not None and told.status == "False" else None
    if _has_traffic(draft):
        if (
            failing is None
            or not _lost_alone(draft, candidate.revision)
            or draft.now - failing.last_transition_time < CANDIDATE_GRACE
        ):
            return None
        return (
            "CandidateUnavailable",
            f"no healthy replica for {CANDIDATE_GRACE.total_seconds():g} s: {failing.message}",
        )
    if draft.available(candidate.revision) >= candidate.replicas or draft.held:
        return None
    if is_late(draft, candidate) and (draft.progress is None or draft.progress.paused is None):
        return "ProgressDeadlineExceeded", failing.message if failing else "the candidate is not ready"
    return None


def _lost_alone(draft: Draft, candidate: int) -> bool:
    """Whether the candidate has no healthy replica while stable has: when both are gone, the cluster is to blame and not the candidate."""
    healthy = [
        traffic.healthy_replicas(draft.service, number, draft.seen.edges)
        for number in (candidate, draft.stable_number or 0)
    ]
    return healthy[0] == 0 and healthy[1] > 0


def is_late(draft: Draft, candidate: RevisionStatus) -> bool:
    """Whether a candidate without traffic took longer than the progress deadline to become ready, outside of windows left aside."""
    if draft.spec is None:
        return False
    rollout, returning_now = draft.spec.rollout, draft.progress is not None and draft.progress.plan.reason
    counted = () if draft.status.stable is None or returning_now else rollout.windows
    return windows.lasted(counted, candidate.since or draft.now, draft.now, rollout.progress_deadline)


def let_go(draft: Draft) -> None:
    """Forget revisions that no edge sends anything to any more, and whose last requests had their time."""
    if not draft.status.retiring or draft.commit is not None:
        return
    split = live.split_of(draft.service, draft.status, draft.rollout.uid if draft.rollout else "", draft.progress)
    if split is None:
        draft.set(retiring=())  # nothing ever had traffic
        return
    if not traffic.confirm(draft.service, split, draft.seen.edges).confirmed:
        return
    drained = tuple(retiring for retiring in draft.status.retiring if _is_drained(draft, retiring))
    keeping.keep(draft, drained)
    draft.set(retiring=tuple(retiring for retiring in draft.status.retiring if retiring not in drained))
    _come_home(draft)


def _come_home(draft: Draft) -> None:
    """Stable's RayCluster is the service's again once a candidate of another one is gone: that one may then go."""
    stable = draft.status.stable
    if stable is not None and stable.cluster and draft.status.candidate is None and not draft.status.retiring:
        draft.set(cluster=stable.cluster, stable=stable.model_copy(update={"cluster": ""}))


def _is_drained(draft: Draft, retiring: Retiring) -> bool:
    deadline = draft.spec.endpoint.request_timeout if draft.spec else timedelta(0)
    idle = traffic.in_flight(draft.service, retiring.revision, draft.seen.edges) == 0
    waited = draft.now - retiring.since
    return waited >= DRAIN_GRACE and (idle or waited >= deadline + DRAIN_GRACE)
