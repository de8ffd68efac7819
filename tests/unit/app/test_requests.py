"""Requests to the API server, and passes, of a ModelDeployment until it serves and while it is idle."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from doubles.cluster import model_deployment
from doubles.watched_cluster import WatchedCluster, watched_cluster

MORE = 8
UNTIL_SERVING = ["False Deploying", "False NoHealthyReplica", "True Serving"]


@pytest.fixture
async def cluster() -> AsyncIterator[WatchedCluster]:
    """A serving ModelDeployment, with the shared objects of its namespace."""
    async with watched_cluster() as cluster:
        await cluster.kube.create(model_deployment(name="first"))
        await cluster.until_all(is_ready)
        for _ in range(10):
            await cluster.tick()
        yield cluster


async def add(cluster: WatchedCluster, count: int = MORE) -> None:
    cluster.counted.asked.clear()
    cluster.counted.statuses.clear()
    cluster.passes.counted.clear()
    for number in range(count):
        await cluster.kube.create(model_deployment(f"file:///models/v{number}", name=f"more-{number}"))


def is_ready(status: dict[str, Any]) -> bool:
    return any((each["type"], each["status"]) == ("Ready", "True") for each in status.get("conditions", ()))


def readiness(status: dict[str, Any]) -> str:
    (ready,) = (each for each in status["conditions"] if each["type"] == "Ready")
    return f"{ready['status']} {ready['reason']}"


async def test_three_statuses_are_written_until_one_serves(cluster: WatchedCluster) -> None:
    """It is deployed, it gets traffic, it serves: the first two trigger the writes to Serve and to the edges."""
    await add(cluster)
    await cluster.until_all(is_ready)
    for number in range(MORE):
        written = [status for name, status in cluster.counted.statuses if name == f"more-{number}"]
        assert [readiness(status) for status in written] == UNTIL_SERVING
        assert [status.get("candidate", {}).get("revision") for status in written] == [1, None, None]
        assert ["startup" in status for status in written] == [False, False, True]


async def test_a_ray_that_comes_up_meanwhile_is_not_reported_step_by_step() -> None:
    async with watched_cluster() as cluster:
        await add(cluster)
        await cluster.until_all(is_ready)
        for number in range(MORE):
            written = [status for name, status in cluster.counted.statuses if name == f"more-{number}"]
            assert [readiness(status) for status in written] == UNTIL_SERVING


async def test_requests_until_one_serves(cluster: WatchedCluster) -> None:
    await add(cluster)
    await cluster.until_all(is_ready)
    asked = cluster.counted.asked
    assert asked["create controllerrevisions"] == MORE
    assert asked["create events"] == 2 * MORE, "RevisionCreated and Promoted"
    assert asked["get services"] == asked["create services"] == MORE, "asked for once: whether it is somebody's"


async def test_passes_until_one_serves(cluster: WatchedCluster) -> None:
    """One pass for each status, and some that poll Serve and the edges; no pass directly after the operator's own write."""
    await add(cluster)
    await cluster.until_all(is_ready)
    assert cluster.passes.counted["modeldeployment"] <= 5.5 * MORE
