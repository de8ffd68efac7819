"""Kubernetes objects of a namespace's edge, owned by the ModelDeployments that use it. `deployment` makes its pods in a cluster."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sundog_operator.api import parse_timestamp
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray.clusters import has_managed_by_label
from sundog_operator.core.revisions import owner_reference

RBAC_GROUP = "rbac.authorization.k8s.io"
HAPROXY = "haproxy"
"""The container that clients connect to."""
HTTP_PORT = 8080
HTTPS_PORT = 8443
AGENT_PORT = 9090
EDGE_SELECTOR = {names.LABEL_NAME: names.EDGE}
"""Selector of the edge's pods, for Services, the PodDisruptionBudget and all other objects."""
LOST_AFTER = timedelta(seconds=60)
"""A pod that exists for longer after its grace period is gone: a working kubelet would have killed it, so its node is lost."""

Json = dict[str, Any]
_PORTS = ("http", "https", "h2c")
GRPC_PORT: Final = 9000
"""Port of a Service for Gateways: HTTP/2 without TLS, which gRPC needs, at the edge's plain port."""


def make_config_map(namespace: str, owners: Iterable[Json], document: Mapping[str, Any]) -> Json:
    """Return the ConfigMap with the split document."""
    text = json.dumps(document, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": make_shared_metadata(namespace, owners),
        "data": {names.SPLIT_KEY: text},
    }


def make_local_deployment(namespace: str, owners: Iterable[Json], image: str) -> Json:
    """Return the edge's Deployment in local mode. HAProxy and its agent are separate containers, so that either can fail alone."""
    labels = names.labels(names.EDGE)
    containers = [
        _make_container(HAPROXY, image, "http", HTTP_PORT),
        _make_container("agent", image, "agent", AGENT_PORT),
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": make_shared_metadata(namespace, owners),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": EDGE_SELECTOR},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def _make_container(name: str, image: str, port_name: str, port: int) -> Json:
    return {
        "name": name,
        "image": image,
        "command": ["sundog-edge", name],
        "ports": [{"name": port_name, "containerPort": port}],
    }


def make_secret(namespace: str, owners: Iterable[Json], data: Mapping[str, str]) -> Json:
    """Return the Secret with the content of all Secrets that the split document names; see `secrets.compose_secret_data`."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": make_shared_metadata(namespace, owners),
        "type": "Opaque",
        # The API server does not store an empty object, so every pass would apply it again.
        **({"data": dict(data)} if data else {}),
    }


def make_rbac(namespace: str, owners: Sequence[Json], account: str) -> list[Json]:
    """Return the agent's Role and RoleBinding, and its ServiceAccount unless the administrator names another.

    The agent may only read and watch its ConfigMap and its Secret.
    """
    verbs = ["get", "list", "watch"]
    rule = {"apiGroups": [""], "resources": ["configmaps", "secrets"], "resourceNames": [names.EDGE], "verbs": verbs}
    role = {"apiGroup": RBAC_GROUP, "kind": "Role", "name": names.EDGE}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    own = {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False}
    made: list[Json] = [
        *([own] if account == names.EDGE else []),
        {"apiVersion": f"{RBAC_GROUP}/v1", "kind": "Role", "rules": [rule]},
        {"apiVersion": f"{RBAC_GROUP}/v1", "kind": "RoleBinding", "roleRef": role, "subjects": [subject]},
    ]
    return [{**obj, "metadata": make_shared_metadata(namespace, owners)} for obj in made]


def make_disruption_budget(namespace: str, owners: Iterable[Json]) -> Json:
    """Return the PodDisruptionBudget.

    A node drain may evict one edge at a time. Edges that are not ready never block a drain, such as those before the first model.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": make_shared_metadata(namespace, owners),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": EDGE_SELECTOR},
        },
    }


def make_edge_service(namespace: str, owners: Iterable[Json]) -> Json:
    """Return the Service for all models of the namespace, for Gateways and load balancers. Users may set its type."""
    ports = [_make_service_port("http", 80), _make_service_port("https", 443)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_shared_metadata(namespace, owners),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def make_service(model_deployment: Json, *, tls: bool) -> Json:
    """Return the Service of one ModelDeployment, which has its name. By its port `h2c` Gateways know that they may send gRPC."""
    h2c = {**_make_service_port("http", GRPC_PORT), "name": "h2c", "appProtocol": "kubernetes.io/h2c"}
    ports = [_make_service_port("http", 80), *([_make_service_port("https", 443)] if tls else []), h2c]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_own_metadata(model_deployment),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def merge_service(stored: Json, desired: Json) -> Json:
    """Return the stored Service with the wanted fields. It keeps what others set: its type, node ports and ports of other names."""
    meta, ports = stored["metadata"], {port.get("name"): port for port in stored["spec"].get("ports", ())}
    labels = {**(meta.get("labels") or {}), **desired["metadata"]["labels"]}
    own = [{**ports.get(port["name"], {}), **port} for port in desired["spec"]["ports"]]
    others = [port for name, port in ports.items() if name not in _PORTS]
    # A user may have had a port of this number for gRPC before Sundog did. The API server refuses two.
    if any(port["port"] == GRPC_PORT for port in others):
        own = [port for port in own if port["port"] != GRPC_PORT]
    return {
        **stored,
        "metadata": {**meta, "labels": labels, "ownerReferences": desired["metadata"]["ownerReferences"]},
        "spec": {**stored["spec"], **desired["spec"], "ports": [*own, *others]},
    }


def is_made_for(obj: Mapping[str, Any], model_deployment: Mapping[str, Any]) -> bool:
    """Return whether Sundog made an object for this ModelDeployment. An object of the same name may be someone else's."""
    return has_labels_of(obj["metadata"].get("labels") or {}, model_deployment)


def has_labels_of(labels: Mapping[str, str], model_deployment: Mapping[str, Any]) -> bool:
    """Return whether labels are those of an object that Sundog made for this ModelDeployment."""
    return (
        has_managed_by_label(labels)
        and labels.get(names.LABEL_MODEL_DEPLOYMENT) == model_deployment["metadata"]["name"]
    )


def is_gone(pod: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a pod no longer serves: it has ended, or its grace period ended so long ago that its node must be lost."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return True
    deleted_at = pod["metadata"].get("deletionTimestamp")
    return deleted_at is not None and now - parse_timestamp(deleted_at) > LOST_AFTER


def make_own_metadata(model_deployment: Json) -> Json:
    """Return the metadata of an object that belongs to one ModelDeployment, has its name, and is deleted with it."""
    meta = model_deployment["metadata"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": {**names.labels(names.EDGE), names.LABEL_MODEL_DEPLOYMENT: meta["name"]},
        "ownerReferences": [owner_reference(model_deployment, controller=True)],
    }


def _make_service_port(name: str, port: int) -> Json:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def make_shared_metadata(namespace: str, owners: Iterable[Json]) -> Json:
    """Return the metadata of an object that the ModelDeployments of a namespace share.

    Each of these `owners` has a reference, so Kubernetes deletes the object after the last one.
    """
    refs = sorted((owner_reference(owner, controller=False) for owner in owners), key=lambda ref: str(ref["uid"]))
    return {"name": names.EDGE, "namespace": namespace, "labels": names.labels(names.EDGE), "ownerReferences": refs}
