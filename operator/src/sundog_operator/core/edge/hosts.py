"""Which ModelDeployment of a namespace owns a host name when several ask for it."""

from collections.abc import Iterable, Mapping
from typing import Any

from sundog_operator.core.kubernetes import names


def find_conflicting_deployment(
    deployment: Mapping[str, Any], others: Iterable[Mapping[str, Any]], domain: str = names.CLUSTER_DOMAIN
) -> str:
    """Return the other ModelDeployment that owns this one's `endpoint.host`; empty when the host is free or its own.

    A ModelDeployment always owns the hosts that follow from its own name. Any other host belongs to the oldest ModelDeployment that asks
    for it. Edges reject a document with a host twice, so one spec could otherwise stop the traffic changes of all.
    """
    wanted = _requested_host(deployment)
    if not wanted:
        return ""
    others = [other for other in others if other["metadata"]["name"] != deployment["metadata"]["name"]]
    for other in others:
        if wanted in names.hosts(other["metadata"]["name"], other["metadata"]["namespace"], domain=domain):
            return str(other["metadata"]["name"])
    older = [
        other
        for other in others
        if _requested_host(other) == wanted and creation_order(other) < creation_order(deployment)
    ]
    return str(min(older, key=creation_order)["metadata"]["name"]) if older else ""


def _requested_host(deployment: Mapping[str, Any]) -> str:
    endpoint = (deployment.get("spec") or {}).get("endpoint")
    host = endpoint.get("host") if isinstance(endpoint, Mapping) else None
    return host if isinstance(host, str) else ""


def creation_order(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key that sorts ModelDeployments, the oldest first."""
    return str(deployment["metadata"].get("creationTimestamp", "")), str(deployment["metadata"]["name"])
