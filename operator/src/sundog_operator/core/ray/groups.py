"""Worker groups: one per live revision, and one for all that share pods, in a list that Ray's autoscaler writes to as well.

`workerGroupSpecs` is an atomic list, and KubeRay forgets the pods of a group that left it. The autoscaler owns `replicas` and
`scaleStrategy`. So the operator replaces the whole list under its resourceVersion, and keeps the autoscaler's fields. It appends groups,
scales them to zero, and removes them once they have no pods.

The operator names the pods of an unneeded group for deletion. The autoscaler would wait until each pod was idle for a while, and a pod
that never found a node is never idle.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pods import fingerprint
from sundog_operator.core.kubernetes.subset import contains
from sundog_operator.core.observed import ServeState
from sundog_operator.core.revisions import owner_reference

LABEL_GROUP: Final = "ray.io/group"
LABEL_CLUSTER: Final = "ray.io/cluster"
LABEL_NODE_TYPE: Final = "ray.io/node-type"
AUTOSCALER_FIELDS: Final = ("replicas", "scaleStrategy")
_PODS_FIELDS: Final = ("replicas", "minReplicas", "maxReplicas")
OBJECT_STORE_BYTES: Final = 200_000_000
"""Requests go directly to replicas, so Ray's object store stays almost empty."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GroupState:
    """The state of worker groups outside of the list.

    Attributes:
        pods: names of the existing pods by group, terminating ones included.
        running: number of pods by group that may have a replica. A pod without a node, or whose image is being pulled, has none.
        deployed: groups with a replica in Serve, by `find_deployed_groups`; None while Serve does not answer.
    """

    pods: Mapping[str, Sequence[str]]
    running: Mapping[str, int]
    deployed: frozenset[str] | None


def merge_groups(stored: Sequence[Mapping[str, Any]], desired: Sequence[Json], state: GroupState) -> list[Json]:
    """Return the list to write. It equals the stored one when nothing changes. `desired` are the groups of the live revisions."""
    by_name = {group["groupName"]: group for group in desired}
    merged = []
    for group in stored:
        name = group["groupName"]
        if name in by_name:
            merged.append(_update_group(group, by_name.pop(name), state.running.get(name, 0)))
        elif (draining := _drain_group(group, state)) is not None:
            merged.append(draining)
    return [*merged, *({**group, "replicas": group["minReplicas"]} for group in by_name.values())]


