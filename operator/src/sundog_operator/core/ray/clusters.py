"""RayClusters: assign one to a ModelDeployment, build it for KubeRay, and parse its status."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.kubernetes.pod_problems import find_condition
from sundog_operator.core.revisions import owner_reference
from sundog_operator.errors import Invalid, RequestRefused

MAX_MEMBERS = 100
SERVE_PORT = "8000"
GRPC_PORT = "9000"
GRPC_ENDPOINT = "serve-grpc"
"""Key of the port of Serve's own gRPC proxy in `status.endpoints` of a RayCluster."""
DASHBOARD_PORT = "8265"
_MAX_MESSAGE: Final = 300
_TOO_LARGE: Final = re.compile(r"too large|larger than max", re.IGNORECASE)
_SHORTEN: Final = "It has the runtime.env of every model on it. Shorten the values, or move them into a ConfigMap"
_SUBJECT: Final = re.compile(r'^pods "[^"]*" is ')
_POD: Final = re.compile(r"[a-z0-9.-]*-(worker|head)-[a-z0-9]{5}\b")
"""A pod name in KubeRay's messages. It differs with each attempt, and a status must not change with each."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The state of a RayCluster by its status.

    Attributes:
        problem: why Serve's REST API cannot be called; empty when it can.
        refusal: why KubeRay cannot create or delete a pod; empty when it can.
        rejection: why the API server rejected the operator's last write of the RayCluster; empty if it did not.
        ungrown_groups: the worker groups to which that write would have given pods.
    """

    name: str
    host: str = ""
    dashboard_port: str = DASHBOARD_PORT
    serve_port: str = SERVE_PORT
    grpc_port: str = GRPC_PORT
    problem: str = ""
    refusal: str = ""
    rejection: str = ""
    ungrown_groups: frozenset[str] = frozenset()

    @property
    def dashboard(self) -> str:
        """Base URL of the dashboard, which serves Serve's REST API."""
        return f"http://{self.host}:{self.dashboard_port}"

    @property
    def fallback(self) -> str:
        """Address of Serve's own proxy on the head."""
        return f"{self.host}:{self.serve_port}"

    @property
    def bind_host(self) -> str:
        """Address on which replicas and the proxy listen: loopback if the head uses it, else every address of the pod."""
        return "127.0.0.1" if self.host == "127.0.0.1" else "0.0.0.0"  # noqa: S104 a pod's own network


def parse_cluster_view(name: str, obj: Mapping[str, Any] | None, address: str = "") -> ClusterView:
    """Return the state of a stored RayCluster.

    Only `HeadPodReady` decides: the other conditions also wait for workers, which need an application first. `address` replaces the
    head's address in the status. In a Kubernetes cluster it is the name of the head's Service, which outlives the head.
    """
    if obj is None:
        return ClusterView(name, host=address, problem=f"RayCluster {name}: does not exist yet")
    status = obj.get("status") or {}
    head, endpoints = status.get("head") or {}, status.get("endpoints") or {}
    condition, refusal = find_condition(obj, "HeadPodReady"), find_refusal(obj)
    host = address or head.get("serviceIP") or head.get("podIP") or ""
    problem = ""
    if condition.get("status") != "True":
        problem = f"RayCluster {name}: the head is not ready: {refusal or condition.get('message') or 'no status yet'}"
    elif not host:
        problem = f"RayCluster {name}: the status has no address of the head"
    return ClusterView(
        name,
        host=host,
        dashboard_port=str(endpoints.get("dashboard", DASHBOARD_PORT)),
        serve_port=str(endpoints.get("serve", SERVE_PORT)),
        grpc_port=str(endpoints.get(GRPC_ENDPOINT, GRPC_PORT)),
        problem=problem,
        refusal=refusal,
    )


def find_refusal(owner: Mapping[str, Any]) -> str:
    """Return the API server's reason for a refused pod of a RayCluster or Deployment; empty without one.

    KubeRay quotes it below its own reason.
    """
    condition = find_condition(owner, "ReplicaFailure")
    if condition.get("status") != "True":
        return ""
    reason = str(condition.get("reason") or "ReplicaFailure")
    lines = (line.strip() for line in str(condition.get("message") or "").splitlines())
    message = next((line for line in lines if line not in ("", reason)), reason)
    return _POD.sub("a pod", _SUBJECT.sub("", message))[:_MAX_MESSAGE]


def is_rejection(error: Exception) -> bool:
    """Return whether the API server or etcd rejected a write for its content. That it is too large is an error without a reason."""
    return isinstance(error, Invalid | RequestRefused) or _TOO_LARGE.search(str(error)) is not None


def describe_rejection(error: Exception) -> str:
    """Return a rejection as one line, with what helps against an object that is too large."""
    text = " ".join(str(error).split())[:_MAX_MESSAGE]
    return f"{text}. {_SHORTEN}" if _TOO_LARGE.search(text) else text


def assign_cluster(taken: Iterable[str], image: str = "") -> str:
    """Return the first RayCluster of the namespace, for pods of an image, that has fewer than `MAX_MEMBERS` ModelDeployments.

    Args:
        taken: the clusters of all other ModelDeployments, each once per ModelDeployment.
        image: empty in local mode, where every head is the same.
    """
    members = Counter(taken)
    index = 0
    while members[names.ray_cluster(index, image)] >= MAX_MEMBERS:
        index += 1
    return names.ray_cluster(index, image)


def make_local_ray_cluster(namespace: str, name: str, owners: Iterable[Json], image: str) -> Json:
    """Return the RayCluster of local mode. Its head runs no model code."""
    head = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": {"spec": {"containers": [{"name": "ray-head", "image": image}]}},
    }
    return make_ray_cluster_object(namespace, name, owners, {"headGroupSpec": head})


def make_ray_cluster_object(namespace: str, name: str, model_deployments: Iterable[Json], spec: Json) -> Json:
    """Return a RayCluster with that spec. Each ModelDeployment owns it, so Kubernetes deletes it after the last one."""
    owners = [owner_reference(each, controller=False) for each in model_deployments]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": names.labels(names.RAY),
            "ownerReferences": sorted(owners, key=lambda owner: str(owner["uid"])),
        },
        "spec": spec,
    }


def find_worker_groups(obj: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """Return the name of a RayCluster and those of its worker groups; no groups for a foreign one."""
    known = (obj.get("spec") or {}).get("workerGroupSpecs") or () if is_managed_by_sundog(obj) else ()
    return obj["metadata"]["name"], frozenset(group["groupName"] for group in known)


def is_managed_by_sundog(obj: Mapping[str, Any]) -> bool:
    """Return whether an object has Sundog's manager label. The operator never adopts, changes or deletes objects without it."""
    return has_managed_by_label(obj["metadata"].get("labels") or {})


def is_foreign(stored: Mapping[str, Any] | None) -> bool:
    """Return whether an object exists that Sundog does not manage."""
    return stored is not None and not is_managed_by_sundog(stored)


def has_managed_by_label(labels: Mapping[str, str]) -> bool:
    """Return the same as `is_managed_by_sundog`, by the object's labels."""
    return labels.get(names.LABEL_MANAGED_BY) == names.MANAGER
