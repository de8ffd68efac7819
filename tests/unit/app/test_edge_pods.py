"""Pods that only look like edges are neither asked nor counted."""

import copy
from typing import Any

import pytest

from doubles.cluster import NAMESPACE, Cluster, controller_reference
from sundog_operator.api.installation import Installation
from sundog_operator.app.edge_pods import MAX_LOOKUPS, UNKNOWN_TTL_S, list_edge_pods
from sundog_operator.ports import DEPLOYMENT, POD, REPLICA_SET, Kind, Object, Ref

LABELS = {"app.kubernetes.io/name": "sundog-edge", "app.kubernetes.io/part-of": "sundog"}


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster(installation=Installation())
    await cluster.apply()
    await cluster.settle(20)
    assert await names_of(cluster) == ["sundog-edge-0"]
    return cluster


async def names_of(cluster: Cluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in await list_edge_pods(cluster.world, NAMESPACE)]


async def stored(cluster: Cluster, kind: Kind, name: str) -> Object:
    obj = await cluster.read(Ref(kind, NAMESPACE, name))
    return copy.deepcopy(obj)


async def create(cluster: Cluster, kind: str, name: str, owner: Object | None = None, **metadata: Any) -> Object:
    owners = {"ownerReferences": [owner]} if owner else {}
    return await cluster.kube.create(
        {
            "apiVersion": "v1" if kind == "Pod" else "apps/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, **owners, **metadata},
            **({"spec": {"containers": [{"name": "agent"}]}} if kind == "Pod" else {}),
        }
    )


async def test_a_pod_with_the_label_alone_is_no_edge(cluster: Cluster) -> None:
    await create(cluster, "Pod", "a-fake", labels=LABELS)
    assert await names_of(cluster) == ["sundog-edge-0"]


async def test_a_pod_of_another_replica_set_is_no_edge(cluster: Cluster) -> None:
    theirs = await create(cluster, "Deployment", "theirs")
    for owner, name in ((None, "bare"), (controller_reference(theirs), "of-theirs")):
        replica_set = await create(cluster, "ReplicaSet", name, owner)
        await create(cluster, "Pod", f"{name}-a", controller_reference(replica_set), labels=LABELS)
    assert await names_of(cluster) == ["sundog-edge-0"]


async def test_a_reference_by_name_with_another_uid_counts_for_nothing(cluster: Cluster) -> None:
    theirs = await create(cluster, "Deployment", "theirs")
    forged = controller_reference(theirs) | {"name": "sundog-edge"}
    replica_set = await create(cluster, "ReplicaSet", "sundog-edge-fake", forged)
    await create(cluster, "Pod", "a-fake", controller_reference(replica_set), labels=LABELS)
    assert await names_of(cluster) == ["sundog-edge-0"]


async def test_there_are_no_more_edges_than_the_deployment_wants(cluster: Cluster) -> None:
    for number in range(1, 12):
        await cluster.add_edge(f"sundog-edge-{number}")
    assert len(await names_of(cluster)) == 3, "two, and one that replaces another"


async def test_few_replica_sets_are_read_and_a_real_one_is_found_in_the_end(cluster: Cluster) -> None:
    for number in range(3 * MAX_LOOKUPS):
        replica_set = await create(cluster, "ReplicaSet", f"fake-{number}")
        await create(cluster, "Pod", f"a-fake-{number}", controller_reference(replica_set), labels=LABELS)
    cluster.world.replica_sets.clear()
    asked: list[str] = []
    cluster.kube.faults = lambda verb, ref: asked.append(ref.name) if ref.kind == REPLICA_SET else None
    for _ in range(4):
        asked.clear()
        found = await names_of(cluster)
        assert len(asked) <= MAX_LOOKUPS
    assert found == ["sundog-edge-0"]
    asked.clear()
    assert await names_of(cluster) == ["sundog-edge-0"]
    assert asked == []
    cluster.clock.advance(UNKNOWN_TTL_S)
    await names_of(cluster)
    assert len(asked) == MAX_LOOKUPS, "one that was not there may be now"


async def test_many_pods_of_others_keep_a_real_one_from_being_found_for_a_while_at_most(cluster: Cluster) -> None:
    count = 25 * MAX_LOOKUPS
    for number in range(count):
        replica_set = await create(cluster, "ReplicaSet", f"fake-{number}")
        await create(cluster, "Pod", f"a-fake-{number}", controller_reference(replica_set), labels=LABELS)
    cluster.world.replica_sets.clear()
    for _ in range(count // MAX_LOOKUPS + 1):
        # What was read first may be read again before the last of them was read once.
        cluster.clock.advance(UNKNOWN_TTL_S / 2)
        found = await names_of(cluster)
    assert found == ["sundog-edge-0"]


async def test_a_replica_set_that_the_next_deployment_adopts_is_the_edges_again(cluster: Cluster) -> None:
    """As after `kubectl delete deployment sundog-edge --cascade=orphan`."""
    (owner,) = (await stored(cluster, POD, "sundog-edge-0"))["metadata"]["ownerReferences"]
    orphan = await stored(cluster, REPLICA_SET, owner["name"])
    del orphan["metadata"]["ownerReferences"]
    orphan = await cluster.kube.replace(orphan)
    await cluster.kube.delete(Ref(DEPLOYMENT, NAMESPACE, "sundog-edge"))
    await cluster.settle(5)
    assert await names_of(cluster) == []
    deployment = await stored(cluster, DEPLOYMENT, "sundog-edge")
    await cluster.kube.replace(
        orphan | {"metadata": orphan["metadata"] | {"ownerReferences": [controller_reference(deployment)]}}
    )
    cluster.clock.advance(UNKNOWN_TTL_S)
    assert await names_of(cluster) == ["sundog-edge-0"]


async def test_without_the_deployment_no_pod_is_an_edge(cluster: Cluster) -> None:
    await cluster.kube.delete(Ref(DEPLOYMENT, NAMESPACE, "sundog-edge"))
    assert await names_of(cluster) == []


async def test_in_local_mode_each_pod_with_the_label_is_an_edge() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.settle(5)
    assert await names_of(cluster) == ["sundog-edge-0"]
    assert await cluster.kube.get(Ref(POD, NAMESPACE, "sundog-edge-0")) is not None
