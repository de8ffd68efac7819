"""Queries of a rollout's Experiment; by default the first rollout of `digits`."""

from typing import Any

from doubles.cluster import Cluster

FIRST = "digits-r2"


async def experiment(cluster: Cluster, name: str = FIRST) -> dict[str, Any]:
    """Return the Experiment's status; empty before its plan is frozen."""
    status: dict[str, Any] = (await cluster.experiment(name)).get("status", {})
    return status


async def at_step(cluster: Cluster, index: int, name: str = FIRST) -> bool:
    """Return whether the rollout has begun and is at this step, counted from 1."""
    has_begun = bool((await cluster.status()).get("experiment"))
    return has_begun and bool((await experiment(cluster, name)).get("step", {}).get("index") == index)


async def has_drained(cluster: Cluster) -> bool:
    """Return whether the rollout is over and no revision drains any more."""
    status = await cluster.status()
    return "candidate" not in status and not status.get("retiring")


async def ended(cluster: Cluster) -> bool:
    return (await experiment(cluster))["phase"] in ("Concluded", "Stopped")


async def paused(cluster: Cluster) -> bool:
    return "paused" in await experiment(cluster)
