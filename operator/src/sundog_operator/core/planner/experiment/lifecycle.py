"""Walks the experiments of users with their ModelDeployment: one is brought up, runs and ends; the others wait in line.

What is decided is written into the Experiment before the ModelDeployment's status, and that before anything follows from it. So each step
takes up what an earlier pass wrote and could not carry on.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sundog_operator.api import CONTROL, ArmRevision, ExperimentSpec, ExperimentStatus
from sundog_operator.core import events, revisions
from sundog_operator.core.analysis.baseline_health import DEGRADED, UNHEALTHY
from sundog_operator.core.analysis.counters import Tallies
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.events import Event
from sundog_operator.core.experiments import allocation, arms, freeze, machine
from sundog_operator.core.experiments.arms import PlannedArm
from sundog_operator.core.experiments.machine import ArmSeen
from sundog_operator.core.experiments.queue import OwnExperiment, in_line
from sundog_operator.core.kubernetes import capacity, names
from sundog_operator.core.kubernetes.names import OF_STABLE
from sundog_operator.core.planner import candidate, desired_state
from sundog_operator.core.planner.context import Draft
from sundog_operator.core.planner.experiment import cleanup, evaluation
from sundog_operator.core.planner.problems.pending_pods import hindered
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import baseline_outage, history, load
from sundog_operator.core.rollout.machine import STOPPED, is_over

WAITS: Final = "WaitsForModelDeployment"
QUEUED: Final = "Queued"
LOST: Final = ("Superseded", "what it ran beside was lost, and is not stable any more")
DOUBTED_AFTER: Final = timedelta(minutes=1)
"""For so long an edge may take up what it is asked for, and a store start anew."""

STOPPED_BY_USER: Final = ("StoppedByUser", "spec.stopped is true")


def settle(draft: Draft) -> None:
    """Take up the experiment that the status names, or one that says it runs; carry over what it has decided already."""
    named = next((each for each in draft.seen.own if each.name == draft.status.experiment), None)
    if named is None and (draft.status.arms or _is_of_rollout(draft)):
        if not _is_of_rollout(draft):
            _lose(draft)
        return
    own = named or _running(draft)
    if own is None:
        return
    if is_over(own.status):
        cleanup.close(draft, own, own.status)
    elif not machine.is_frozen(own.status) or (named is None and not _is_on_stable(draft, own.status)):
        cleanup.let_go(draft)
    else:
        draft.own = own
        _follow(draft, own)


def _is_of_rollout(draft: Draft) -> bool:
    return any(each.name == draft.status.experiment for each in draft.seen.rollouts)


def _lose(draft: Draft) -> None:
    """Somebody deleted the experiment that runs: stable gets all traffic."""
    draft.events.append(events.experiment_ended(draft.status.experiment, "", STOPPED, "Deleted: somebody deleted it"))
    cleanup.let_go(draft)


def _running(draft: Draft) -> OwnExperiment | None:
    """The one that runs, where the status that named it was lost."""
    if draft.status.stable is None or draft.status.experiment or draft.status.candidate is not None:
        return None
    return next((each for each in in_line(draft.seen.own) if machine.has_begun(each.status)), None)


def _is_on_stable(draft: Draft, status: ExperimentStatus) -> bool:
    """Whether its control is stable: by number, and by content, for another ModelDeployment of the same name counts from 1 again."""
    stable, control = draft.revision(draft.stable_number or 0), machine.comparison(status).arms[0]
    is_same = stable is None or stable.hash == control.hash
    return machine.control_revision(status) == draft.stable_number and is_same


def _follow(draft: Draft, own: OwnExperiment) -> None:
    """Let the status name the arms that go on, and no others."""
    going_on = {arm.name: arm.revision or 0 for arm in machine.going_on(own.status)}
    known = {arm.name: arm for arm in draft.status.arms or () if going_on.get(arm.name) == arm.revision}
    cleanup.drop(draft, [arm.name for arm in draft.status.arms or () if arm.name not in known])
    found = [known.get(name) or _arm(draft, name, number) for name, number in going_on.items()]
    draft.set(experiment=own.name)
    _have(draft, found)


def _have(draft: Draft, found: list[ArmRevision]) -> None:
    """These arms, which are then neither kept nor on their way out."""
    numbers = {arm.revision for arm in found}
    draft.set(
        arms=tuple(found),
        retiring=tuple(each for each in draft.status.retiring if each.revision not in numbers),
        kept=tuple(each for each in draft.status.kept if each.revision not in numbers),
    )


def _arm(draft: Draft, name: str, number: int) -> ArmRevision:
    place = desired_state.places(draft.status).get(number) or candidate.cluster_for(draft, number)
    told = candidate.revision_status(draft, number, 1)
    cluster = "" if place == draft.status.cluster else place
    return ArmRevision(name=name, **{**dict(told), "cluster": cluster})


def begin(draft: Draft) -> None:
    """Bring up the arms of the first in line, as soon as nothing else is under way."""
    reason = _why_none_begins(draft)
    for own in in_line(draft.seen.own):
        if own.name in draft.own_statuses or (draft.own is not None and own.name == draft.own.name):
            continue
        if own.acceptance.spec is None and not machine.is_frozen(own.status):
            continue
        if machine.has_begun(own.status) and draft.stable_number is not None and not _is_on_stable(draft, own.status):
            # What edges have counted under its name is of this plan: by another one it would be evidence of other revisions.
            draft.own_statuses[own.name] = machine.end(own.status, STOPPED, *LOST, draft.now)
            continue
        if own.acceptance.stopped:
            draft.own_statuses[own.name] = machine.end(own.status, STOPPED, *STOPPED_BY_USER, draft.now)
            continue
        waits = _why_not(draft, own) or reason
        if waits is None and (waits := _finds_no_room(draft, own)) is not None:
            # Who is younger would take the room that it waits for.
            reason = QUEUED, f"waits for Experiment {own.name}, which is older"
        if draft.own is None and waits is None and not machine.has_begun(own.status):
            _bring_up(draft, own)
        else:
            draft.own_waits[own.name] = waits or (QUEUED, f"waits for Experiment {draft.status.experiment}")


def _why_none_begins(draft: Draft) -> tuple[str, str] | None:
    """(reason, message) of what has to happen before any can begin; None where the next one can."""
    status, service = draft.status, f"ModelDeployment {draft.service}"
    if status.stable is None or not draft.available(status.stable.revision):
        return WAITS, f"waits until {service} serves"
    if draft.spec is None:
        return WAITS, f"waits until the spec of {service} is accepted"
    if draft.own is not None:
        return QUEUED, f"waits until Experiment {draft.own.name} has ended"
    if status.candidate is not None or status.queued is not None or draft.rollout is not None:
        number = status.candidate.revision if status.candidate else status.queued
        return QUEUED, f"waits until the rollout of revision {number} has ended"
    if (
        draft.no_room is not None
        and draft.wanted is not None
        and not draft.held
        and candidate.ends_experiments(draft.spec)
    ):
        return QUEUED, f"waits until revision {draft.wanted.number} finds room"
    if draft.spec.paused:
        return WAITS, f"waits while spec.paused of {service} is true"
    if status.retiring:
        drains = ", ".join(str(each.revision) for each in status.retiring)
        return QUEUED, f"waits until the replicas of revision {drains} are gone"
    if draft.creates or draft.commit is not None or draft.own_statuses:
        return QUEUED, f"waits for {service}"
    return None


def _why_not(draft: Draft, own: OwnExperiment) -> tuple[str, str] | None:
    """Why one cannot begin, whatever else is under way."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None:
        return own.acceptance.reason, own.acceptance.message
    wrong = arms.refused(stable, spec, draft.spec, draft.seen.installation)
    return (refusal(wrong[0].message), "; ".join(map(str, wrong))) if wrong else None


