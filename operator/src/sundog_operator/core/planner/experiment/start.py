"""The next experiment begins, or why it does not."""

from typing import Final

from sundog_operator.api import CONTROL, ArmRevision, ExperimentStatus
from sundog_operator.core import events, revisions
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.experiments import allocation, arms, freeze, state, transitions
from sundog_operator.core.experiments.arms import PlannedArm
from sundog_operator.core.experiments.queue import UserExperiment, order_waiting
from sundog_operator.core.kubernetes import capacity
from sundog_operator.core.planner import candidate, desired_state, outcome, recovery
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.revisions import Revision
from sundog_operator.core.rollout import replica_counts
from sundog_operator.core.rollout.state import STOPPED

WAITS_FOR_MODEL_DEPLOYMENT: Final = "WaitsForModelDeployment"
QUEUED: Final = "Queued"
CONTROL_LOST: Final = ("Superseded", "what it ran beside was lost, and is not stable any more")
STOPPED_BY_USER: Final = ("StoppedByUser", "spec.stopped is true")


def is_on_stable(draft: PlanContext, status: ExperimentStatus) -> bool:
    """Whether its control is stable: by number, and by content, for another ModelDeployment of the same name counts from 1 again."""
    stable, control = draft.revision(draft.stable_number or 0), state.frozen_comparison(status).arms[0]
    is_same = stable is None or stable.hash == control.hash
    return state.control_revision(status) == draft.stable_number and is_same


def set_arms(draft: PlanContext, found: list[ArmRevision]) -> None:
    """These arms, which are then neither kept nor on their way out."""
    numbers = {arm.revision for arm in found}
    draft.set(
        arms=tuple(found),
        retiring=tuple(each for each in draft.status.retiring if each.revision not in numbers),
        kept=tuple(each for each in draft.status.kept if each.revision not in numbers),
    )


def make_arm_revision(draft: PlanContext, name: str, number: int) -> ArmRevision:
    """The status of an arm's revision, with the RayCluster that it runs in."""
    place = desired_state.clusters_by_revision(draft.status).get(number) or recovery.choose_cluster(draft, number)
    told = outcome.make_revision_status(draft, number, 1)
    cluster = "" if place == draft.status.cluster else place
    return ArmRevision(name=name, **{**dict(told), "cluster": cluster})


def start_next_experiment(draft: PlanContext) -> None:
    """Bring up the arms of the first in line, as soon as nothing else is under way."""
    reason = _why_none_begins(draft)
    for own in order_waiting(draft.seen.own):
        if own.name in draft.experiment_statuses or (draft.own is not None and own.name == draft.own.name):
            continue
        if own.acceptance.spec is None and not state.is_frozen(own.status):
            continue
        if state.has_begun(own.status) and draft.stable_number is not None and not is_on_stable(draft, own.status):
            # What edges have counted under its name is of this plan: by another one it would be evidence of other revisions.
            draft.experiment_statuses[own.name] = transitions.end_experiment(
                own.status, STOPPED, *CONTROL_LOST, draft.now
            )
            continue
        if own.acceptance.stopped:
            draft.experiment_statuses[own.name] = transitions.end_experiment(
                own.status, STOPPED, *STOPPED_BY_USER, draft.now
            )
            continue
        waits = why_not(draft, own) or reason
        if waits is None and (waits := _finds_no_room(draft, own)) is not None:
            # Who is younger would take the room that it waits for.
            reason = QUEUED, f"waits for Experiment {own.name}, which is older"
        if draft.own is None and waits is None and not state.has_begun(own.status):
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


def why_not(draft: PlanContext, own: UserExperiment) -> tuple[str, str] | None:
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
    set_arms(draft, [make_arm_revision(draft, arm.name, number) for arm, number in planned])
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
