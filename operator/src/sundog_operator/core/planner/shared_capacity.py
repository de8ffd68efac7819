"""Capacity for replicas in pods that several models share: free parts of present pods, and pods to come. Pure."""

from collections.abc import Collection, Sequence
from typing import Any

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.reasons import Cause, DeploymentReason
from sundog_operator.core import revisions
from sundog_operator.core.kubernetes import capacity, names, pod_problems, shared_pods, spot
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.ray import groups, shared_workers
from sundog_operator.core.revisions import Revision
from sundog_operator.core.text import format_count


def find_shortage(
    context: PlanContext,
    spec: ModelDeploymentSpec,
    replicas: int,
    *,
    of: int | None = None,
    freed: Collection[int] = (),
) -> Cause | None:
    """Return the shortage if so many more replicas of a shared spec do not fit; None if they do, or if capacity is unknown.

    It is unknown while Serve does not answer, and in a RayCluster that the ModelDeployment does not use yet.

    Args:
        context: the state.
        spec: an accepted spec.
        replicas: the replicas that do not run yet.
        of: the revision that they belong to, if Serve has it already.
        freed: revisions that end before they start.
    """
    installation, cluster = context.observed.installation, _find_cluster(context)
    serve = context.observed.serves.get(cluster)
    if installation is None or serve is None or not serve.known:
        return None
    settings = installation.ray.shared_workers
    pods = [
        pod for pod in context.facts.find_pods(groups.shared_pod_labels(cluster)) if not pod_problems.is_leaving(pod)
    ]
    own = {names.application(context.service, of)} if of is not None else ()
    used = shared_workers.sum_used(serve, own, {names.application(context.service, number) for number in freed})
    free = shared_pods.find_free_amounts(pods, used)
    more = shared_pods.count_new_pods(replicas, shared_pods.replica_amounts(spec.resources), free, settings)
    placed, waiting = pod_problems.count_placed(pods)
    if more and placed + max(more, waiting) > settings.max_pods:
        message = (
            f"{format_count(more, 'more shared pod')} needed for {format_count(replicas, 'replica')}, and {placed} of at most"
            f" {settings.max_pods} exist. Raise installation.ray.sharedWorkers.maxPods, or use runtime.placement: dedicated"
        )
        return Cause(DeploymentReason.INSUFFICIENT_QUOTA, message)
    available = context.observed.available
    if available is None:
        return None
    return capacity.find_shortage(None, more, available, spec.resources.gpu, created=min(waiting, more))


def fits_missing_replicas(context: PlanContext, number: int) -> bool:
    """Whether the replicas of a shared revision that do not run fit into the pods that run.

    Replicas of other models that wait too do not count: what one of them waits for is no problem of this revision.
    """
    revision = context.revision(number)
    if revision is None:
        return False
    pods = [
        pod
        for pod in context.shared_pods_of(number)
        if not pod_problems.is_leaving(pod) and pod_problems.find_pod_problem([pod]) is None
    ]
    missing = desired_state.live_revisions(context.status).get(number, 0) - context.readiness(number).running
    return missing <= _count_fitting(context, revision, pods)


def is_filled_by_others(context: PlanContext, number: int) -> bool:
    """Whether no replica of a shared revision fits beside those of other models into the pods that stay on their nodes.

    False for a revision with own pods, and while Serve does not answer. What is free in several pods counts as if it were in one.
    """
    revision = context.revision(number)
    if revision is None or not context.is_shared(number) or not context.serve_state_of(number).known:
        return False
    pods = [pod for pod in context.shared_pods_of(number) if spot.stays_on_node(pod)]
    return _count_fitting(context, revision, pods, {names.application(context.service, number)}) < 1


def _count_fitting(
    context: PlanContext, revision: Revision, pods: Sequence[dict[str, Any]], freed: Collection[str] = ()
) -> int:
    """Return how many replicas of a revision fit into pods beside all that runs, but the applications `freed`."""
    serve = context.serve_state_of(revision.number)
    used = shared_workers.sum_used(serve, serve.applications, freed)
    size = shared_pods.replica_amounts(revisions.spec_of(revision).resources)
    return shared_pods.count_fitting(shared_pods.find_free_amounts(pods, used), size)


def _find_cluster(context: PlanContext) -> str:
    """Return the RayCluster for the spec's revision; empty if none is in use."""
    revision = context.spec_revision
    image = (revision.image if revision is not None else "") or context.observed.image
    used = sorted(desired_state.needed_clusters(context.status))
    return next((name for name in used if names.is_ray_cluster_of(name, image)), "")
