"""Find broken heads that nothing else replaces."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sundog_operator.core.ray.groups import LABEL_NODE_TYPE

AUTOSCALER_CONTAINER: Final = "autoscaler"
"""KubeRay's name for the container beside the head's."""
_STORE_ADDRESS: Final = "RAY_REDIS_ADDRESS"
"""KubeRay sets this variable of the head's container to the `redisAddress` that the RayCluster had then."""

Json = dict[str, Any]


def find_heads_without_autoscaler(pods: Sequence[Json], store: str) -> list[Json]:
    """Return the heads whose autoscaler has ended while Ray's container still runs. Delete them, and KubeRay creates new ones.

    With autoscaler v2 KubeRay sets `restartPolicy: Never` and checks Ray's container only, so such a head is never ready again. The
    autoscaler ends when its RayCluster has no worker group at the start. By its code it also ends when it cannot read the RayCluster then.

    Args:
        pods: all pods of the RayCluster, workers too.
        store: the address of the store that the next head gets; empty without. It continues from the state of a head with the same store.
            After any other, the workers would end with the head, so a head with running workers stays.
    """
    has_workers = any(_has_node_type(pod, "worker") and _phase(pod) == "Running" for pod in pods)
    return [
        pod
        for pod in pods
        if _has_node_type(pod, "head")
        and "deletionTimestamp" not in pod["metadata"]
        and pod["spec"].get("restartPolicy") == "Never"
        and _has_ended_autoscaler(pod)
        and (not has_workers or (store and _store_address(pod) == store))
    ]


def _has_node_type(pod: Json, node_type: str) -> bool:
    return (pod["metadata"].get("labels") or {}).get(LABEL_NODE_TYPE) == node_type


def _phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def _store_address(head: Json) -> str:
    # An injected container may be the first.
    variables = (each for container in head["spec"]["containers"] for each in container.get("env") or ())
    return next((each.get("value", "") for each in variables if each["name"] == _STORE_ADDRESS), "")


def _has_ended_autoscaler(head: Json) -> bool:
    containers: Iterable[Json] = (head.get("status") or {}).get("containerStatuses") or ()
    return any(
        each.get("name") == AUTOSCALER_CONTAINER and (each.get("state") or {}).get("terminated") for each in containers
    )
