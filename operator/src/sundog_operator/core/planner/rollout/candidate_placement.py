"""Placement of a candidate's replicas: beside stable's, or in their place. Chosen at its start, and kept."""

from dataclasses import dataclass

from sundog_operator.api import (
    CAPACITY_IN_PLACE,
    CapacityStatus,
    ModelDeploymentSpec,
    PlanInPlace,
    RevisionStatus,
    find_in_place_conflict,
)
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import accelerators, capacity, pod_problems, pod_requests
from sundog_operator.core.kubernetes.shared_pods import is_shared
from sundog_operator.core.planner import shared_capacity
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.trial.rollout import in_place, state
from sundog_operator.core.trial.rollout.in_place import ArmReplicas

MIN_REPLICAS_IN_PLACE = 2
"""Minimum of replicas in place: stable keeps one while the candidate's first one starts."""


@dataclass(frozen=True, slots=True)
class CandidatePlacement:
    """The placement of a candidate.

    Attributes:
        fits: whether the candidate may start.
        short: the resources that it lacks, or None. It may start nevertheless if new nodes can provide them.
        shared: how it shares stable's replicas; None if it gets its own.
    """

    fits: bool
    short: Cause | None = None
    shared: PlanInPlace | None = None


def find_placement(context: PlanContext, spec: ModelDeploymentSpec) -> CandidatePlacement:
    """Return the placement of a candidate with all the replicas that it needs for all traffic."""
    policy, devices = spec.rollout.capacity, accelerators.replica_devices(spec.resources.gpu)
    beside = _find_shortage_beside(context, spec)
    fits_beside = not capacity.is_blocking(beside, context.observed.installation, has_devices=devices is not None)
    if policy == "surge" or (policy == "auto" and fits_beside):
        return CandidatePlacement(fits_beside, beside)
    if why := _find_in_place_problem(context, spec):
        # With `auto`, the message is about capacity beside stable.
        is_in_place = policy == CAPACITY_IN_PLACE
        return CandidatePlacement(False, Cause(DeploymentReason.INSUFFICIENT_CAPACITY, why) if is_in_place else beside)
    available = context.observed.available
    is_free = (
        devices is not None
        and available is not None
        and available.on_nodes is not None
        and find_shortage_of_replicas(context, spec, 1) is None
    )
    spare = 1 if is_free else 0
    return CandidatePlacement(True, shared=PlanInPlace(spare=spare))


def can_fit_without_arms(context: PlanContext, spec: ModelDeploymentSpec) -> bool:
    """Whether a candidate that does not fit would fit beside stable with the resources of an Experiment's arms, as far as known."""
    devices, available = accelerators.replica_devices(spec.resources.gpu), context.observed.available
    if available is None or spec.rollout.capacity == CAPACITY_IN_PLACE:
        return False
    arms = [arm.revision for arm in context.status.arms or ()]
    if is_shared(spec):
        return shared_capacity.find_shortage(context, spec, context.replicas, freed=arms) is None
    pods = [pod for arm in arms for pod in context.pods_of(arm)]
    more = capacity.add_freed_pods(available, devices, pods)
    needed = accelerators.count_pods(spec.resources.gpu, context.replicas)
    short = capacity.find_shortage(devices, needed, more, spec.resources.gpu)
    return not capacity.is_blocking(short, context.observed.installation, has_devices=devices is not None)


def find_shortage_of_replicas(context: PlanContext, spec: ModelDeploymentSpec, replicas: int) -> Cause | None:
    """Return the shortage if so many more replicas do not fit; None if they do, or if capacity is unknown."""
    if is_shared(spec):
        return shared_capacity.find_shortage(context, spec, replicas)
    return find_shortage(context, spec, accelerators.count_pods(spec.resources.gpu, replicas))


def find_shortage(
    context: PlanContext, spec: ModelDeploymentSpec, pods: int, *, created: int = 0, lacking: int = 0
) -> Cause | None:
    """Return the shortage if so many more pods do not fit; None if they do, or if capacity is unknown.

    `created` and `lacking` are those of `capacity.find_shortage`.
    """
    available = context.observed.available
    if available is None:
        return None
    gpu = spec.resources.gpu
    return capacity.find_shortage(
        accelerators.replica_devices(gpu), pods, available, gpu, created=created, lacking=lacking
    )


def _find_shortage_beside(context: PlanContext, spec: ModelDeploymentSpec) -> Cause | None:
    """Return the shortage if all of a candidate's pods do not fit beside stable's, those included that stable lacks."""
    if is_shared(spec):
        return shared_capacity.find_shortage(context, spec, context.replicas)
    more, waiting, lacking = count_pods_beside(context, spec)
    return find_shortage(context, spec, more, created=waiting, lacking=lacking)


def count_pods_beside(context: PlanContext, spec: ModelDeploymentSpec) -> tuple[int, int, int]:
    """Return how many pods need a node for a candidate beside stable, how many of these exist, and how many stable lacks.

    Pods of shared models are not counted here.
    """
    lacking, waiting = _count_missing_equal_pods(context, spec)
    return accelerators.count_pods(spec.resources.gpu, context.replicas) + lacking, waiting, lacking


