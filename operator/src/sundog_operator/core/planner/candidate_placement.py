"""Where a candidate's replicas come from: on top of stable's, or in the place of them. Chosen when it begins, and kept."""

from dataclasses import dataclass

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    CapacityStatus,
    ModelDeploymentSpec,
    PlanInPlace,
    find_in_place_conflict,
)
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import accelerators, capacity
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.rollout import in_place, state
from sundog_operator.core.rollout.in_place import ArmReplicas

MIN_REPLICAS_IN_PLACE = 2
"""Replicas, so that stable keeps one while the candidate's first starts."""


@dataclass(frozen=True, slots=True)
class CandidatePlacement:
    """What there is for a candidate.

    Attributes:
        fits: whether it may begin.
        short: (reason, message) of what it lacks; None for nothing. Nodes may come for what may begin all the same.
        shared: how it shares stable's replicas; None where its own come on top.
    """

    fits: bool
    short: tuple[str, str] | None = None
    shared: PlanInPlace | None = None


def find_placement(context: PlanContext, spec: ModelDeploymentSpec) -> CandidatePlacement:
    """Where a candidate beside stable would have its replicas, as many as it needs for all traffic."""
    asked, beside = spec.rollout.capacity, find_shortage(context, spec, context.replicas)
    fits_beside = not capacity.is_blocking(beside, context.observed.installation)
    if asked == "surge" or (asked == "auto" and fits_beside):
        return CandidatePlacement(fits_beside, beside)
    if why := _why_not(context, spec):
        # What `auto` lacks is room beside stable.
        return CandidatePlacement(
            False, (capacity.INSUFFICIENT_CAPACITY, why) if asked == CAPACITY_IN_PLACE else beside
        )
    asks, room = accelerators.replica_devices(spec.resources.gpu) is not None, context.observed.room
    is_free = asks and room is not None and room.on_nodes is not None and find_shortage(context, spec, 1) is None
    spare = 1 if is_free else 0
    return CandidatePlacement(True, shared=PlanInPlace(spare=spare))


def can_fit_without_arms(context: PlanContext, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate that finds no place may find one beside stable with what the arms of an Experiment have, as far as is known."""
    devices, room = accelerators.replica_devices(spec.resources.gpu), context.observed.room
    if devices is None or room is None or spec.rollout.capacity == CAPACITY_IN_PLACE:
        return False
    pods = [pod for arm in context.status.arms or () for pod in context.pods_of(arm.revision)]
    more = capacity.add_freed_devices(
        room, devices, sum(capacity.requested_devices(pod, devices.resource) for pod in pods)
    )
    short = capacity.find_shortage(devices, context.replicas, more, spec.resources.gpu.type)
    return not capacity.is_blocking(short, context.observed.installation)


def find_shortage(context: PlanContext, spec: ModelDeploymentSpec, replicas: int) -> tuple[str, str] | None:
    """(reason, message) of why so many more replicas do not fit; None where they do, or nobody could look."""
    devices, room = accelerators.replica_devices(spec.resources.gpu), context.observed.room
    if devices is None or room is None:
        return None
    return capacity.find_shortage(devices, replicas, room, spec.resources.gpu.type)


def _why_not(context: PlanContext, spec: ModelDeploymentSpec) -> str:
    """Why a candidate's replicas cannot take the place of stable's; empty where they can."""
    if why := find_in_place_conflict(spec):
        return why
    if context.replicas < MIN_REPLICAS_IN_PLACE:
        return (
            f"{context.replicas} replica serves, and in place {MIN_REPLICAS_IN_PLACE} are needed at least: stable keeps one while the"
            " candidate's starts; raise spec.replicas, or take capacity: surge"
        )
    stable = context.revision(context.stable_number or 0)
    if accelerators.replica_devices(spec.resources.gpu) is None or stable is None:
        return ""
    before = revisions.spec_of(stable)
    if (before.resources.gpu, before.scheduling) == (spec.resources.gpu, spec.scheduling):
        return ""
    return (
        f"replicas of revision {stable.number} have other accelerators, or other nodes, than the new ones ask for, and cannot"
        " make place for them; take capacity: surge"
    )


def make_capacity_status(
    before: CapacityStatus | None, shared: PlanInPlace | None, needed: int
) -> CapacityStatus | None:
    """What the status says of where a candidate's replicas come from, of a service that needs so many."""
    if shared is None and before is None:
        return None
    update = {
        "mode": "surge" if shared is None else CAPACITY_IN_PLACE,
        "needed_replicas": None if shared is None else needed,
        "spare_replicas": None if shared is None else shared.spare,
    }
    return (before or CapacityStatus()).model_copy(update=update)


def desired_replicas(context: PlanContext) -> ArmReplicas | None:
    """Replicas that stable and a candidate in place are to have; None where each has its own.

    They stay as they are until every edge has the split in force, and stable gives none away while it lacks one that its traffic needs.
    What it lacks beyond that may have lost its place to the candidate, and then does not come as long as stable wants it.
    """
    shared, stable, candidate = context.in_place, context.status.stable, context.status.candidate
    if shared is None or stable is None or candidate is None:
        return None
    if candidate.retry_at is not None:
        return ArmReplicas(context.replicas, candidate.replicas)
    before = ArmReplicas(stable.replicas, candidate.replicas)
    if not context.is_split_confirmed:
        return before
    wanted = _wanted(context, shared)
    weight = state.canary_weight(context.progress) if context.progress is not None else 0
    needed = min(before.stable, in_place.stable_replicas(context.replicas, weight))
    if wanted.stable < before.stable and context.serving(stable.revision) < needed:
        return ArmReplicas(before.stable, min(before.candidate, wanted.candidate))
    return wanted


def final_replicas(context: PlanContext) -> ArmReplicas | None:
    """Replicas that both come to by the weights as they are to be; None where each has its own, or the candidate is to be started anew."""
    candidate = context.status.candidate
    if context.in_place is None or candidate is None or candidate.retry_at is not None:
        return None
    return _wanted(context, context.in_place)


def _wanted(context: PlanContext, shared: PlanInPlace) -> ArmReplicas:
    progress = context.progress
    if progress is None:
        return in_place.compute_replicas(context.replicas, shared.spare, 0, 0)
    stands_still = context.is_held or context.window_opens_at is not None
    return state.shared_replicas(progress, context.replicas, stands_still=stands_still)
