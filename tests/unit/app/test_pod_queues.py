"""A ModelDeployment whose pods Kueue admits, in memory with stand-ins for Kueue, KubeRay and Ray."""

from typing import Any

import pytest

from doubles.cluster import MANUAL, NAME, NAMESPACE, Cluster
from doubles.kuberay import create_with_status
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import kueue, names
from sundog_operator.errors import DependencyError, Forbidden, NotServed
from sundog_operator.ports import NODE, OLD_WORKLOAD, POD, WORKLOAD, Kind, Object, Ref

GPU = "nvidia.com/gpu"
NO_QUOTA = (
    "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor l4, 1 more needed"
)
RAY = names.ray_cluster(0, "example.com/runtime:1")
DASHBOARD = f"http://{RAY}-head-svc.{NAMESPACE}.svc.cluster.local:8265"
QUEUED: dict[str, Any] = {"scheduling": {"queue": "team-a"}, "resources": {"gpu": {"count": 1}}}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(installation=parse_installation("runtimeImage: example.com/runtime:1", "test"))


async def queued_pod(cluster: Cluster, revision: int) -> Object:
    """Start a queued revision, whose replicas get no room, and return its pod with the label that Kueue sets."""
    assert cluster.kuberay is not None
    cluster.kuberay.unplaced = {f"{NAME}-r{revision}"}
    cluster.serve_apis.of(DASHBOARD).room[f"{NAME}-r{revision}"] = 0
    await cluster.settle(5)
    (pod,) = await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: str(revision)})
    return pod


async def take_up(cluster: Cluster, pod: Object, message: str, kind: Kind = WORKLOAD) -> None:
    """Do what Kueue does with a pod that has no quota."""
    labels = {**pod["metadata"]["labels"], kueue.MANAGED_LABEL: "true"}
    await cluster.kube.replace({**pod, "metadata": {**pod["metadata"], "labels": labels}})
    meta = {"name": "pod-w", "namespace": NAMESPACE, "labels": {kueue.POD_UID_LABEL: pod["metadata"]["uid"]}}
    conditions = [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}]
    await cluster.kube.create(
        {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": meta,
            "status": {"conditions": conditions},
        }
    )


async def test_a_pod_that_kueue_has_not_admitted_is_reported_with_its_queue_and_reason(cluster: Cluster) -> None:
    await cluster.apply(**QUEUED)
    pod = await queued_pod(cluster, 1)
    name = pod["metadata"]["name"]
    assert pod["metadata"]["labels"][kueue.QUEUE_LABEL] == "team-a"
    assert pod["spec"]["schedulingGates"] == [{"name": kueue.ADMISSION_GATE}]
    status, reason, message = await cluster.read_condition("RevisionReady")
    assert (status, reason) == ("False", "NotAdmitted")
    assert "which has not taken it up" in message
    await take_up(cluster, pod, NO_QUOTA)
    await cluster.settle(2)
    expected = f"revision 1: pod {name} waits in LocalQueue team-a of Kueue: {NO_QUOTA}"
    assert await cluster.read_condition("RevisionReady") == ("False", "NotAdmitted", expected)
    assert (await cluster.read_condition("Ready"))[1] == "NotAdmitted"


async def test_the_reason_is_read_from_a_kueue_that_serves_the_older_version_alone(cluster: Cluster) -> None:
    await cluster.apply(**QUEUED)
    cluster.kube.faults = lambda _, ref: NotServed("no v1beta2") if ref.kind == WORKLOAD else None
    await take_up(cluster, await queued_pod(cluster, 1), NO_QUOTA, OLD_WORKLOAD)
    await cluster.settle(2)
    assert (await cluster.read_condition("RevisionReady"))[2].endswith(f"of Kueue: {NO_QUOTA}")


@pytest.mark.parametrize("fault", [NotServed("no workloads"), Forbidden("may not list workloads")])
async def test_the_queue_is_named_although_workloads_cannot_be_read(cluster: Cluster, fault: DependencyError) -> None:
    await cluster.apply(**QUEUED)
    await take_up(cluster, await queued_pod(cluster, 1), NO_QUOTA)
    cluster.kube.faults = lambda _, ref: fault if ref.kind in (WORKLOAD, OLD_WORKLOAD) else None
    await cluster.settle(2)
    assert (await cluster.read_condition("RevisionReady"))[2].endswith("waits in LocalQueue team-a of Kueue")


async def test_a_canary_goes_into_its_queue_although_no_device_is_free_and_stable_serves(cluster: Cluster) -> None:
    status = {"allocatable": {GPU: "1"}, "conditions": [{"type": "Ready", "status": "True"}]}
    node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}, "spec": {}}
    await create_with_status(cluster.kube, NODE, node, status)
    await cluster.deploy(resources={"gpu": {"count": 1}})
    for pod in await cluster.kube.list(POD, NAMESPACE, {names.LABEL_MODEL_DEPLOYMENT: NAME}):
        await cluster.kube.replace({**pod, "spec": {**pod["spec"], "nodeName": "node"}})
    await cluster.settle(20)
    await cluster.apply("file:///models/v2", rollout=MANUAL, **QUEUED)
    await take_up(cluster, await queued_pod(cluster, 2), NO_QUOTA)
    await cluster.settle(2)
    assert await cluster.condition("RevisionReady") == ("False", "NotAdmitted")
    assert await cluster.condition("CapacityAvailable") == ("True", "Fits")
    assert (await cluster.condition("Ready"))[0] == "True"
    assert await cluster.weights() == {1: 100, 2: 0}


async def test_a_canary_that_kueue_preempts_gives_its_traffic_back_and_is_not_held_back(cluster: Cluster) -> None:
    await cluster.deploy(**QUEUED)
    await cluster.roll_out(rollout=MANUAL, **QUEUED)
    for pod in await cluster.kube.list(POD, NAMESPACE, {names.LABEL_REVISION: "2"}):
        await cluster.kube.delete(Ref(POD, NAMESPACE, pod["metadata"]["name"]))
    await queued_pod(cluster, 2)
    assert await cluster.condition("RevisionReady") == ("False", "NotAdmitted")
    await cluster.settle(40)
    last = (await cluster.status())["lastRollout"]
    assert (last["revision"], last["code"]) == (2, "CapacityLost")
    assert (await cluster.status()).get("heldBack", []) == []
    assert await cluster.weights() == {1: 100, 2: 0}