def refusal(message: str) -> str:
    """The reason of a refusal, by what it says."""
    unsupported = "not supported" in message or "local mode" in message
    return "NotYetSupported" if unsupported else "InvalidSpec"


def _bring_up(draft: Draft, own: OwnExperiment) -> None:
    spec, rollout = own.acceptance.spec, draft.spec.rollout if draft.spec else None
    stable = draft.revision(draft.stable_number or 0)
    if spec is None or rollout is None or stable is None:
        return
    planned = [(arm, _revision(draft, arm)) for arm in arms.planned(stable, spec)]
    known = draft.traffic_of(stable.number)
    frozen = freeze.freeze(spec, rollout, (stable.number, stable.hash), planned, known, draft.now)
    draft.own = own
    draft.own_statuses[own.name] = frozen.model_copy(update={"conditions": own.status.conditions})
    draft.set(experiment=own.name)
    _have(draft, [_arm(draft, arm.name, number) for arm, number in planned])
    draft.events.append(events.experiment_started(own.name, own.uid, [arm.name for arm, _ in planned], stable.number))


def _finds_no_room(draft: Draft, own: OwnExperiment) -> tuple[str, str] | None:
    """(reason, message) of why pods of the arms would not fit beside what runs."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None or stable is None:
        return None
    shares, moves = arms.buckets_of(spec), allocation.frozen(spec.allocation, spec.stop.max_duration) is not None
    exposed = sum(shares.values())
    of_stable = BUCKETS - exposed + shares[CONTROL]
    replicas = {
        arm.name: load.arm_replicas(draft.replicas, exposed if moves else shares[arm.name], of_stable)
        for arm in spec.arms
    }
    rooms = {arm: room for (experiment, arm), room in draft.seen.arm_rooms.items() if experiment == own.name}
    short = arms.shortage(stable, spec, rooms, replicas)
    return short if capacity.holds_back(short, draft.seen.installation) else None


def _revision(draft: Draft, arm: PlannedArm) -> int:
    """The revision of an arm, made where there is none of its content."""
    found = revisions.find((*draft.made, *draft.seen.revisions), arm.hash)
    if found is not None:
        return found.number
    running = set(desired_state.live_revisions(draft.status))
    taken = {*draft.seen.taken, *running, *(each.number for each in draft.made)}
    number = draft.deployed_as(arm.hash, running) or revisions.next_number(taken)
    made = Revision(number, arm.hash, arm.content, arm.image)
    draft.made.append(made)
    draft.creates.append(revisions.make_controller_revision(draft.seen.deployment, made))
    return number


def walk(draft: Draft) -> None:
    """Let the experiment under way take one step, unless this plan has decided of it already."""
    own, progress = draft.own, draft.own_progress
    if own is None or progress is None or own.name in draft.own_statuses:
        return
    if not machine.has_begun(progress) and _is_another(draft, own):
        # Nothing was assigned by the plan: it is made anew.
        draft.own_statuses[own.name] = ExperimentStatus(conditions=own.status.conditions)
        cleanup.let_go(draft)
        return
    begun = machine.has_begun(progress)
    found = [arm if begun else _started(draft, arm) for arm in draft.status.arms or ()]
    draft.set(arms=tuple(candidate.watched(draft, arm, begun=begun) for arm in found))
    counted = evaluation.weigh(draft, own, progress)
    seen = machine.Inputs(
        now=draft.now,
        confirmed=draft.confirmed,
        arms={arm.name: _seen(draft, arm, progress) for arm in draft.status.arms or ()},
        end=_why_ends(draft, own, progress),
        evidence=draft.own_judgement,
    )
    ticked = machine.tick(evaluation.tell(draft, progress), seen)
    after = evaluation.count(draft, own, ticked, progress, counted, moved=False)
    if after != progress or (draft.own_judgement is not None and draft.edge_leaves(progress)):
        _write(draft, own, progress, after, counted)


def _write(
    draft: Draft, own: OwnExperiment, before: ExperimentStatus, after: ExperimentStatus, counted: Tallies | None
) -> None:
    """What was counted is written with what follows from it."""
    tallies = counted.pack() if counted is not None else before.tallies
    told = evaluation.count(draft, own, after, before, counted, moved=True).model_copy(update={"tallies": tallies})
    if told == before:
        return
    judged = draft.own_judgement.metrics if draft.own_judgement else told.metrics
    draft.own_statuses[own.name] = history.remember(told, judged, draft.now)
    if is_over(told):
        cleanup.close(draft, own, told)
        return
    dropped = {arm.name: arm.dropped for arm in machine.beside_control(told) if arm.dropped is not None}
    new = [name for name in dropped if any(arm.name == name for arm in draft.status.arms or ())]
    draft.events.extend(events.arm_dropped(own.name, own.uid, name, dropped[name] or "") for name in new)
    cleanup.drop(draft, new)
    if machine.has_won(told) and not machine.has_won(before):
        draft.events.append(events.arm_won(own.name, own.uid, told.verdict.reason))
    if machine.has_begun(told) and not machine.has_begun(before):
        draft.events.append(events.experiment_running(own.name, own.uid, told.epoch.number, _shares(told)))
    draft.events.extend(_moves(own, before, told))


def _shares(status: ExperimentStatus) -> str:
    return ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.name != names.STABLE)


def _moves(own: OwnExperiment, before: ExperimentStatus, after: ExperimentStatus) -> Iterator[Event]:
    """What it does by itself with its weights, and while control is no measure."""
    if machine.has_begun(before) and _layout(before) != _layout(after) and _going_on(before) == _going_on(after):
        yield events.weights_moved(own.name, own.uid, after.epoch.number, _shares(after))
    paused, was = after.paused, before.paused
    if paused is not None and paused != was and baseline_outage.is_spared(after):
        yield events.experiment_paused(own.name, own.uid, paused.reason, paused.message, paused.since)
    if was is not None and paused is None and baseline_outage.is_spared(before):
        yield events.experiment_resumed(own.name, own.uid, was.reason, was.since)


def _layout(status: ExperimentStatus) -> list[float]:
    return [arm.weight for arm in status.arms]


def _going_on(status: ExperimentStatus) -> list[str]:
    return [arm.name for arm in machine.going_on(status)]


def doubt(draft: Draft) -> None:
    """Tell of what stops the verdicts of the experiment under way, once its conditions have had it for a while.

    An outage of control is told by the pause for it.
    """
    own, progress = draft.own, draft.own_progress
    if own is None or progress is None or is_over(progress):
        return
    told = next((each for each in progress.conditions if each.type == "DataQuality"), None)
    if told is None or told.status != "False" or told.reason in (UNHEALTHY, DEGRADED):
        return
    if draft.now - told.last_transition_time >= DOUBTED_AFTER:
        since = told.last_transition_time
        draft.events.append(events.evidence_doubted(own.name, own.uid, told.reason, told.message, since))


def _is_another(draft: Draft, own: OwnExperiment) -> bool:
    """Whether what is about to begin is not what its spec, or stable, stands for now."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None or stable is None or not _is_on_stable(draft, own.status) or _why_not(draft, own):
        return True
    return bool(differences(draft, own, spec))


