"""The objects of a namespace's edge, but for its pods in a cluster (`edge_pods`). All are owned by the ModelDeployments that use them."""

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
"""The container that clients reach."""
HTTP_PORT = 8080
AGENT_PORT = 9090
EDGE_SELECTOR = {names.LABEL_NAME: names.EDGE}
"""The label by which Services, the budget and everybody else find the edge's pods."""
LOST_AFTER = timedelta(seconds=60)
"""How long after the end of its grace a leaving pod is still asked: a kubelet that lives has killed it by then."""

Json = dict[str, Any]
_PORTS = ("http", "https")


def make_config_map(namespace: str, members: Iterable[Json], document: Mapping[str, Any]) -> Json:
    """The ConfigMap with the split document."""
    text = json.dumps(document, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": make_shared_metadata(namespace, members),
        "data": {names.SPLIT_KEY: text},
    }


def make_local_deployment(namespace: str, members: Iterable[Json], image: str) -> Json:
    """The edge's Deployment of local mode: HAProxy and its agent beside each other, so that either can die alone."""
    labels = names.labels(names.EDGE)
    containers = [_container(HAPROXY, image, "http", HTTP_PORT), _container("agent", image, "agent", AGENT_PORT)]
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


def _container(name: str, image: str, port_name: str, port: int) -> Json:
    return {
        "name": name,
        "image": image,
        "command": ["sundog-edge", name],
        "ports": [{"name": port_name, "containerPort": port}],
    }


def make_secret(namespace: str, members: Iterable[Json], data: Mapping[str, str]) -> Json:
    """The Secret with the content of all Secrets that the document names (`secrets.compose`)."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": make_shared_metadata(namespace, members),
        "type": "Opaque",
        # The API server stores no empty object, and what it does not store would be applied again and again.
        **({"data": dict(data)} if data else {}),
    }


def make_rbac(namespace: str, members: Sequence[Json], account: str) -> list[Json]:
    """What an agent may do, which is to follow its ConfigMap and its Secret. The account itself, unless it is an administrator's own."""
    follows = ["get", "list", "watch"]
    rule = {"apiGroups": [""], "resources": ["configmaps", "secrets"], "resourceNames": [names.EDGE], "verbs": follows}
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
    """One edge may leave at a time, where nodes are drained; one that is not ready, as before the first model, holds up none."""
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
    """The Service in front of all services of the namespace, for Gateways and load balancers. Its type is whoever else's who sets it."""
    ports = [_service_port("http", 80), _service_port("https", 443)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_shared_metadata(namespace, members),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def make_service(member: Json, *, tls: bool) -> Json:
    """The Service under whose name one ModelDeployment is reached."""
    ports = [_service_port("http", 80), *([_service_port("https", 443)] if tls else [])]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_own_metadata(member),
        "spec": {"selector": EDGE_SELECTOR, "ports": ports},
    }


def merge_service(stored: Json, wanted: Json) -> Json:
    """A Service that says what is wanted and keeps what others have set of it: its type, a port's number on nodes, ports of other names."""
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
    """Whether an object was made for just that ModelDeployment; another of its name is somebody else's."""
    return has_labels_of(obj["metadata"].get("labels") or {}, member)


def has_labels_of(labels: Mapping[str, str], member: Mapping[str, Any]) -> bool:
    """The same, by its labels."""
    return has_managed_by_label(labels) and labels.get(names.LABEL_MODEL_DEPLOYMENT) == member["metadata"]["name"]


def is_gone(pod: Mapping[str, Any], now: datetime) -> bool:
    """Whether a pod serves no more: it has ended, or its time to leave has been over for so long that its node must be lost."""
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return True
    leaves = pod["metadata"].get("deletionTimestamp")
    return leaves is not None and now - parse_timestamp(leaves) > LOST_AFTER


def make_own_metadata(member: Json) -> Json:
    """Of an object that is one ModelDeployment's alone, has its name, and goes with it."""
    meta = member["metadata"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": {**names.labels(names.EDGE), names.LABEL_MODEL_DEPLOYMENT: meta["name"]},
        "ownerReferences": [owner_reference(member, controller=True)],
    }


def _service_port(name: str, port: int) -> Json:
    return {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}


def make_shared_metadata(namespace: str, members: Iterable[Json]) -> Json:
    """Of an object that the whole namespace shares: one owner reference per member lets it go after the last."""
    owners = sorted((owner_reference(member, controller=False) for member in members), key=lambda ref: str(ref["uid"]))
    return {"name": names.EDGE, "namespace": namespace, "labels": names.labels(names.EDGE), "ownerReferences": owners}
