"""What keeps the pods of a revision from running."""

from typing import Final

from sundog_operator.core.kubernetes import pod_problems, references
from sundog_operator.core.planner import desired_state
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.problems import terminating_pods

POD_REFUSED: Final = "PodRefused"


def find_pending_reason(context: PlanContext, number: int) -> tuple[str, str] | None:
    """(reason, message) of what keeps the pods of a revision, or the head or store of their cluster, from running.

    A pod without a node is not kept from one as long as others are about to leave theirs to it.
    """
    if context.spec is not None and context.wanted is not None and context.wanted.number == number:
        namespace = context.observed.deployment["metadata"]["namespace"]
        missing = references.find_missing_references(
            references.find_references(context.spec), context.observed.references, namespace
        )
        if missing is not None:
            return missing[0], f"revision {number}: {missing[1]}"
    own = pod_problems.find_pod_problem(context.pods_of(number))
    if own is not None and not (
        own[0] == pod_problems.UNSCHEDULABLE and terminating_pods.has_enough_terminating(context, number)
    ):
        return own[0], f"revision {number}: {own[1]}"
    # A head without its store does not start: what keeps the store from running is nearer to the cause.
    for what, found in (
        ("the store of Ray", context.store_pods_of(number)),
        ("the head of Ray", context.head_pods_of(number)),
    ):
        if (other := pod_problems.find_pod_problem(found)) is not None:
            return other[0], f"{what}: {other[1]}"
    return _refused(context, number)


def _refused(context: PlanContext, number: int) -> tuple[str, str] | None:
    """That pods of it are not there, for the API server does not let KubeRay make them, as by a quota."""
    cluster = context.cluster_of(number)
    if cluster is None or not cluster.refusal:
        return None
    wanted = desired_state.live_revisions(context.status).get(number, 0)
    told = f"KubeRay has no pod for it in RayCluster {cluster.name}: {cluster.refusal}"
    return (POD_REFUSED, f"revision {number}: {told}") if len(context.pods_of(number)) < wanted else None