def differences(draft: Draft, own: OwnExperiment, spec: ExperimentSpec) -> str:
    """Which fields of a spec differ from the plan that was frozen."""
    stable = draft.revision(machine.control_revision(own.status))
    if stable is None:
        return ""
    return freeze.differences(own.status.plan, spec, arms.planned(stable, spec))


def _why_ends(draft: Draft, own: OwnExperiment, progress: ExperimentStatus) -> tuple[str, str] | None:
    if own.acceptance.stopped:
        return STOPPED_BY_USER
    if not _is_on_stable(draft, progress):
        return (
            "Superseded",
            f"revision {draft.stable_number} is stable, and its control is revision {machine.control_revision(progress)}",
        )
    return None


def _started(draft: Draft, arm: ArmRevision) -> ArmRevision:
    """An arm that is brought up: tried again where that can help, and with what it failed of."""
    readiness = draft.readiness(arm.revision)
    problem = readiness.message if readiness.failed else arm.problem
    if readiness.ready:
        problem = None
    return candidate.retried(draft, arm).model_copy(update={"problem": problem})


def _seen(draft: Draft, arm: ArmRevision, progress: ExperimentStatus) -> ArmSeen:
    return ArmSeen(
        available=draft.available(arm.revision),
        wanted=wanted_replicas(draft, progress, arm.name),
        failure=_failure(draft, arm, begun=machine.has_begun(progress)),
    )


