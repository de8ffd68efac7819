"""Whole rollouts through plan, statuses, Serve document and split document, in a world in memory."""

import functools

import pytest

from doubles.cluster import MANUAL, TIMED, Cluster


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def served(cluster: Cluster, uri: str = "file:///models/v1", **spec: object) -> Cluster:
    await cluster.apply(uri, **spec)
    await cluster.until(functools.partial(cluster.serves, 1))
    await cluster.settle(15)
    return cluster


async def test_first_revision_becomes_stable_and_ready(cluster: Cluster) -> None:
    await served(cluster)
    status = await cluster.status()
    assert status["stable"]["revision"] == 1
    assert status["stable"]["weight"] == 100
    assert status["observedGeneration"] == 1
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    assert await cluster.condition("Stalled") == ("Absent", "")
    assert await cluster.condition("Reconciling") == ("Absent", "")


async def test_manual_canary_walks_its_weights_and_is_promoted(cluster: Cluster) -> None:
    await served(cluster)
    await cluster.apply("file:///models/v2")
    await cluster.until(functools.partial(cluster.at_weight, 2, 25))
    await cluster.settle(20)
    assert await cluster.weights() == {1: 75, 2: 25}
    assert (await cluster.condition("Progressing"))[1] == "RollingOut"
    assert await cluster.condition("Ready") == ("True", "Serving")

    await cluster.command("promote revision=2 id=a")
    await cluster.until(functools.partial(cluster.at_weight, 2, 50))
    await cluster.command("promote revision=2 id=b")
    await cluster.until(functools.partial(cluster.serves, 2))
    await cluster.settle(30)
    status = await cluster.status()
    assert "candidate" not in status
    assert status.get("retiring", []) == []
    assert status["lastRollout"]["outcome"] == "Promoted"
    assert await cluster.condition("Promoted") == ("True", "Promoted")
    experiment = await cluster.experiment("digits-r2")
    assert experiment["status"]["phase"] == "Concluded"
    assert experiment["status"]["verdict"]["decision"] == "Undecided"
