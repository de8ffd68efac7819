"""The objects of a namespace's edge."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sundog_operator.core import names
from sundog_operator.core.revisions import owner_reference

HTTP_PORT = 8080
AGENT_PORT = 9090

Json = dict[str, Any]


def make_config_map(namespace: str, members: Iterable[Json], document: Mapping[str, Any]) -> Json:
    """The ConfigMap with the split document."""
    text = json.dumps(document, sort_keys=True, indent=1)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(namespace, members),
        "data": {names.SPLIT_KEY: text},
    }


def make_deployment(namespace: str, members: Iterable[Json], image: str) -> Json:
    """The edge's Deployment: HAProxy and its agent beside each other, so that either can die alone."""
    labels = names.labels(names.EDGE)
    containers = [_container("haproxy", image, "http", HTTP_PORT), _container("agent", image, "agent", AGENT_PORT)]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(namespace, members),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {names.LABEL_NAME: names.EDGE}},
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


def _meta(namespace: str, members: Iterable[Json]) -> Json:
    owners = sorted((owner_reference(member, controller=False) for member in members), key=lambda ref: str(ref["uid"]))
    return {"name": names.EDGE, "namespace": namespace, "labels": names.labels(names.EDGE), "ownerReferences": owners}