def _failure(draft: Draft, arm: ArmRevision, *, begun: bool) -> tuple[str, str] | None:
    """Why an arm must not go on, as (reason, message)."""
    readiness, revision = draft.readiness(arm.revision), f"revision {arm.revision}"
    if readiness.failed and (begun or not readiness.retryable):
        return readiness.reason, f"{revision}: {readiness.message}"
    if begun:
        told = f"{revision} had no healthy replica for {candidate.LOST_GRACE.total_seconds():g} s, while {names.STABLE} had"
        return (machine.UNAVAILABLE, told) if candidate.is_lost(draft, arm) else None
    limit = draft.spec.rollout.progress_deadline if draft.spec is not None else None
    if limit is None or draft.now - (arm.since or draft.now) < limit:
        return None
    return "ProgressDeadlineExceeded", f"{revision}: {candidate.waited_for(draft)}: {what_hinders(draft, arm)}"


def what_hinders(draft: Draft, arm: ArmRevision) -> str:
    """What keeps an arm from being ready, in one line."""
    if (found := hindered(draft, arm.revision)) is not None:
        return found[1]
    readiness = draft.readiness(arm.revision)
    return arm.problem or f"revision {arm.revision}: {readiness.message}"


def wanted_replicas(draft: Draft, progress: ExperimentStatus, arm: str) -> int:
    """Replicas that an arm needs for its share of the traffic."""
    shares, most = machine.buckets_of(progress), machine.most_buckets_of(progress, arm)
    of_stable = sum(shares[name] for name in OF_STABLE)
    return load.arm_replicas(draft.replicas, most, of_stable)


def measure(draft: Draft) -> float:
    """Fill in weights and replicas of the arms; gives the percent of the traffic that is theirs."""
    progress = draft.own_progress
    if progress is None or draft.status.arms is None:
        return 0
    weights = {arm.name: arm.weight for arm in progress.arms}
    found = []
    for arm in draft.status.arms:
        readiness = draft.readiness(arm.revision)
        update = {
            "weight": weights.get(arm.name, 0),
            "replicas": wanted_replicas(draft, progress, arm.name),
            "ready_replicas": readiness.running if readiness.known else arm.ready_replicas,
        }
        found.append(arm.model_copy(update=update))
    draft.set(arms=tuple(found))
    return sum(arm.weight for arm in found)