def _count_missing_equal_pods(context: PlanContext, spec: ModelDeploymentSpec) -> tuple[int, int]:
    """Return the `count_missing_pods` of stable. Only pods with the spec's needs count."""
    serving = context.status.stable
    stable = context.revision(serving.revision) if serving is not None else None
    if serving is None or stable is None:
        return 0, 0
    before = revisions.spec_of(stable)
    if is_shared(before) or (before.resources, before.scheduling) != (spec.resources, spec.scheduling):
        return 0, 0
    return count_missing_pods(context, serving)


def count_missing_pods(context: PlanContext, serving: RevisionStatus) -> tuple[int, int]:
    """Return how many pods of a serving revision have no node to stay on, and how many of these exist.

    At zero, the revision needs one replica: its next one, or that of a rollout or an Experiment.
    """
    staying = [pod for pod in context.pods_of(serving.revision) if not pod_problems.is_leaving(pod)]
    placed, waiting = pod_problems.count_placed(staying)
    missing = max(context.count_pods(serving.revision, max(serving.replicas, 1)) - placed, 0)
    return missing, min(waiting, missing)


def _find_in_place_problem(context: PlanContext, spec: ModelDeploymentSpec) -> str:
    """Return why a candidate's replicas cannot take the place of stable's; empty if they can."""
    if why := find_in_place_conflict(spec):
        return why
    if context.replicas < MIN_REPLICAS_IN_PLACE:
        return (
            f"spec.rollout.capacity: inPlace needs at least {MIN_REPLICAS_IN_PLACE} replicas, found {context.replicas}: stable keeps one"
            " while the candidate's starts. Raise spec.replicas, or set capacity: surge"
        )
    stable = context.revision(context.stable_number or 0)
    if stable is None:
        return ""
    before = revisions.spec_of(stable)
    if accelerators.replica_devices(spec.resources.gpu) is None:
        return _find_larger_pods(spec, before, stable.number) if spec.rollout.capacity == "auto" else ""
    if (before.resources.gpu, before.scheduling) == (spec.resources.gpu, spec.scheduling):
        return ""
    return (
        f"spec.rollout.capacity: replicas of revision {stable.number} have other accelerators or nodes than the new ones need, and"
        " cannot free capacity for them. Set capacity: surge"
    )


def _find_larger_pods(spec: ModelDeploymentSpec, before: ModelDeploymentSpec, number: int) -> str:
    """Return why pods without devices cannot take the place of stable's: they need more, or other nodes. Empty if they can."""
    had, needs = (pod_requests.worker_requests(each.resources) for each in (before, spec))
    same_pods = (before.scheduling, is_shared(before)) == (spec.scheduling, is_shared(spec))
    if same_pods and all(amount <= had.get(name, 0) for name, amount in needs.items()):
        return ""
    return f"replicas of revision {number} have fewer resources or other nodes than the new ones need"


def make_capacity_status(
    before: CapacityStatus | None, shared: PlanInPlace | None, needed: int
) -> CapacityStatus | None:
    """Return `status.capacity` for a candidate of a service that needs `needed` replicas."""
    if shared is None and before is None:
        return None
    update = {
        "mode": "surge" if shared is None else CAPACITY_IN_PLACE,
        "needed_replicas": None if shared is None else needed,
        "spare_replicas": None if shared is None else shared.spare,
    }
    return (before or CapacityStatus()).model_copy(update=update)


def desired_replicas(context: PlanContext) -> ArmReplicas | None:
    """Return the desired replicas of stable and of a candidate in place; None if each has its own.

    They stay as they are until every edge has the split in force. Stable gives none away while it lacks one that its traffic
    needs. Other missing replicas may have lost their devices to the candidate, and would not start while stable wants them.
    """
    shared, stable, candidate = context.in_place, context.status.stable, context.status.candidate
    if shared is None or stable is None or candidate is None:
        return None
    if candidate.retry_at is not None:
        return ArmReplicas(context.replicas, candidate.replicas)
    before = ArmReplicas(stable.replicas, candidate.replicas)
    if not context.is_split_confirmed:
        return before
    wanted = _weighted_replicas(context, shared)
    weight = state.canary_weight(context.progress) if context.progress is not None else 0
    needed = min(before.stable, in_place.stable_replicas(context.replicas, weight))
    if wanted.stable < before.stable and context.serving(stable.revision) < needed:
        return ArmReplicas(before.stable, min(before.candidate, wanted.candidate))
    return wanted


def final_replicas(context: PlanContext) -> ArmReplicas | None:
    """Return the final replicas of both by the target weights; None if each has its own, or the candidate waits for a retry."""
    candidate = context.status.candidate
    if context.in_place is None or candidate is None or candidate.retry_at is not None:
        return None
    return _weighted_replicas(context, context.in_place)


def _weighted_replicas(context: PlanContext, shared: PlanInPlace) -> ArmReplicas:
    progress = context.progress
    if progress is None:
        return in_place.compute_replicas(context.replicas, shared.spare, 0, 0)
    stands_still = context.is_held or context.window_opens_at is not None
    return state.shared_replicas(progress, context.replicas, stands_still=stands_still)
