"""Worker groups: one per live revision, in a list that Ray's autoscaler writes to as well.

`workerGroupSpecs` is an atomic list, KubeRay forgets the pods of a group that left it, and `replicas` and `scaleStrategy` are the
autoscaler's. So the list is changed as a whole under its resourceVersion: groups are appended, scaled to zero, and removed once no pod of
theirs is left; what the autoscaler wrote is carried over. The pods of a group that nobody needs any more are named for deletion here: the
autoscaler would wait until each was idle for a while, and one that never found a node is not idle.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pods import fingerprint
from sundog_operator.core.kubernetes.subset import contains

LABEL_GROUP: Final = "ray.io/group"
LABEL_CLUSTER: Final = "ray.io/cluster"
LABEL_NODE_TYPE: Final = "ray.io/node-type"
AUTOSCALER_FIELDS: Final = ("replicas", "scaleStrategy")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GroupState:
    """What there is of groups beside the list.

    Attributes:
        pods: names of the pods that exist by group, those that end included.
        running: how many of them may hold a replica; a pod without a node, or whose image is pulled, cannot.
        deployed: applications that Serve has; None while it cannot be asked.
    """

    pods: Mapping[str, Sequence[str]]
    running: Mapping[str, int]
    deployed: frozenset[str] | None


def merge_groups(stored: Sequence[Mapping[str, Any]], wanted: Sequence[Json], seen: GroupState) -> list[Json]:
    """The list to write, equal to the stored one when nothing is to change. `wanted` are the groups of the live revisions."""
    by_name = {group["groupName"]: group for group in wanted}
    merged = []
    for group in stored:
        name = group["groupName"]
        if name in by_name:
            merged.append(_updated(group, by_name.pop(name), seen.running.get(name, 0)))
        elif (left := _leaving(group, seen)) is not None:
            merged.append(left)
    return [*merged, *({**group, "replicas": group["minReplicas"]} for group in by_name.values())]


def find_orphaned_pods(pods: Iterable[Json], groups: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Workers of none of these groups, those that end excepted.

    KubeRay may make a pod from what it read of a group before the group was removed, and never looks at it again; Ray's
    autoscaler stumbles over a node of a kind that it does not know, and scales nothing any more.
    """
    known = {group["groupName"] for group in groups}
    return [
        pod
        for pod in pods
        if pod["metadata"]["labels"].get(LABEL_NODE_TYPE) == "worker"
        and pod["metadata"]["labels"].get(LABEL_GROUP) not in known
        and "deletionTimestamp" not in pod["metadata"]
    ]


def _updated(stored: Mapping[str, Any], wanted: Json, running: int) -> Json:
    """Nobody must have to choose which pod is too many: the ceiling comes down behind Serve and the autoscaler.

    Pods that cannot hold a replica are above it, and the autoscaler takes them away first.
    """
    ceiling = max(wanted["maxReplicas"], min(running, int(stored.get("maxReplicas", 0))))
    bounded = {**wanted, "maxReplicas": ceiling}
    if contains(stored, bounded):
        return dict(stored)
    return {**bounded, **{key: stored[key] for key in AUTOSCALER_FIELDS if key in stored}}


def _leaving(stored: Mapping[str, Any], seen: GroupState) -> Json | None:
    """A group whose revision is gone; None once it can be removed."""
    name = stored["groupName"]
    if seen.deployed is None or name in seen.deployed:
        return dict(stored)
    pods = seen.pods.get(name, ())
    # Removing it in the pass that scales it to zero could miss a pod that is being made right now.
    if not pods and stored.get("replicas", 0) == 0 and stored.get("minReplicas", 0) == 0:
        return None
    return {**stored, "minReplicas": 0, "replicas": 0, **_without(stored, pods)}


def _without(stored: Mapping[str, Any], pods: Sequence[str]) -> Json:
    """The strategy that has these pods deleted; nothing where it says so already."""
    strategy = stored.get("scaleStrategy") or {}
    named = strategy.get("workersToDelete") or []
    more = [pod for pod in pods if pod not in named]
    return {"scaleStrategy": {**strategy, "workersToDelete": [*named, *more]}} if more else {}


def make_group(application: str, bounds: tuple[int, int], resources: Mapping[str, str], template: Json) -> Json:
    """A group as we want it, without what is the autoscaler's.

    `bounds` are the fewest and the most pods, `resources` what Ray may place on each, by Ray's names.
    """
    marked = {**template["metadata"].get("annotations", {}), names.ANNOTATION_MADE_AS: fingerprint(template)}
    return {
        "groupName": application,
        "minReplicas": bounds[0],
        "maxReplicas": bounds[1],
        "labels": {names.RAY_LABEL_APPLICATION: application},
        "resources": dict(resources),
        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
        "template": {**template, "metadata": {**template["metadata"], "annotations": marked}},
    }


OBJECT_STORE_BYTES: Final = 200_000_000
"""Requests go straight to replicas, so that next to nothing is in Ray's object store."""
