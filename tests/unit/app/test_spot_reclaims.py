"""A canary whose spot nodes are reclaimed, in memory with stand-ins for KubeRay and Ray."""

import pytest

from doubles.cluster import MANUAL, NAMESPACE, Cluster
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import EXPERIMENT, POD, Object, Ref


async def canary_at_weight(spot: str) -> Cluster:
    """A cluster with a canary of two pods on a node, at 25 % of traffic."""
    cluster = Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))
    assert cluster.kuberay is not None
    cluster.kuberay.node = "node"
    await cluster.deploy(replicas=2, scheduling={"spot": spot})
    await cluster.roll_out(replicas=2, rollout=MANUAL, scheduling={"spot": spot})
    return cluster


async def pods_of(cluster: Cluster, revision: int) -> list[Object]:
    return await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: str(revision)})


async def evict(cluster: Cluster, pods: list[Object]) -> None:
    """Mark pods as Kubernetes does before it evicts them."""
    for pod in pods:
        meta = pod["metadata"]
        status = {"phase": "Running", "conditions": [{"type": "DisruptionTarget", "status": "True"}]}
        ref = Ref(POD, NAMESPACE, meta["name"])
        await cluster.kube.patch_status(ref, status, resource_version=meta["resourceVersion"])


@pytest.mark.parametrize("spot", ["prefer", "require"])
async def test_a_canary_that_loses_all_its_spot_nodes_is_rolled_out_again(spot: str) -> None:
    cluster = await canary_at_weight(spot)
    await evict(cluster, await pods_of(cluster, 2))
    await cluster.settle(2)
    assert (await cluster.weights())[1] == 100
    last = (await cluster.status())["lastRollout"]
    assert last["reason"].startswith("SpotReclaimed: no pod of revision 2 is left on a node")
    first = await cluster.read(Ref(EXPERIMENT, NAMESPACE, "digits-r2"))
    assert first["status"]["phase"] == "Stopped"
    assert (await cluster.status()).get("heldBack", []) == []
    for pod in await pods_of(cluster, 2):
        await cluster.kube.delete(Ref(POD, NAMESPACE, pod["metadata"]["name"]))
    await cluster.until_weight(2, 25)
    assert (await cluster.status())["experiment"] == "digits-r2-a2"


async def test_a_canary_with_a_pod_left_goes_on() -> None:
    cluster = await canary_at_weight("prefer")
    _, *others = await pods_of(cluster, 2)
    await evict(cluster, others)
    await cluster.settle(5)
    assert await cluster.weights() == {1: 75, 2: 25}


async def test_a_canary_that_allows_no_spot_nodes_is_not_excused() -> None:
    cluster = await canary_at_weight("never")
    await evict(cluster, await pods_of(cluster, 2))
    await cluster.settle(5)
    assert await cluster.weights() == {1: 75, 2: 25}
    for _ in range(72):
        for serve in cluster.serve_apis.by_dashboard.values():
            serve.crash_replicas("digits-r2")
        await cluster.settle(2)
    await cluster.settle(8)
    assert (await cluster.status())["lastRollout"]["reason"].startswith("CandidateUnavailable")
