"""Faults of a cluster's capacity: stable keeps serving, the condition names cause and fix, and the rollout resumes without a hand."""

import functools
from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster
from doubles.nodes import GPU, find_no_node, offer, place, pods_of, set_quota
from sundog_operator.api.installation import parse_installation
from sundog_operator.app.controller import RECONCILERS
from sundog_operator.app.queue.keys import Key
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.requeue import RESYNC_S
from sundog_operator.ports import DEPLOYMENT, NODE, POD, Ref

PRODUCT = "nvidia.com/gpu.product"
MIG = "nvidia.com/mig-1g.10gb"
RAY = names.ray_cluster(0, "example.com/runtime:1")
SURGE = {**MANUAL, "capacity": "surge"}
ONE = {"gpu": {"count": 1}}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))


async def serve_on_gpus(cluster: Cluster, **resources: str) -> None:
    """Revision 1 serves with one device on the node `a`."""
    await offer(cluster, "a", {GPU: "1", **resources}, {PRODUCT: "NVIDIA-L4"})
    await cluster.deploy(rollout=SURGE, resources=ONE)
    await place(cluster, "a", 1)
    await cluster.settle(20)


async def is_held(cluster: Cluster, reason: str, message: str) -> None:
    """Check that revision 2 waits with this message, and that stable is as it was."""
    await cluster.settle(5)
    assert await cluster.read_condition("CapacityAvailable") == ("False", reason, f"revision 2: {message}")
    assert await cluster.read_condition("Stalled") == ("True", reason, message)
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.weights() == {1: 100}
    assert await pods_of(cluster, 2) == []
    assert await cluster.notes(reason) == [f"revision 2: {message}"]


async def test_a_type_that_no_node_has_is_named_with_those_that_nodes_have(cluster: Cluster) -> None:
    await serve_on_gpus(cluster)
    await offer(cluster, "b", {"cpu": "8"})
    await cluster.apply("file:///models/v2", rollout=SURGE, resources={"gpu": {"count": 1, "type": ["h100"]}})
    await is_held(
        cluster,
        "InsufficientCapacity",
        f"1 {GPU} of type h100 needed (1 × 1), 0 of 0 free on 0 nodes; other nodes: 1 with devices of another type or memory"
        f" (NVIDIA-L4), 1 without {GPU}. Correct spec.resources.gpu, add such a node, or name its type in"
        " installation.gpu.aliases",
    )
    await offer(cluster, "c", {GPU: "1"}, {PRODUCT: "NVIDIA-H100-NVL"})
    await cluster.until_weight(2, 25)


async def test_a_mig_profile_that_no_node_has_is_named_with_those_that_nodes_have(cluster: Cluster) -> None:
    await serve_on_gpus(cluster)
    await offer(cluster, "b", {"nvidia.com/mig-2g.20gb": "3"})
    gpu = {"count": 1, "sharing": {"mode": "mig", "profile": "1g.10gb"}}
    await cluster.apply("file:///models/v2", rollout=SURGE, resources={"gpu": gpu})
    await is_held(
        cluster,
        "InsufficientCapacity",
        f"1 {MIG} needed (1 × 1), 0 of 0 free on 0 nodes; other nodes: 2 without {MIG}. Set"
        " spec.resources.gpu.sharing.profile to one that nodes have: 2g.20gb",
    )
    await offer(cluster, "c", {MIG: "7"})
    await cluster.until_weight(2, 25)


async def test_a_device_plugin_that_reports_no_device_any_more_holds_a_canary_back(cluster: Cluster) -> None:
    await serve_on_gpus(cluster)
    await offer(cluster, "a", {GPU: "0"}, {PRODUCT: "NVIDIA-L4"})
    await cluster.apply("file:///models/v2", rollout=SURGE, resources=ONE)
    await is_held(
        cluster,
        "InsufficientCapacity",
        f"1 {GPU} needed (1 × 1), 0 of 0 free on 0 nodes; other nodes: 1 that report 0 {GPU}. Check the device plugin on"
        " these nodes",
    )
    await offer(cluster, "a", {GPU: "2"}, {PRODUCT: "NVIDIA-L4"})
    await cluster.until_weight(2, 25)


