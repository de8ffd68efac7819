"""Heads that would stay broken: nobody else brings them back."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sundog_operator.core.ray.groups import LABEL_NODE_TYPE

AUTOSCALER_CONTAINER: Final = "autoscaler"
"""KubeRay's name of the container beside the head's."""

Json = dict[str, Any]


def find_heads_without_autoscaler(pods: Sequence[Json], *, keeps_state: bool) -> list[Json]:
    """Heads of a RayCluster to delete, so that KubeRay makes another: those whose autoscaler has ended while Ray's container runs on.

    With autoscaler v2 KubeRay has the kubelet restart nothing, and looks at Ray's container alone: such a head is never ready again.
    The autoscaler ends, for one, when its RayCluster has no worker group at its start; by its code also when it cannot read it then.

    Args:
        pods: all of the RayCluster, workers too.
        keeps_state: whether the next head goes on where this one was. Where it does not, its workers go with it: they are left alone.
    """
    heads = [pod for pod in pods if _is(pod, "head") and "deletionTimestamp" not in pod["metadata"]]
    if not keeps_state and any(_is(pod, "worker") and _phase(pod) == "Running" for pod in pods):
        return []
    return [head for head in heads if head["spec"].get("restartPolicy") == "Never" and _has_ended(head)]


def _is(pod: Json, node_type: str) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_NODE_TYPE) == node_type


def _phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def _has_ended(head: Json) -> bool:
    containers: Iterable[Json] = (head.get("status") or {}).get("containerStatuses") or ()
    return any(
        each.get("name") == AUTOSCALER_CONTAINER and (each.get("state") or {}).get("terminated") for each in containers
    )
