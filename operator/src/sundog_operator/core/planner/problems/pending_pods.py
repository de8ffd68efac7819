"""Reasons why pods of a revision do not run."""

from typing import Final

from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core.kubernetes import capacity, kueue, names, pod_problems, references
from sundog_operator.core.planner import desired_state, shared_capacity
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods

_NOT_STARTED: Final = frozenset(
    {DeploymentReason.UNSCHEDULABLE, DeploymentReason.IMAGE_PULL_BACK_OFF, DeploymentReason.CREATE_CONTAINER_ERROR}
)
"""Problems of a pod before anything runs in it."""

_NO_CLAIMS: Final = (
    "spec.resources.gpu.allocation: dra, and the API server does not serve ResourceClaimTemplates of resource.k8s.io/v1; expected"
    " Kubernetes 1.34 or later. Set allocation: devicePlugin"
)

_USED_UP: Final = "exceeded quota"
"""A phrase of the API server."""
_POLICY_FIX: Final = "Correct the spec, or the quota or policy that refuses them"


def find_pending_reason(context: PlanContext, number: int) -> Cause | None:
    """Return why pods of a revision, or the head or store of its RayCluster, cannot run; None if they can.

    An unscheduled pod is no problem while terminating pods free capacity for it.
    """
    if context.spec is not None and context.spec_revision is not None and context.spec_revision.number == number:
        namespace = context.observed.deployment["metadata"]["namespace"]
        missing = references.find_missing_references(
            references.find_references(context.spec), context.observed.references, namespace
        )
        if missing is not None:
            return missing._replace(message=f"revision {number}: {missing.message}")
        if not context.observed.claims_served:
            return Cause(DeploymentReason.DRA_MISSING, f"revision {number}: {_NO_CLAIMS}")
    pod_problem = pod_problems.find_pod_problem(context.pods_of(number))
    if pod_problem is not None and not (
        pod_problem.reason == DeploymentReason.UNSCHEDULABLE
        and terminating_pods.has_enough_terminating(context, number)
    ):
        return pod_problem._replace(message=f"revision {number}: {pod_problem.message}")
    if (shared := _find_shared_problem(context, number)) is not None:
        return shared._replace(message=f"revision {number}: a shared pod: {shared.message}")
    if (waiting := kueue.find_waiting_pod(context.pods_of(number))) is not None:
        wait = kueue.describe_wait(waiting, context.observed.queued.get(waiting["metadata"]["uid"], ""))
        return wait._replace(message=f"revision {number}: {wait.message}")
    # A head does not start without its store, so the store's problem is closer to the cause.
    for what, pods in (
        ("the store of Ray", context.store_pods_of(number)),
        ("the head of Ray", context.head_pods_of(number)),
    ):
        if (other := pod_problems.find_pod_problem(pods)) is not None:
            return other._replace(message=f"{what}: {other.message}")
    return _find_refusal(context, number)


def _find_shared_problem(context: PlanContext, number: int) -> Cause | None:
    """Return why no shared pod is there for replicas that lack one. A model of another may have ended a pod that is there."""
    pods = context.shared_pods_of(number)
    problems = [each for pod in pods if (each := pod_problems.find_pod_problem([pod])) is not None]
    found = [each for each in problems if each.reason in _NOT_STARTED]
    return pod_problems.most_important(found) if found and _lacks_shared_pods(context, number) else None


def _find_refusal(context: PlanContext, number: int) -> Cause | None:
    """Return the refusal if the API server rejects pods of KubeRay, such as by a quota, or the RayCluster that has them.

    A rejected RayCluster is no reason for a revision to which it would have given no pods: that one lacks them for another reason.
    """
    cluster = context.cluster_of(number)
    if cluster is None:
        return None
    group = names.SHARED_WORKERS if context.is_shared(number) else names.application(context.service, number)
    is_rejected = group in cluster.ungrown_groups
    if not (cluster.refusal or is_rejected):
        return None
    message = (
        f"revision {number}: its pods could not be added to RayCluster {cluster.name}: {cluster.rejection}"
        if is_rejected
        else f"revision {number}: KubeRay could not create its pods in RayCluster {cluster.name}: {cluster.refusal.rstrip('.')}."
        f" {capacity.QUOTA_FIX if _USED_UP in cluster.refusal else _POLICY_FIX}"
    )
    is_short = len(context.pods_of(number)) < context.count_pods(number, _count_wanted(context, number))
    is_short = is_short or (context.is_shared(number) and _lacks_shared_pods(context, number))
    return Cause(DeploymentReason.POD_REFUSED, message) if is_short else None


def _count_wanted(context: PlanContext, number: int) -> int:
    return desired_state.live_revisions(context.status).get(number, 0)


def _lacks_shared_pods(context: PlanContext, number: int) -> bool:
    is_short = context.readiness(number).running < _count_wanted(context, number)
    return is_short and not shared_capacity.fits_missing_replicas(context, number)
