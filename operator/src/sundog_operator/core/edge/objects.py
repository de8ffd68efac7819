"""The objects of a namespace's edge, except its pods in a cluster (`deployment`). The ModelDeployments that use them own them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

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
"""Selects the edge's pods, for Services, the disruption budget and all others."""
LOST_AFTER = timedelta(seconds=60)
"""How long after the end of its grace period a terminating pod is still queried. A working kubelet has killed it by then."""

Json = dict[str, Any]
_PORTS = ("http", "https")


def make_config_map(namespace: str, members: Iterable[Json], document: Mapping[str, Any]) -> Json:
    """Return the ConfigMap with the split document."""
    text = json.dumps(document, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": make_shared_metadata(namespace, members),
        "data": {names.SPLIT_KEY: text},
    }


def make_local_deployment(namespace: str, members: Iterable[Json], image: str) -> Json:
    """Return the edge's Deployment in local mode. HAProxy and its agent are separate, so that either can fail alone."""
    labels = names.labels(names.EDGE)
    containers = [
        _make_container(HAPROXY, image, "http", HTTP_PORT),
        _make_container("agent", image, "agent", AGENT_PORT),
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": make_shared_metadata(namespace, members),
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


def make_secret(namespace: str, members: Iterable[Json], data: Mapping[str, str]) -> Json:
    """Return the Secret with the content of all Secrets that the document names (`secrets.compose_secret_data`)."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": make_shared_metadata(namespace, members),
        "type": "Opaque",
        # The API server stores no empty object, so every pass would apply it again.
        **({"data": dict(data)} if data else {}),
    }


def make_rbac(namespace: str, members: Sequence[Json], account: str) -> list[Json]:
    """Return the agent's Role and RoleBinding, and the ServiceAccount unless it is an administrator's.

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
    return [{**obj, "metadata": make_shared_metadata(namespace, members)} for obj in made]


def make_disruption_budget(namespace: str, members: Iterable[Json]) -> Json:
    """Return the PodDisruptionBudget.

    A node drain may evict one edge at a time. Edges that are not ready, as before the first model, never block a drain.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": make_shared_metadata(namespace, members),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": EDGE_SELECTOR},
        },
    }


def make_edge_service(namespace: str, members: Iterable[Json]) -> Json:
    """Return the Service in front of all services of the namespace, for Gateways and load balancers. Others may set its type."""
    ports = [_make_service_port("http", 80), _make_service_port("https", 443)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_shared_metadata(namespace, members),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def make_service(member: Json, *, tls: bool) -> Json:
    """Return the Service that gives one ModelDeployment its name."""
    ports = [_make_service_port("http", 80), *([_make_service_port("https", 443)] if tls else [])]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_own_metadata(member),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def merge_service(stored: Json, wanted: Json) -> Json:
    """Return the stored Service with the wanted fields. It keeps the fields of others: its type, node ports, ports of other names."""
    meta, ports = stored["metadata"], {port.get("name"): port for port in stored["spec"].get("ports", ())}
    labels = {**(meta.get("labels") or {}), **wanted["metadata"]["labels"]}
    own = [{**ports.get(port["name"], {}), **port} for port in wanted["spec"]["ports"]]
    others = [port for name, port in ports.items() if name not in _PORTS]
    return {
        **stored,
        "metadata": {**meta, "labels": labels, "ownerReferences": wanted["metadata"]["ownerReferences"]},
        "spec": {**stored["spec"], **wanted["spec"], "ports": [*own, *others]},
    }


def is_made_for(obj: Mapping[str, Any], member: Mapping[str, Any]) -> bool:
    """Return whether Sundog made an object for exactly this ModelDeployment. Others may own an object of the same name."""
    return has_labels_of(obj["metadata"].get("labels") or {}, member)


def has_labels_of(labels: Mapping[str, str], member: Mapping[str, Any]) -> bool:
    """Return the same as `is_made_for`, by the object's labels."""
    return has_managed_by_label(labels) and labels.get(names.LABEL_MODEL_DEPLOYMENT) == member["metadata"]["name"]


def is_gone(pod: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a pod serves no more: it has ended, or its grace period ended so long ago that its node must be lost."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return True
    deleted_at = pod["metadata"].get("deletionTimestamp")
    return deleted_at is not None and now - parse_timestamp(deleted_at) > LOST_AFTER


def make_own_metadata(member: Json) -> Json:
    """Return the metadata of an object that belongs to one ModelDeployment: it has its name, and is deleted with it."""
    meta = member["metadata"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": {**names.labels(names.EDGE), names.LABEL_MODEL_DEPLOYMENT: meta["name"]},
        "ownerReferences": [owner_reference(member, controller=True)],
    }


def _make_service_port(name: str, port: int) -> Json:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def make_shared_metadata(namespace: str, members: Iterable[Json]) -> Json:
    """Return the metadata of an object that the namespace shares.

    It has an owner reference per member, so Kubernetes deletes it after the last one.
    """
    owners = sorted((owner_reference(member, controller=False) for member in members), key=lambda ref: str(ref["uid"]))
    return {"name": names.EDGE, "namespace": namespace, "labels": names.labels(names.EDGE), "ownerReferences": owners}
