"""Find the pods of a namespace's edge: those of the operator's own Deployment, not others with the same label."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.core.edge.objects import is_gone
from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pod_problems import find_condition
from sundog_operator.core.ray.clusters import is_managed_by_sundog
from sundog_operator.ports import DEPLOYMENT, POD, REPLICA_SET, Object, Ref

MAX_LOOKUPS: Final = 8
"""Most ReplicaSets that one call reads. A Deployment has as many at once only if it changes all the time."""
UNKNOWN_TTL_S: Final = 30.0
_SURGE: Final = 1
_MAX_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class EdgeDeployment:
    """The operator's Deployment of edges."""

    uid: str
    replicas: int


def read_edge_deployment(obj: Object) -> EdgeDeployment | None:
    """Read the stored Deployment; None for one of others."""
    if not is_managed_by_sundog(obj):
        return None
    return EdgeDeployment(obj["metadata"]["uid"], int((obj.get("spec") or {}).get("replicas", 1)))


async def list_edge_pods(deps: Dependencies, namespace: str) -> list[Object]:
    """Return the edge's pods, terminating ones included, except those that serve no more. Raises DependencyError.

    In a cluster these are the pods of ReplicaSets of the Deployment, by uid, and no more than it wants and one that it replaces.
    """
    now = deps.clock.now()
    found = await deps.kube.list(POD, namespace, {names.LABEL_NAME: names.EDGE})
    pods = [pod for pod in found if not is_gone(pod, now)]
    if deps.settings.installation is None or not pods:
        return pods
    deployment = await deps.kube.view(Ref(DEPLOYMENT, namespace, names.EDGE), read_edge_deployment)
    if deployment is None:
        return []
    replica_sets = await _find_own_replica_sets(deps, namespace, pods, deployment.uid)
    own = [pod for pod in pods if _controller(pod).get("uid", "") in replica_sets]
    return _within(own, deployment.replicas + _SURGE)


def _within(pods: Sequence[Object], most: int) -> list[Object]:
    """Return at most so many pods, and twice as many that terminate: ready and old ones first, in the order given."""
    counted = sorted(pods, key=lambda pod: (not _is_ready(pod), str(pod["metadata"].get("creationTimestamp", ""))))
    ending = [pod for pod in counted if "deletionTimestamp" in pod["metadata"]]
    kept = [*[pod for pod in counted if pod not in ending][:most], *ending[: 2 * most]]
    return [pod for pod in pods if pod in kept]


def _is_ready(pod: Object) -> bool:
    return find_condition(pod, "Ready").get("status") == "True"


def _controller(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((each for each in owners if each.get("controller")), {})


async def _find_own_replica_sets(
    deps: Dependencies, namespace: str, pods: Sequence[Object], deployment: str
) -> set[str]:
    """Return the uids of the ReplicaSets that control one of the pods and belong to the Deployment, by uid.

    Those of others are read again later: an orphaned ReplicaSet may get another owner. What was read last waits longest, so that many
    pods of others keep the edge's own from being found for a while at most.
    """
    now, known = deps.clock.monotonic(), deps.replica_sets
    controllers = {str(ref["uid"]): ref for ref in map(_controller, pods) if ref.get("kind") == "ReplicaSet"}
    unknown = [
        uid
        for uid in controllers
        if uid not in known or (known[uid][0] != deployment and now - known[uid][1] >= UNKNOWN_TTL_S)
    ]
    for uid in sorted(unknown, key=lambda uid: known[uid][1] if uid in known else -math.inf)[:MAX_LOOKUPS]:
        stored = await deps.kube.get(Ref(REPLICA_SET, namespace, str(controllers[uid].get("name"))))
        owner = _controller(stored) if stored is not None and stored["metadata"]["uid"] == uid else {}
        known.pop(uid, None)
        known[uid] = (str(owner.get("uid", "")) if owner.get("kind") == "Deployment" else "", now)
    while len(known) > _MAX_KNOWN:
        del known[next(iter(known))]
    return {uid for uid in controllers if uid in known and known[uid][0] == deployment}
