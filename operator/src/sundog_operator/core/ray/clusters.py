"""RayClusters: which one serves a ModelDeployment, what we ask of KubeRay, and what its status tells."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.core.kubernetes import names
from sundog_operator.core.revisions import owner_reference

MAX_MEMBERS = 100
SERVE_PORT = "8000"
GRPC_PORT = "9000"
GRPC_ENDPOINT = "serve-grpc"
"""The name of the port of Serve's own gRPC proxy among the endpoints of a RayCluster's status."""
DASHBOARD_PORT = "8265"
_LONGEST: Final = 300
_SUBJECT: Final = re.compile(r'^pods "[^"]*" is ')
_POD: Final = re.compile(r"[a-z0-9.-]*-(worker|head)-[a-z0-9]{5}\b")
"""Of each attempt another one, and a status must not change with each."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What a RayCluster's status says.

    `problem` is empty when Serve's REST API can be called. `refusal` is why KubeRay cannot make a pod, or delete one; empty while it can.
    """

    name: str
    host: str = ""
    dashboard_port: str = DASHBOARD_PORT
    serve_port: str = SERVE_PORT
    grpc_port: str = GRPC_PORT
    problem: str = ""
    refusal: str = ""

    @property
    def dashboard(self) -> str:
        """Base URL of the dashboard, which carries Serve's REST API."""
        return f"http://{self.host}:{self.dashboard_port}"

    @property
    def fallback(self) -> str:
        """Address of Serve's own proxy on the head."""
        return f"{self.host}:{self.serve_port}"

    @property
    def bind_host(self) -> str:
        """Where replicas and proxy listen: on loopback as the head does, else on every address of their pod."""
        return "127.0.0.1" if self.host == "127.0.0.1" else "0.0.0.0"  # noqa: S104 a pod's own network


def parse_cluster_view(name: str, obj: Mapping[str, Any] | None, address: str = "") -> ClusterView:
    """Read a stored RayCluster. Only `HeadPodReady` decides: the other conditions also wait for workers that need an application first.

    `address` is where the head is found whatever its status says: in a Kubernetes cluster the name of its Service, which outlives it.
    """
    if obj is None:
        return ClusterView(name, host=address, problem=f"RayCluster {name} does not exist yet")
    status = obj.get("status") or {}
    head, endpoints = status.get("head") or {}, status.get("endpoints") or {}
    condition, refusal = _condition(status, "HeadPodReady"), _refusal(status)
    host = address or head.get("serviceIP") or head.get("podIP") or ""
    problem = ""
    if condition.get("status") != "True":
        said = refusal or condition.get("message") or "no status yet"
        problem = f"the head of RayCluster {name} is not ready: {said}"
    elif not host:
        problem = f"RayCluster {name} tells no address of its head"
    return ClusterView(
        name,
        host=host,
        dashboard_port=str(endpoints.get("dashboard", DASHBOARD_PORT)),
        serve_port=str(endpoints.get("serve", SERVE_PORT)),
        grpc_port=str(endpoints.get(GRPC_ENDPOINT, GRPC_PORT)),
        problem=problem,
        refusal=refusal,
    )


def _condition(status: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions") or () if each.get("type") == type_), {})


def _refusal(status: Mapping[str, Any]) -> str:
    """In the words of the API server, which KubeRay tells below its own reason."""
    condition = _condition(status, "ReplicaFailure")
    if condition.get("status") != "True":
        return ""
    reason = str(condition.get("reason") or "ReplicaFailure")
    lines = (line.strip() for line in str(condition.get("message") or "").splitlines())
    told = next((line for line in lines if line not in ("", reason)), reason)
    return _POD.sub("a pod", _SUBJECT.sub("", told))[:_LONGEST]


def assign_cluster(taken: Iterable[str], image: str = "") -> str:
    """The first RayCluster of the namespace, for pods of that image, with room for one more ModelDeployment.

    Args:
        taken: the clusters of all other ModelDeployments, each once per ModelDeployment.
        image: empty in local mode, where every head is the same.
    """
    members = Counter(taken)
    index = 0
    while members[names.ray_cluster(index, image)] >= MAX_MEMBERS:
        index += 1
    return names.ray_cluster(index, image)


def make_local_ray_cluster(namespace: str, name: str, members: Iterable[Json], image: str) -> Json:
    """The RayCluster as we apply it. The head runs no model code; one owner reference per member lets it go after the last."""
    head = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": {"spec": {"containers": [{"name": "ray-head", "image": image}]}},
    }
    return make_ray_cluster_object(namespace, name, members, {"headGroupSpec": head})


def make_ray_cluster_object(namespace: str, name: str, members: Iterable[Json], spec: Json) -> Json:
    """The RayCluster of that spec, ours, and owned by each of its members."""
    owners = [owner_reference(member, controller=False) for member in members]
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


def is_managed_by_sundog(obj: Mapping[str, Any]) -> bool:
    """Whether an object carries our manager label: what does not is never adopted, changed or deleted."""
    return has_managed_by_label(obj["metadata"].get("labels") or {})


def has_managed_by_label(labels: Mapping[str, str]) -> bool:
    """The same, by its labels."""
    return labels.get(names.LABEL_MANAGED_BY) == names.MANAGER