@pytest.mark.parametrize(
    ("hard", "used", "message"),
    [
        (
            {"requests.nvidia.com/gpu": "1"},
            {"requests.nvidia.com/gpu": "1"},
            f"1 {GPU} needed (1 × 1), 3 of 4 free on 1 node, 0 left by the namespace's quota",
        ),
        (
            {"requests.cpu": "1", "limits.memory": "100Gi"},
            {"requests.cpu": "1500m", "limits.memory": "4Gi"},
            "1 CPU needed by 1 more pod, 0 CPU left by requests.cpu of ResourceQuota team",
        ),
        ({"pods": "3"}, {"pods": "3"}, "1 pod needed, 0 pods left by pods of ResourceQuota team"),
    ],
    ids=["devices", "cpu", "pods"],
)
async def test_a_quota_that_is_lowered_holds_the_next_canary_back_until_it_is_raised(
    cluster: Cluster, hard: dict[str, str], used: dict[str, str], message: str
) -> None:
    await serve_on_gpus(cluster)
    await offer(cluster, "a", {GPU: "4"}, {PRODUCT: "NVIDIA-L4"})
    await set_quota(cluster, hard, used)
    await cluster.apply("file:///models/v2", rollout=SURGE, resources=ONE)
    await is_held(cluster, "InsufficientQuota", f"{message}. Raise the quota, or ask for less")
    await set_quota(cluster, dict.fromkeys(hard, "1Ti"), used)
    await cluster.until_weight(2, 25)


async def test_equal_pods_without_devices_come_in_place_of_stable_under_a_full_quota(
    cluster: Cluster,
) -> None:
    await offer(cluster, "a", {"cpu": "8", "memory": "32Gi"})
    await cluster.deploy(replicas=2, rollout=MANUAL)
    await place(cluster, "a", 1)
    await cluster.settle(5)
    await set_quota(cluster, {"pods": "5"}, {"pods": "5"})
    await cluster.apply("file:///models/v2", replicas=2, rollout=MANUAL, resources={"cpu": "2"})
    await is_held(
        cluster,
        "InsufficientQuota",
        "2 pods needed, 0 pods left by pods of ResourceQuota team. Raise the quota, or ask for less",
    )
    await cluster.roll_out(3, replicas=2, rollout=MANUAL)
    assert (await cluster.status())["capacity"]["mode"] == "inPlace"


async def test_a_canary_needs_cpu_and_memory_beside_its_device(cluster: Cluster) -> None:
    await serve_on_gpus(cluster, cpu="4", memory="16Gi")
    await offer(cluster, "b", {GPU: "4", "cpu": "2", "memory": "64Gi"})
    resources = {"cpu": "3500m", **ONE}
    await cluster.apply("file:///models/v2", rollout=SURGE, resources=resources)
    await is_held(
        cluster,
        "InsufficientCapacity",
        f"1 {GPU} needed (1 × 1), 4 of 5 free on 2 nodes, with 3.5 CPU and 2.5Gi memory free beside them for 0 pods. Free"
        " some, add nodes, or ask for less",
    )
    await offer(cluster, "b", {GPU: "4", "cpu": "4", "memory": "64Gi"})
    await cluster.until_weight(2, 25)


async def test_pods_without_devices_start_although_no_node_has_room_for_them(cluster: Cluster) -> None:
    await offer(cluster, "a", {"cpu": "4", "memory": "16Gi"})
    await cluster.deploy(resources={"cpu": "3"})
    await place(cluster, "a", 1)
    await cluster.settle(5)
    assert await cluster.condition("CapacityAvailable") == ("True", "NoGPURequested")
    await cluster.roll_out(resources={"cpu": "3"})
    assert await cluster.read_condition("CapacityAvailable") == (
        "False",
        "InsufficientCapacity",
        "revision 2: 1 pod with 3 CPU and 2.5Gi memory needed, 0 pods fit on 1 node. Free some, add nodes, or ask for less",
    )
    await place(cluster, "b", 2)
    await cluster.settle(2)
    assert (await cluster.condition("CapacityAvailable"))[0] == "True"


