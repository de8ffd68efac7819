"""Whose host name it is, where several ModelDeployments of a namespace ask for the same one."""

from collections.abc import Iterable, Mapping
from typing import Any

from sundog_operator.core.kubernetes import names


def find_conflicting_deployment(
    deployment: Mapping[str, Any], others: Iterable[Mapping[str, Any]], domain: str = names.CLUSTER_DOMAIN
) -> str:
    """The ModelDeployment that has the host which this one's `endpoint.host` asks for; empty when it is free or its own.

    A name that follows from a ModelDeployment's own name is always its own; any other belongs to the oldest that asks for it. The edge
    refuses a document in which a host appears twice, so one spec could otherwise stop the traffic changes of all.
    """
    wanted = _wanted(deployment)
    if not wanted:
        return ""
    rivals = [other for other in others if other["metadata"]["name"] != deployment["metadata"]["name"]]
    for other in rivals:
        if wanted in names.hosts(other["metadata"]["name"], other["metadata"]["namespace"], domain=domain):
            return str(other["metadata"]["name"])
    older = [
        other for other in rivals if _wanted(other) == wanted and creation_order(other) < creation_order(deployment)
    ]
    return str(min(older, key=creation_order)["metadata"]["name"]) if older else ""


def _wanted(deployment: Mapping[str, Any]) -> str:
    endpoint = (deployment.get("spec") or {}).get("endpoint")
    host = endpoint.get("host") if isinstance(endpoint, Mapping) else None
    return host if isinstance(host, str) else ""


def creation_order(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """Sorts ModelDeployments, the oldest first."""
    return str(deployment["metadata"].get("creationTimestamp", "")), str(deployment["metadata"]["name"])
