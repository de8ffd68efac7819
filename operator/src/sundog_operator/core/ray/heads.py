"""Find broken heads that nothing else replaces."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sundog_operator.core.ray.groups import LABEL_NODE_TYPE

AUTOSCALER_CONTAINER: Final = "autoscaler"
"""KubeRay's name for the container beside the head's."""

Json = dict[str, Any]


def find_heads_without_autoscaler(pods: Sequence[Json], *, keeps_state: bool) -> list[Json]:
    """Return the heads whose autoscaler has ended while Ray's container still runs. Delete them, and KubeRay creates new ones.

    With autoscaler v2 KubeRay sets `restartPolicy: Never` and checks Ray's container only, so such a head is never ready again. The
    autoscaler ends when its RayCluster has no worker group at the start. By its code it also ends when it cannot read the RayCluster then.

    Args:
        pods: all pods of the RayCluster, workers too.
        keeps_state: whether the next head continues from stored state. If not, its workers would end with the head, so a head with running
            workers stays.
    """
    heads = [pod for pod in pods if _has_node_type(pod, "head") and "deletionTimestamp" not in pod["metadata"]]
    if not keeps_state and any(_has_node_type(pod, "worker") and _phase(pod) == "Running" for pod in pods):
        return []
    return [head for head in heads if head["spec"].get("restartPolicy") == "Never" and _has_ended_autoscaler(head)]


def _has_node_type(pod: Json, node_type: str) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_NODE_TYPE) == node_type


def _phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def _has_ended_autoscaler(head: Json) -> bool:
    containers: Iterable[Json] = (head.get("status") or {}).get("containerStatuses") or ()
    return any(
        each.get("name") == AUTOSCALER_CONTAINER and (each.get("state") or {}).get("terminated") for each in containers
    )
