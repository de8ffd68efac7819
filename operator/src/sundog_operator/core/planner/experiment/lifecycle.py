"""Walks the experiments of users with their ModelDeployment: one is brought up, runs and ends; the others wait in line.

What is decided is written into the Experiment before the ModelDeployment's status, and that before anything follows from it. So each step
takes up what an earlier pass wrote and could not carry on.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from sundog_operator.api import CONTROL, ArmRevision, ExperimentSpec, ExperimentStatus
from sundog_operator.core import events, revisions
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.events import KubernetesEvent
from sundog_operator.core.experiments import allocation, arms, freeze, state_machine
from sundog_operator.core.experiments.arms import PlannedArm
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.experiments.state_machine import ArmState
from sundog_operator.core.kubernetes import capacity, names
from sundog_operator.core.kubernetes.names import STABLE_ARMS
from sundog_operator.core.planner import candidate, desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import cleanup, evaluation
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import baseline_outage, history, replica_counts
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY
from sundog_operator.core.rollout.state_machine import STOPPED, is_over

WAITS_FOR_MODEL_DEPLOYMENT: Final = "WaitsForModelDeployment"
QUEUED: Final = "Queued"
CONTROL_LOST: Final = ("Superseded", "what it ran beside was lost, and is not stable any more")
DATA_QUALITY_GRACE: Final = timedelta(minutes=1)
"""For so long an edge may take up what it is asked for, and a store start anew."""

STOPPED_BY_USER: Final = ("StoppedByUser", "spec.stopped is true")


def sync_active_experiment(draft: PlanContext) -> None:
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
        cleanup.finish_experiment(draft, own, own.status)
    elif not state_machine.is_frozen(own.status) or (named is None and not _is_on_stable(draft, own.status)):
        cleanup.release_experiment(draft)
    else:
        draft.own = own
        _follow(draft, own)


def _is_of_rollout(draft: PlanContext) -> bool:
    return any(each.name == draft.status.experiment for each in draft.seen.rollouts)


def _lose(draft: PlanContext) -> None:
    """Somebody deleted the experiment that runs: stable gets all traffic."""
    draft.events.append(events.experiment_ended(draft.status.experiment, "", STOPPED, "Deleted: somebody deleted it"))
    cleanup.release_experiment(draft)


def _running(draft: PlanContext) -> UserExperiment | None:
    """The one that runs, where the status that named it was lost."""
    if draft.status.stable is None or draft.status.experiment or draft.status.candidate is not None:
        return None
    return next((each for each in order_waiting(draft.seen.own) if state_machine.has_begun(each.status)), None)


def _is_on_stable(draft: PlanContext, status: ExperimentStatus) -> bool:
    """Whether its control is stable: by number, and by content, for another ModelDeployment of the same name counts from 1 again."""
    stable, control = draft.revision(draft.stable_number or 0), state_machine.frozen_comparison(status).arms[0]
    is_same = stable is None or stable.hash == control.hash
    return state_machine.control_revision(status) == draft.stable_number and is_same


def _follow(draft: PlanContext, own: UserExperiment) -> None:
    """Let the status name the arms that go on, and no others."""
    going_on = {arm.name: arm.revision or 0 for arm in state_machine.active_arms(own.status)}
    known = {arm.name: arm for arm in draft.status.arms or () if going_on.get(arm.name) == arm.revision}
    cleanup.drain_arms(draft, [arm.name for arm in draft.status.arms or () if arm.name not in known])
    found = [known.get(name) or _arm(draft, name, number) for name, number in going_on.items()]
    draft.set(experiment=own.name)
    _have(draft, found)


def _have(draft: PlanContext, found: list[ArmRevision]) -> None:
    """These arms, which are then neither kept nor on their way out."""
    numbers = {arm.revision for arm in found}
    draft.set(
        arms=tuple(found),
        retiring=tuple(each for each in draft.status.retiring if each.revision not in numbers),
        kept=tuple(each for each in draft.status.kept if each.revision not in numbers),
    )


def _arm(draft: PlanContext, name: str, number: int) -> ArmRevision:
    place = desired_state.clusters_by_revision(draft.status).get(number) or candidate.choose_cluster(draft, number)
    told = candidate.make_revision_status(draft, number, 1)
    cluster = "" if place == draft.status.cluster else place
    return ArmRevision(name=name, **{**dict(told), "cluster": cluster})


def start_next_experiment(draft: PlanContext) -> None:
    """Bring up the arms of the first in line, as soon as nothing else is under way."""
    reason = _why_none_begins(draft)
    for own in order_waiting(draft.seen.own):
        if own.name in draft.experiment_statuses or (draft.own is not None and own.name == draft.own.name):
            continue
        if own.acceptance.spec is None and not state_machine.is_frozen(own.status):
            continue
        if (
            state_machine.has_begun(own.status)
            and draft.stable_number is not None
            and not _is_on_stable(draft, own.status)
        ):
            # What edges have counted under its name is of this plan: by another one it would be evidence of other revisions.
            draft.experiment_statuses[own.name] = state_machine.end_experiment(
                own.status, STOPPED, *CONTROL_LOST, draft.now
            )
            continue
        if own.acceptance.stopped:
            draft.experiment_statuses[own.name] = state_machine.end_experiment(
                own.status, STOPPED, *STOPPED_BY_USER, draft.now
            )
            continue
        waits = _why_not(draft, own) or reason
        if waits is None and (waits := _finds_no_room(draft, own)) is not None:
            # Who is younger would take the room that it waits for.
            reason = QUEUED, f"waits for Experiment {own.name}, which is older"
        if draft.own is None and waits is None and not state_machine.has_begun(own.status):
            _bring_up(draft, own)
        else:
            draft.experiment_waits[own.name] = waits or (QUEUED, f"waits for Experiment {draft.status.experiment}")


def _why_none_begins(draft: PlanContext) -> tuple[str, str] | None:
    """(reason, message) of what has to happen before any can begin; None where the next one can."""
    status, service = draft.status, f"ModelDeployment {draft.service}"
    if status.stable is None or not draft.available(status.stable.revision):
        return WAITS_FOR_MODEL_DEPLOYMENT, f"waits until {service} serves"
    if draft.spec is None:
        return WAITS_FOR_MODEL_DEPLOYMENT, f"waits until the spec of {service} is accepted"
    if draft.own is not None:
        return QUEUED, f"waits until Experiment {draft.own.name} has ended"
    if status.candidate is not None or status.queued is not None or draft.rollout is not None:
        number = status.candidate.revision if status.candidate else status.queued
        return QUEUED, f"waits until the rollout of revision {number} has ended"
    if (
        draft.capacity_shortage is not None
        and draft.wanted is not None
        and not draft.held
        and candidate.should_stop_experiments(draft.spec)
    ):
        return QUEUED, f"waits until revision {draft.wanted.number} finds room"
    if draft.spec.paused:
        return WAITS_FOR_MODEL_DEPLOYMENT, f"waits while spec.paused of {service} is true"
    if status.retiring:
        drains = ", ".join(str(each.revision) for each in status.retiring)
        return QUEUED, f"waits until the replicas of revision {drains} are gone"
    if draft.objects_to_create or draft.commit is not None or draft.experiment_statuses:
        return QUEUED, f"waits for {service}"
    return None


def _why_not(draft: PlanContext, own: UserExperiment) -> tuple[str, str] | None:
    """Why one cannot begin, whatever else is under way."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None:
        return own.acceptance.reason, own.acceptance.message
    wrong = arms.find_experiment_violations(stable, spec, draft.spec, draft.seen.installation)
    return (refusal_reason(wrong[0].message), "; ".join(map(str, wrong))) if wrong else None


