"""A lost replica causes an event, even if Ray does not answer in between."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from doubles.cluster import Cluster
from sundog_operator.core.observed import ReplicaStart, ReplicaState, ServeState

Read = Callable[..., Awaitable[ServeState]]


def with_another_replica(read: Read) -> Read:
    """Return a read of Serve in which another replica stands in the place of the one that ran."""

    async def replaced(*asked: Any) -> ServeState:
        state = await read(*asked)
        (app,) = state.applications.values()
        (deployment,) = app.deployments
        renewed = replace(deployment, replicas=(ReplicaState("another", "RUNNING"),))
        return replace(state, applications={app.name: replace(app, deployments=(renewed,))})

    return replaced


async def test_a_lost_replica_leaves_one_event() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.settle(3)
    assert "ReplicaLost" not in await cluster.events()
    read = cluster.serve.read

    async def silent(*_asked: Any) -> ServeState:
        return ServeState(known=False)

    for answer in (silent, with_another_replica(read)):
        cluster.serve.read = answer  # type: ignore[method-assign]
        await cluster.settle(3)
    (note,) = await cluster.notes("ReplicaLost")
    assert note == "revision 1: replica digits-r1#0 ended; Serve starts a replacement; 1 of 1 run"


async def test_a_service_that_woke_between_two_looks_has_lost_nothing() -> None:
    cluster = Cluster()
    await cluster.deploy(autoscaling={"minReplicas": 0, "maxReplicas": 3})
    cluster.serve.load("digits-r1", 1)
    await cluster.settle(15)
    read = cluster.serve.read

    woken = cluster.clock.now()
    cluster.serve.started = ReplicaStart({"load": 1.0}, woken, woken, woken + timedelta(seconds=4))
    cluster.serve.read = with_another_replica(read)  # type: ignore[method-assign]
    await cluster.settle(3)
    assert await cluster.notes("ReplicaLost") == []
    cluster.serve.read = read  # type: ignore[method-assign]
    await cluster.settle(3)
    assert len(await cluster.notes("ReplicaLost")) == 1