async def test_pods_without_devices_wait_where_all_nodes_that_may_come_are_known() -> None:
    pool = "{name: cpu, maxNodes: 2, labels: {pool: cpu}, allocatable: {cpu: 4}}"
    text = f"{{runtimeImage: 'example.com/runtime:1', nodePools: [{pool}]}}"
    cluster = Cluster(installation=parse_installation(text, "test"))
    await offer(cluster, "a", {"cpu": "4"}, {"pool": "cpu"})
    await cluster.deploy(resources={"cpu": "3"})
    await place(cluster, "a", 1)
    await cluster.settle(5)
    await cluster.apply("file:///models/v2", rollout=SURGE, resources={"cpu": "5"})
    await is_held(
        cluster,
        "InsufficientCapacity",
        "1 pod with 5 CPU and 2.5Gi memory needed, 0 pods fit on 1 node, 0 pods on 1 node that may be added. Free some, add"
        " nodes, or ask for less",
    )
    await cluster.apply("file:///models/v2", rollout=SURGE, resources={"cpu": "4"})
    await cluster.until_weight(3, 25)


async def test_a_canary_leaves_room_for_pods_that_stable_lacks(cluster: Cluster) -> None:
    await offer(cluster, "a", {GPU: "2"})
    await cluster.deploy(rollout=SURGE, resources=ONE)
    await cluster.settle(20)
    assert (await cluster.condition("CapacityAvailable"))[0] == "True"
    await offer(cluster, "a", {GPU: "1"})
    await cluster.apply("file:///models/v2", rollout=SURGE, resources=ONE)
    await cluster.settle(5)
    assert (await cluster.read_condition("CapacityAvailable"))[2] == (
        f"revision 2: 2 {GPU} needed (2 × 1), 1 of 1 free on 1 node, 1 of them for stable. Free some, add nodes, or ask for less"
    )
    await place(cluster, "a", 1)
    await offer(cluster, "b", {GPU: "1"})
    await cluster.until_weight(2, 25)


async def compare(cluster: Cluster, *resources: dict[str, Any], name: str = "compared") -> None:
    """An Experiment with one arm for each of these resources."""
    arms = [{"name": f"arm-{number}", "resources": each} for number, each in enumerate(resources)]
    meta = {"name": name, "namespace": NAMESPACE}
    spec = {"modelDeployment": NAME, "arms": arms}
    kind = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment"}
    await cluster.kube.apply({**kind, "metadata": meta, "spec": spec})


async def is_experiment_held(cluster: Cluster, reason: str, message: str) -> None:
    """Check that the Experiment waits with this message, and that no arm exists."""
    await cluster.settle(5)
    conditions = (await cluster.experiment("compared"))["status"]["conditions"]
    running = next(each for each in conditions if each["type"] == "Running")
    assert (running["status"], running["reason"], running["message"]) == ("False", reason, message)
    assert await pods_of(cluster, 2) == []


async def has_arms(cluster: Cluster) -> bool:
    return bool(await pods_of(cluster, 2)) and bool(await pods_of(cluster, 3))


async def test_arms_that_fit_only_one_by_one_wait_until_all_fit(cluster: Cluster) -> None:
    await serve_on_gpus(cluster)
    await offer(cluster, "b", {GPU: "2"})
    await compare(cluster, {}, {"gpu": {"count": 2}})
    await is_experiment_held(
        cluster,
        "InsufficientCapacity",
        f"3 {GPU} needed by 1 × (1 CPU, 2.5Gi memory, 1 {GPU}) and 1 × (1 CPU, 2.5Gi memory, 2 {GPU}), 2 {GPU} free on 1 node."
        " Free some, add nodes, or ask for less",
    )
    # Another one behind it starts no sooner, so nothing is looked at without a pause.
    await compare(cluster, {}, name="later")
    await cluster.settle(5)
    assert await RECONCILERS["modeldeployment"](cluster.world, Key("modeldeployment", NAMESPACE, NAME)) == RESYNC_S
    await offer(cluster, "c", {GPU: "1"})
    await cluster.until(functools.partial(has_arms, cluster))