def refusal_reason(message: str) -> str:
    """The reason of a refusal, by what it says."""
    unsupported = "not supported" in message or "local mode" in message
    return "NotYetSupported" if unsupported else "InvalidSpec"


def _bring_up(draft: PlanContext, own: UserExperiment) -> None:
    spec, rollout = own.acceptance.spec, draft.spec.rollout if draft.spec else None
    stable = draft.revision(draft.stable_number or 0)
    if spec is None or rollout is None or stable is None:
        return
    planned = [(arm, _revision(draft, arm)) for arm in arms.plan_arms(stable, spec)]
    known = draft.traffic_of(stable.number)
    frozen = freeze.freeze(spec, rollout, (stable.number, stable.hash), planned, known, draft.now)
    draft.own = own
    draft.experiment_statuses[own.name] = frozen.model_copy(update={"conditions": own.status.conditions})
    draft.set(experiment=own.name)
    _have(draft, [_arm(draft, arm.name, number) for arm, number in planned])
    draft.events.append(events.experiment_started(own.name, own.uid, [arm.name for arm, _ in planned], stable.number))


def _finds_no_room(draft: PlanContext, own: UserExperiment) -> tuple[str, str] | None:
    """(reason, message) of why pods of the arms would not fit beside what runs."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None or stable is None:
        return None
    shares, moves = (
        arms.planned_buckets(spec),
        allocation.freeze_allocation(spec.allocation, spec.stop.max_duration) is not None,
    )
    exposed = sum(shares.values())
    of_stable = BUCKETS - exposed + shares[CONTROL]
    replicas = {
        arm.name: replica_counts.arm_replicas(draft.replicas, exposed if moves else shares[arm.name], of_stable)
        for arm in spec.arms
    }
    rooms = {arm: room for (experiment, arm), room in draft.seen.arm_rooms.items() if experiment == own.name}
    short = arms.find_arm_shortage(stable, spec, rooms, replicas)
    return short if capacity.is_blocking(short, draft.seen.installation) else None


def _revision(draft: PlanContext, arm: PlannedArm) -> int:
    """The revision of an arm, made where there is none of its content."""
    found = revisions.find_by_hash((*draft.made, *draft.seen.revisions), arm.hash)
    if found is not None:
        return found.number
    running = set(desired_state.live_revisions(draft.status))
    taken = {*draft.seen.taken, *running, *(each.number for each in draft.made)}
    number = draft.find_deployed_number(arm.hash, running) or revisions.next_number(taken)
    made = Revision(number, arm.hash, arm.content, arm.image)
    draft.made.append(made)
    draft.objects_to_create.append(revisions.make_controller_revision(draft.seen.deployment, made))
    return number


def advance_experiment(draft: PlanContext) -> None:
    """Let the experiment under way take one step, unless this plan has decided of it already."""
    own, progress = draft.own, draft.experiment_progress
    if own is None or progress is None or own.name in draft.experiment_statuses:
        return
    if not state_machine.has_begun(progress) and _is_another(draft, own):
        # Nothing was assigned by the plan: it is made anew.
        draft.experiment_statuses[own.name] = ExperimentStatus(conditions=own.status.conditions)
        cleanup.release_experiment(draft)
        return
    begun = state_machine.has_begun(progress)
    found = [arm if begun else _started(draft, arm) for arm in draft.status.arms or ()]
    draft.set(arms=tuple(candidate.track_lost_since(draft, arm, begun=begun) for arm in found))
    counted = evaluation.evaluate_experiment(draft, own, progress)
    seen = state_machine.ExperimentInputs(
        now=draft.now,
        confirmed=draft.confirmed,
        arms={arm.name: _seen(draft, arm, progress) for arm in draft.status.arms or ()},
        end=_why_ends(draft, own, progress),
        evidence=draft.experiment_evaluation,
    )
    ticked = state_machine.tick(evaluation.report_metrics(draft, progress), seen)
    after = evaluation.report_counts(draft, own, ticked, progress, counted, moved=False)
    if after != progress or (draft.experiment_evaluation is not None and draft.has_terminating_edge(progress)):
        _write(draft, own, progress, after, counted)


def _write(
    draft: PlanContext, own: UserExperiment, before: ExperimentStatus, after: ExperimentStatus, counted: Counters | None
) -> None:
    """What was counted is written with what follows from it."""
    tallies = counted.pack() if counted is not None else before.tallies
    told = evaluation.report_counts(draft, own, after, before, counted, moved=True).model_copy(
        update={"tallies": tallies}
    )
    if told == before:
        return
    judged = draft.experiment_evaluation.metrics if draft.experiment_evaluation else told.metrics
    draft.experiment_statuses[own.name] = history.record_point(told, judged, draft.now)
    if is_over(told):
        cleanup.finish_experiment(draft, own, told)
        return
    dropped = {arm.name: arm.dropped for arm in state_machine.treatment_arms(told) if arm.dropped is not None}
    new = [name for name in dropped if any(arm.name == name for arm in draft.status.arms or ())]
    draft.events.extend(events.arm_dropped(own.name, own.uid, name, dropped[name] or "") for name in new)
    cleanup.drain_arms(draft, new)
    if state_machine.has_won(told) and not state_machine.has_won(before):
        draft.events.append(events.arm_won(own.name, own.uid, told.verdict.reason))
    if state_machine.has_begun(told) and not state_machine.has_begun(before):
        draft.events.append(events.experiment_running(own.name, own.uid, told.epoch.number, _shares(told)))
    draft.events.extend(_moves(own, before, told))


def _shares(status: ExperimentStatus) -> str:
    return ", ".join(f"{arm.name} {arm.weight} %" for arm in status.arms if arm.name != names.STABLE)


def _moves(own: UserExperiment, before: ExperimentStatus, after: ExperimentStatus) -> Iterator[KubernetesEvent]:
    """What it does by itself with its weights, and while control is no measure."""
    if state_machine.has_begun(before) and _layout(before) != _layout(after) and _going_on(before) == _going_on(after):
        yield events.weights_moved(own.name, own.uid, after.epoch.number, _shares(after))
    paused, was = after.paused, before.paused
    if paused is not None and paused != was and baseline_outage.is_paused_for_baseline(after):
        yield events.experiment_paused(own.name, own.uid, paused.reason, paused.message, paused.since)
    if was is not None and paused is None and baseline_outage.is_paused_for_baseline(before):
        yield events.experiment_resumed(own.name, own.uid, was.reason, was.since)


def _layout(status: ExperimentStatus) -> list[float]:
    return [arm.weight for arm in status.arms]


def _going_on(status: ExperimentStatus) -> list[str]:
    return [arm.name for arm in state_machine.active_arms(status)]


def report_data_quality(draft: PlanContext) -> None:
    """Tell of what stops the verdicts of the experiment under way, once its conditions have had it for a while.

    An outage of control is told by the pause for it.
    """
    own, progress = draft.own, draft.experiment_progress
    if own is None or progress is None or is_over(progress):
        return
    told = next((each for each in progress.conditions if each.type == "DataQuality"), None)
    if told is None or told.status != "False" or told.reason in (CONTROL_UNHEALTHY, CONTROL_DEGRADED):
        return
    if draft.now - told.last_transition_time >= DATA_QUALITY_GRACE:
        since = told.last_transition_time
        draft.events.append(events.evidence_doubted(own.name, own.uid, told.reason, told.message, since))


def _is_another(draft: PlanContext, own: UserExperiment) -> bool:
    """Whether what is about to begin is not what its spec, or stable, stands for now."""
    spec, stable = own.acceptance.spec, draft.revision(draft.stable_number or 0)
    if spec is None or stable is None or not _is_on_stable(draft, own.status) or _why_not(draft, own):
        return True
    return bool(find_plan_changes(draft, own, spec))


def find_plan_changes(draft: PlanContext, own: UserExperiment, spec: ExperimentSpec) -> str:
    """Which fields of a spec differ from the plan that was frozen."""
    stable = draft.revision(state_machine.control_revision(own.status))
    if stable is None:
        return ""
    return freeze.find_changed_fields(own.status.plan, spec, arms.plan_arms(stable, spec))


def _why_ends(draft: PlanContext, own: UserExperiment, progress: ExperimentStatus) -> tuple[str, str] | None:
    if own.acceptance.stopped:
        return STOPPED_BY_USER
    if not _is_on_stable(draft, progress):
        return (
            "Superseded",
            f"revision {draft.stable_number} is stable, and its control is revision {state_machine.control_revision(progress)}",
        )
    return None


def _started(draft: PlanContext, arm: ArmRevision) -> ArmRevision:
    """An arm that is brought up: tried again where that can help, and with what it failed of."""
    readiness = draft.readiness(arm.revision)
    problem = readiness.message if readiness.failed else arm.problem
    if readiness.ready:
        problem = None
    return candidate.apply_retry_backoff(draft, arm).model_copy(update={"problem": problem})


def _seen(draft: PlanContext, arm: ArmRevision, progress: ExperimentStatus) -> ArmState:
    return ArmState(
        available=draft.available(arm.revision),
        wanted=wanted_replicas(draft, progress, arm.name),
        failure=_failure(draft, arm, begun=state_machine.has_begun(progress)),
    )


def _failure(draft: PlanContext, arm: ArmRevision, *, begun: bool) -> tuple[str, str] | None:
    """Why an arm must not go on, as (reason, message)."""
    readiness, revision = draft.readiness(arm.revision), f"revision {arm.revision}"
    if readiness.failed and (begun or not readiness.retryable):
        return readiness.reason, f"{revision}: {readiness.message}"
    if begun:
        told = f"{revision} had no healthy replica for {candidate.UNAVAILABLE_GRACE.total_seconds():g} s, while {names.STABLE} had"
        return (state_machine.ARM_UNAVAILABLE, told) if candidate.is_unavailable(draft, arm) else None
    limit = draft.spec.rollout.progress_deadline if draft.spec is not None else None
    if limit is None or draft.now - (arm.since or draft.now) < limit:
        return None
    return (
        "ProgressDeadlineExceeded",
        f"{revision}: {candidate.describe_deadline(draft)}: {describe_pending_reason(draft, arm)}",
    )


def describe_pending_reason(draft: PlanContext, arm: ArmRevision) -> str:
    """What keeps an arm from being ready, in one line."""
    if (found := find_pending_reason(draft, arm.revision)) is not None:
        return found[1]
    readiness = draft.readiness(arm.revision)
    return arm.problem or f"revision {arm.revision}: {readiness.message}"


def wanted_replicas(draft: PlanContext, progress: ExperimentStatus, arm: str) -> int:
    """Replicas that an arm needs for its share of the traffic."""
    shares, most = state_machine.target_buckets(progress), state_machine.max_target_buckets(progress, arm)
    of_stable = sum(shares[name] for name in STABLE_ARMS)
    return replica_counts.arm_replicas(draft.replicas, most, of_stable)


def update_arm_fields(draft: PlanContext) -> float:
    """Fill in weights and replicas of the arms; gives the percent of the traffic that is theirs."""
    progress = draft.experiment_progress
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
