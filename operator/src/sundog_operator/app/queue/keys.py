"""The keys of the work queue, and the keys that a changed object affects."""

from dataclasses import dataclass
from typing import Any, Literal

from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import desired_state
from sundog_operator.core.ray import groups
from sundog_operator.ports import Object

KeyKind = Literal["modeldeployment", "experiment", "raycluster", "edge", "resting"]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One unit of reconciliation. A namespace's edge has the name `sundog-edge`, and its idle check has none."""

    kind: KeyKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def edge_key(namespace: str) -> Key:
    """Return the key of a namespace's edge."""
    return Key("edge", namespace, names.EDGE)


def idle_check_key(namespace: str) -> Key:
    """Return the key of a namespace's idle check."""
    return Key("resting", namespace, "")


def keys_for(obj: Object) -> list[Key]:
    """Return the keys that a change of this object affects. Other ModelDeployments notice it by polling."""
    meta = obj["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    owner = (meta.get("labels") or {}).get(names.LABEL_MODEL_DEPLOYMENT)
    match obj["kind"]:
        case "ModelDeployment":
            clusters = sorted(desired_state.needed_clusters(ModelDeploymentStatus.parse(obj.get("status"))))
            return [
                Key("modeldeployment", namespace, name),
                *(Key("raycluster", namespace, cluster) for cluster in clusters),
                edge_key(namespace),
            ]
        case "Experiment":
            return [
                Key("experiment", namespace, name),
                *(Key("modeldeployment", namespace, each) for each in _deployments_of_experiment(obj, owner)),
                edge_key(namespace),
            ]
        case "ControllerRevision":
            return [Key("modeldeployment", namespace, owner)] if owner else []
        case "RayCluster":
            return [Key("raycluster", namespace, name), edge_key(namespace)]
        case (
            "ConfigMap"
            | "Deployment"
            | "Service"
            | "ServiceAccount"
            | "Role"
            | "RoleBinding"
            | "NetworkPolicy"
            | "StatefulSet"
        ):
            return _edge_keys(meta)
        case "PodDisruptionBudget":
            return [*_edge_keys(meta), *_cluster_keys(meta)]
        case "HTTPRoute":
            return [*_edge_keys(meta), *([Key("modeldeployment", namespace, owner)] if owner else [])]
        case "Pod":
            return [
                *_edge_keys(meta),
                *_cluster_keys(meta),
                *([Key("modeldeployment", namespace, owner)] if owner else []),
            ]
        case _:
            return []


def _deployments_of_experiment(experiment: Object, owner: str | None) -> list[str]:
    """Return the ModelDeployment of an Experiment: the owner of a rollout's, or the one that a user names."""
    named = (experiment.get("spec") or {}).get("modelDeployment")
    return [owner] if owner else [named] if isinstance(named, str) and named else []


def _edge_keys(meta: dict[str, Any]) -> list[Key]:
    name = (meta.get("labels") or {}).get(names.LABEL_NAME)
    return [edge_key(meta["namespace"])] if name in (names.EDGE, names.EDGE_STORE) else []


def _cluster_keys(meta: dict[str, Any]) -> list[Key]:
    cluster = (meta.get("labels") or {}).get(groups.LABEL_CLUSTER)
    return [Key("raycluster", meta["namespace"], cluster)] if cluster else []