def find_grown_groups(stored: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the wanted groups that may have more or larger pods than the stored ones."""
    before = {group["groupName"]: group for group in stored}
    return frozenset(group["groupName"] for group in wanted if _is_larger(group, before.get(group["groupName"], {})))


def _is_larger(group: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    has_more = any(int(group.get(key) or 0) > int(stored.get(key) or 0) for key in _PODS_FIELDS)
    return has_more or group.get("resources") != stored.get("resources")


def find_deployed_groups(serve: ServeState) -> frozenset[str]:
    """Return the groups in whose pods applications in Serve may have replicas.

    Serve reports no configuration of an application that it is deleting. Such a one may be in pods of its own, or in shared ones: the
    groups of its ModelDeployment may be of a later one with the same name.
    """
    found: set[str] = set()
    for name, app in serve.applications.items():
        selected = {find_selected_group(each) for each in app.config.get("deployments") or ()} - {""}
        found |= selected or {name, names.SHARED_WORKERS}
    return frozenset(found)


def find_selected_group(deployment: Mapping[str, Any]) -> str:
    """Return the worker group that a deployment of an application in Serve selects; empty if it selects none."""
    selector = (deployment.get("ray_actor_options") or {}).get("label_selector") or {}
    return str(selector.get(names.RAY_LABEL_APPLICATION, ""))


def shared_pod_labels(cluster: str) -> dict[str, str]:
    """Return the labels of the shared pods of a RayCluster."""
    return {LABEL_CLUSTER: cluster, LABEL_GROUP: names.SHARED_WORKERS}


def find_orphaned_pods(pods: Iterable[Json], groups: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Return the worker pods that belong to none of these groups and are not terminating.

    KubeRay may create a pod from a group that was just removed, and then never checks the pod again. Ray's autoscaler fails on a node of
    an unknown group, and stops scaling.
    """
    known = {group["groupName"] for group in groups}
    return [
        pod
        for pod in pods
        if pod["metadata"]["labels"].get(LABEL_NODE_TYPE) == "worker"
        and pod["metadata"]["labels"].get(LABEL_GROUP) not in known
        and "deletionTimestamp" not in pod["metadata"]
    ]


def _update_group(stored: Mapping[str, Any], desired: Json, running: int) -> Json:
    """Return the wanted group with the autoscaler's fields.

    `maxReplicas` falls only after Serve and the autoscaler have removed pods, so that nothing has to choose a pod with a replica. Pods that
    cannot have a replica exceed the maximum, and the autoscaler removes them first.
    """
    maximum = max(desired["maxReplicas"], min(running, int(stored.get("maxReplicas", 0))))
    bounded = {**desired, "maxReplicas": maximum}
    if contains(stored, bounded):
        return dict(stored)
    return {**bounded, **{key: stored[key] for key in AUTOSCALER_FIELDS if key in stored}}


def _drain_group(stored: Mapping[str, Any], state: GroupState) -> Json | None:
    """Return the group of a removed revision, scaled to zero; None once it can be removed."""
    name = stored["groupName"]
    if state.deployed is None or name in state.deployed:
        return dict(stored)
    pods = state.pods.get(name, ())
    # If the group was removed in the pass that scales it to zero, a pod that KubeRay is creating would be missed.
    if not pods and stored.get("replicas", 0) == 0 and stored.get("minReplicas", 0) == 0:
        return None
    return {**stored, "minReplicas": 0, "replicas": 0, **_delete_pods(stored, pods)}


def _delete_pods(stored: Mapping[str, Any], pods: Sequence[str]) -> Json:
    """Return a `scaleStrategy` that deletes these pods; empty where the stored one does."""
    strategy = stored.get("scaleStrategy") or {}
    known = strategy.get("workersToDelete") or []
    added = [pod for pod in pods if pod not in known]
    return {"scaleStrategy": {**strategy, "workersToDelete": [*known, *added]}} if added else {}


def make_group(application: str, bounds: tuple[int, int], resources: Mapping[str, str], template: Json) -> Json:
    """Return a worker group without the autoscaler's fields.

    Args:
        application: name of the group and of the revision's application.
        bounds: minimum and maximum number of pods.
        resources: the resources of each pod, by Ray's names.
        template: the pod template.
    """
    annotations = {**template["metadata"].get("annotations", {}), names.ANNOTATION_MADE_AS: fingerprint(template)}
    return {
        "groupName": application,
        "minReplicas": bounds[0],
        "maxReplicas": bounds[1],
        "labels": {names.RAY_LABEL_APPLICATION: application},
        "resources": dict(resources),
        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
        "template": {**template, "metadata": {**template["metadata"], "annotations": annotations}},
    }


def make_disruption_budgets(cluster: Json) -> list[Json]:
    """Return the PodDisruptionBudgets of a stored RayCluster: one for each worker group of two or more pods.

    A node drain may evict one pod of a group at a time, and the next one once its replacement runs. The number is absolute, because
    Kubernetes computes `maxUnavailable` by a `/scale`, which a RayCluster lacks.
    """
    counted = ((group["groupName"], _count_wanted(group)) for group in cluster["spec"].get("workerGroupSpecs") or ())
    return [_make_disruption_budget(cluster, name, count) for name, count in counted if count > 1]


def _count_wanted(group: Mapping[str, Any]) -> int:
    """Return the number of pods that KubeRay keeps for a group. The autoscaler may not have raised `replicas` to a new minimum yet."""
    return max(int(group.get("replicas", 0)), int(group.get("minReplicas", 0)))


def _make_disruption_budget(cluster: Json, group: str, count: int) -> Json:
    meta = cluster["metadata"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": f"{meta['name']}-{group}",
            "namespace": meta["namespace"],
            "labels": {**names.labels(names.RAY), LABEL_CLUSTER: meta["name"]},
            "ownerReferences": [owner_reference(cluster, controller=True)],
        },
        "spec": {
            "minAvailable": count - 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {LABEL_CLUSTER: meta["name"], LABEL_GROUP: group}},
        },
    }
