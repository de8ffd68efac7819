"""A lost replica causes an event, even if Ray does not answer in between."""

from dataclasses import replace
from typing import Any

from doubles.cluster import Cluster
from sundog_operator.core.observed import ReplicaState, ServeState


async def test_a_lost_replica_leaves_one_event() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.until(lambda: cluster.serves(1))
    await cluster.settle(3)
    assert "ReplicaLost" not in await cluster.events()
    read = cluster.serve.read

    async def replaced(*asked: Any) -> ServeState:
        state = await read(*asked)
        (app,) = state.applications.values()
        (deployment,) = app.deployments
        renewed = replace(deployment, replicas=(ReplicaState("another", "RUNNING"),))
        return replace(state, applications={app.name: replace(app, deployments=(renewed,))})

    async def silent(*_asked: Any) -> ServeState:
        return ServeState(known=False)

    for answer in (silent, replaced):
        cluster.serve.read = answer  # type: ignore[method-assign]
        await cluster.settle(3)
    (note,) = await cluster.notes("ReplicaLost")
    assert note == "revision 1: replica digits-r1#0 ended; Serve starts a replacement; 1 of 1 run"
