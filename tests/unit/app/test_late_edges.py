"""Edges that do not apply an abort: they are named, then replaced one by one, but never all of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster
from sundog_operator.api.installation import Installation
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.edge.objects import LOST_AFTER, is_gone
from sundog_operator.core.planner.requeue import RESYNC_S
from sundog_operator.ports import DEPLOYMENT, POD, Ref

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEY = Key("modeldeployment", NAMESPACE, NAME)


async def edges(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["name"] for pod in await cluster.kube.list(POD, NAMESPACE)}


async def aborted(*late: str, in_cluster: bool = True, command: str = "abort revision=2 id=stop") -> Cluster:
    """Three edges, an aborted canary, and some edges without the abort."""
    cluster = Cluster()
    await cluster.deploy()
    for number in (1, 2):
        await cluster.add_edge(f"sundog-edge-{number}")
    await cluster.roll_out()
    await cluster.settle(3)
    if in_cluster:
        cluster.install(Installation())
        deployment = await cluster.read(Ref(DEPLOYMENT, NAMESPACE, "sundog-edge"))
        await cluster.kube.replace({**deployment, "spec": {**deployment["spec"], "replicas": 3}})
        await cluster.adopt_edges()
    cluster.edges.stale = {*late}
    await cluster.command(command)
    return cluster


async def test_an_edge_without_the_abort_is_reported_after_30_s_and_replaced_after_60() -> None:
    cluster = await aborted("sundog-edge-1")
    await cluster.settle(33)
    assert await cluster.condition("TrafficSynced") == ("False", "EdgeNotConfirmed")
    assert "sundog-edge-1" in await edges(cluster)
    await cluster.settle(24)
    assert "sundog-edge-1" in await edges(cluster)
    await cluster.settle(9)
    assert await edges(cluster) == {"sundog-edge-0", "sundog-edge-2"}
    assert (await cluster.events()).count("EdgeReplaced") == 1
    await cluster.settle(10)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")
    assert not (await cluster.status()).get("retiring")


async def test_of_several_one_goes_at_a_time_and_never_the_last_that_serves() -> None:
    cluster = await aborted("sundog-edge-1", "sundog-edge-2")
    await cluster.until(lambda: _is(cluster, {"sundog-edge-0", "sundog-edge-2"}), rounds=80)
    await cluster.until(lambda: _is(cluster, {"sundog-edge-0"}), rounds=5)
    cluster = await aborted("sundog-edge-0", "sundog-edge-1", "sundog-edge-2")
    await cluster.settle(120)
    assert len(await edges(cluster)) == 3


async def test_an_edge_without_an_edit_of_the_endpoint_is_reported() -> None:
    cluster = Cluster()
    await cluster.deploy()
    await cluster.add_edge("sundog-edge-1")
    await cluster.settle(3)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")
    cluster.edges.stale = {"sundog-edge-1"}
    await cluster.apply(endpoint={"rateLimit": {"perClient": "5/s"}})
    await cluster.settle(10)
    assert await cluster.condition("TrafficSynced") == ("Unknown", "Confirming")
    assert await cluster.condition("Promoted") == ("True", "Promoted"), "the split is in force"
    await cluster.settle(30)
    message = "the newest settings are not in force after 30 s: sundog-edge-1 has older settings"
    assert await cluster.read_condition("TrafficSynced") == ("False", "EdgeNotConfirmed", message)
    assert await RECONCILERS["modeldeployment"](cluster.world, KEY) == RESYNC_S
    cluster.edges.stale = set()
    await cluster.settle(3)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")


async def test_an_abort_replaces_no_edge_that_was_late_for_another_reason_before() -> None:
    cluster = await aborted(command="pause revision=2 id=wait")
    cluster.edges.stale = {"sundog-edge-1"}
    await cluster.apply("file:///models/v2", endpoint={"rateLimit": {"perClient": "5/s"}})
    await cluster.settle(70)
    assert await cluster.condition("TrafficSynced") == ("False", "EdgeNotConfirmed")
    await cluster.command("abort revision=2 id=stop")
    await cluster.settle(20)
    assert len(await edges(cluster)) == 3
    await cluster.settle(50)
    assert len(await edges(cluster)) == 2


async def _is(cluster: Cluster, wanted: set[str]) -> bool:
    return await edges(cluster) == wanted


@pytest.mark.parametrize(
    ("in_cluster", "command"), [(False, "abort revision=2 id=stop"), (True, "promote revision=2 id=on")]
)
async def test_no_edge_is_replaced_in_local_mode_or_without_an_abort(in_cluster: bool, command: str) -> None:
    cluster = await aborted("sundog-edge-1", in_cluster=in_cluster, command=command)
    await cluster.settle(120)
    assert await cluster.condition("TrafficSynced") == ("False", "EdgeNotConfirmed")
    assert len(await edges(cluster)) == 3


@pytest.mark.parametrize(
    ("pod", "gone"),
    [
        ({}, False),
        ({"phase": "Running"}, False),
        ({"phase": "Failed"}, True),
        ({"phase": "Succeeded"}, True),
        ({"leaves": NOW + timedelta(seconds=100)}, False),
        ({"leaves": NOW - LOST_AFTER}, False),
        ({"leaves": NOW - LOST_AFTER - timedelta(seconds=1)}, True),
    ],
)
def test_which_pods_can_serve_nothing_any_more(pod: dict[str, Any], gone: bool) -> None:
    leaves = {"deletionTimestamp": pod["leaves"].isoformat()} if "leaves" in pod else {}
    assert is_gone({"metadata": {"name": "e", **leaves}, "status": {"phase": pod.get("phase", "")}}, NOW) is gone


async def test_an_edge_that_was_evicted_is_not_waited_for() -> None:
    cluster = await aborted("sundog-edge-1")
    ref = Ref(POD, NAMESPACE, "sundog-edge-1")
    stored = await cluster.read(ref)
    status = {**stored["status"], "phase": "Failed"}
    await cluster.set_status(ref, status)
    await cluster.settle(15)
    assert await cluster.condition("TrafficSynced") == ("True", "InForce")
