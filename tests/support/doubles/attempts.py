"""Queries of a rollout's Experiment; by default the first rollout of `digits`."""

from typing import Any

from doubles.cluster import Cluster

FIRST = "digits-r2"


async def experiment(cluster: Cluster, name: str = FIRST) -> dict[str, Any]:
    """Return the Experiment's status; empty before its plan is frozen."""
    status: dict[str, Any] = (await cluster.experiment(name)).get("status", {})
    return status


async def ended(cluster: Cluster) -> bool:
    return (await experiment(cluster))["phase"] in ("Concluded", "Stopped")


async def paused(cluster: Cluster) -> bool:
    return "paused" in await experiment(cluster)