async def test_quotas_and_not_nodes_hold_back_arms_without_devices(cluster: Cluster) -> None:
    await offer(cluster, "a", {"cpu": "2", "memory": "8Gi"})
    await cluster.deploy()
    await place(cluster, "a", 1)
    await cluster.settle(5)
    await set_quota(cluster, {"requests.cpu": "8"}, {"requests.cpu": "3"})
    await compare(cluster, {"cpu": "2"}, {"cpu": "4"})
    await is_experiment_held(
        cluster,
        "InsufficientQuota",
        "6 CPU needed by 2 more pods, 5 CPU left by requests.cpu of ResourceQuota team. Raise the quota, or ask for less",
    )
    await set_quota(cluster, {"requests.cpu": "9"}, {"requests.cpu": "3"})
    await cluster.until(functools.partial(has_arms, cluster))


async def start_canary(cluster: Cluster) -> None:
    """Revision 2 has 25 % of the traffic and the node `b`."""
    await serve_on_gpus(cluster)
    await offer(cluster, "b", {GPU: "1"})
    await cluster.roll_out(rollout=SURGE, resources=ONE)
    await place(cluster, "b", 2)
    await cluster.settle(2)
    assert (await cluster.condition("CapacityAvailable"))[0] == "True"


async def test_a_canary_that_fails_on_a_node_is_held_back_although_another_pod_finds_none(cluster: Cluster) -> None:
    await start_canary(cluster)
    assert cluster.kuberay is not None
    cluster.kuberay.stuck = {"digits-r2"}
    cluster.serve_of(RAY).room["digits-r2"] = 0
    (pod,) = await pods_of(cluster, 2)
    another = {**pod, "metadata": {"name": "another", "namespace": NAMESPACE, "labels": pod["metadata"]["labels"]}}
    another["spec"] = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    await cluster.kube.create(another)
    await find_no_node(cluster, 2)
    await cluster.settle(155)
    assert await cluster.weights() == {1: 100}
    assert (await cluster.status())["lastRollout"]["code"] == "CandidateUnavailable"
    assert await cluster.condition("Stalled") == ("True", "Aborted")


async def test_a_canary_without_its_node_gives_traffic_back_and_returns_with_it(cluster: Cluster) -> None:
    await start_canary(cluster)

    serve, kuberay = cluster.serve_of(RAY), cluster.kuberay
    assert kuberay is not None
    kuberay.unplaced, serve.room["digits-r2"] = {"digits-r2"}, 0
    await cluster.kube.delete(Ref(NODE, "", "b"))
    for pod in await pods_of(cluster, 2):
        await cluster.kube.delete(Ref(POD, NAMESPACE, pod["metadata"]["name"]))
    await cluster.settle(3)
    await find_no_node(cluster, 2)
    await cluster.settle(3)
    status, reason, message = await cluster.read_condition("RevisionReady")
    assert (status, reason) == ("False", "Unschedulable")
    assert message.endswith(f"0 of 1 nodes: 1 without enough free {GPU}. Free some, add nodes, or ask for less")
    assert len(await cluster.notes("Unschedulable")) == 1
    await cluster.settle(40)
    assert await cluster.weights() == {1: 100}
    last = (await cluster.status())["lastRollout"]
    assert (last["outcome"], last["code"]) == ("Aborted", "CapacityLost")
    assert await cluster.read_condition("Stalled") == (
        "True",
        "InsufficientCapacity",
        f"1 {GPU} needed (1 × 1), 0 of 1 free on 1 node. Free some, add nodes, or ask for less",
    )
    assert await cluster.condition("Ready") == ("True", "Serving")

    kuberay.unplaced, serve.room = set(), {}
    await offer(cluster, "b", {GPU: "1"})
    await cluster.until_weight(2, 25)
    assert (await cluster.status())["experiment"] == "digits-r2-a2"


async def lose_replica(cluster: Cluster) -> None:
    """Revision 1 serves with one device on each of the nodes `a` and `b`, and loses its pod on `b`."""
    await offer(cluster, "a", {GPU: "1"})
    await offer(cluster, "b", {GPU: "1"})
    await cluster.deploy(replicas=2, resources=ONE)
    for pod, node in zip(await pods_of(cluster, 1), "ab", strict=True):
        await cluster.kube.replace({**pod, "spec": {**pod["spec"], "nodeName": node}})
    await cluster.settle(20)
    assert await cluster.read_condition("CapacityAvailable") == ("True", "Fits", f"1 {GPU} for each replica")
    serve = cluster.serve_of(RAY)
    serve.room["digits-r1"] = 1
    serve.crash_some("digits-r1", 1)
    (_, lost) = await pods_of(cluster, 1)
    await cluster.kube.delete(Ref(POD, NAMESPACE, lost["metadata"]["name"]))


async def serves_with_less(cluster: Cluster, reason: str, message: str, *, pods: str) -> None:
    """Check that revision 1 serves with one of two replicas, and what its conditions say of capacity and of its pods."""
    await cluster.settle(5)
    assert await cluster.read_condition("CapacityAvailable") == ("False", reason, f"revision 1: {message}")
    assert (await cluster.read_condition("RevisionReady"))[2].endswith(pods)
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert await cluster.weights() == {1: 100}
    status = await cluster.status()
    assert (status["replicas"], status["readyReplicas"]) == (2, 1)
    assert await cluster.notes(reason) == [f"revision 1: {message}"]


async def has_recovered(cluster: Cluster) -> None:
    cluster.serve_of(RAY).room = {}
    await cluster.settle(30)
    assert await cluster.read_condition("CapacityAvailable") == ("True", "Fits", f"1 {GPU} for each replica")
    assert await cluster.condition("RevisionReady") == ("True", "Ready")
    assert (await cluster.status())["readyReplicas"] == 2


async def test_a_lost_node_of_a_serving_revision_is_missing_capacity(
    cluster: Cluster,
) -> None:
    await lose_replica(cluster)
    await cluster.kube.delete(Ref(NODE, "", "b"))
    assert cluster.kuberay is not None
    cluster.kuberay.unplaced, cluster.kuberay.node = {"digits-r1"}, ""
    await cluster.settle(3)
    await find_no_node(cluster, 1)
    await serves_with_less(
        cluster,
        "InsufficientCapacity",
        f"1 {GPU} needed (1 × 1), 0 of 1 free on 1 node. Free some, add nodes, or ask for less",
        pods=f"0 of 1 nodes: 1 without enough free {GPU}. Free some, add nodes, or ask for less",
    )
    await offer(cluster, "b", {GPU: "1"})
    cluster.kuberay.unplaced = set()
    for pod in await pods_of(cluster, 1):
        await cluster.kube.replace({**pod, "spec": {**pod["spec"], "nodeName": pod["spec"].get("nodeName", "b")}})
    await has_recovered(cluster)


async def test_a_lowered_quota_of_a_serving_revision_is_missing_capacity(
    cluster: Cluster,
) -> None:
    await lose_replica(cluster)
    key = f"requests.{GPU}"
    await set_quota(cluster, {key: "1"}, {key: "1"})
    refusal = f"exceeded quota: team, requested: {key}=1, used: {key}=1, limited: {key}=1"
    assert cluster.kuberay is not None
    cluster.kuberay.refusals = {RAY: f'pods "digits-r1-worker-x" is forbidden: {refusal}'}
    await serves_with_less(
        cluster,
        "InsufficientQuota",
        f"1 {GPU} needed (1 × 1), 1 of 2 free on 2 nodes, 0 left by the namespace's quota. Raise the quota, or ask for less",
        pods=f"{refusal}. Raise the quota, or ask for less",
    )
    await set_quota(cluster, {key: "2"}, {key: "1"})
    cluster.kuberay.refusals = {}
    await has_recovered(cluster)


async def test_edges_refused_by_a_quota_are_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_: str) -> None:
        ref = Ref(DEPLOYMENT, NAMESPACE, names.EDGE)
        message = 'pods "sundog-edge-5d8c-" is forbidden: exceeded quota: team, requested: pods=1, used: pods=3, limited: pods=3'
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
        stored = await cluster.kube.get(ref)
        if stored is not None and stored.get("status") != {"conditions": [failure]}:
            version = stored["metadata"]["resourceVersion"]
            await cluster.kube.patch_status(ref, {"conditions": [failure]}, resource_version=version)

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "add_edge", refused)
        await cluster.apply()
        await cluster.settle(45)
        status, reason, message = await cluster.read_condition("TrafficSynced")
        assert (status, reason) == ("False", "EdgeNotConfirmed")
        assert message.endswith(
            "no edge not ready: forbidden: exceeded quota: team, requested: pods=1, used: pods=3, limited: pods=3"
        )
    await cluster.until_serves(1)
