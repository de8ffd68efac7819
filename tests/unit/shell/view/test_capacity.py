"""`sundog capacity`: nodes, users, quotas and who waits."""

from typing import Any

from doubles.cluster import NAMESPACE, Cluster
from doubles.kuberay import create_with_status
from sundog_operator.core.kubernetes import names
from sundog_operator.errors import Forbidden
from sundog_operator.ports import MODEL_DEPLOYMENT, NODE, POD, RESOURCE_QUOTA, Ref
from sundog_operator.shell.exit_codes import ExitCode

GPU = "nvidia.com/gpu"
GIB = 2**30
SHORT = "revision 2: 2 nvidia.com/gpu needed (2 × 1), 1 of 4 free on 1 node"


async def fill(cluster: Cluster) -> None:
    """A node with four devices, a worker of `digits` on it, a foreign pod, another namespace's pod, and a quota."""
    kube = cluster.kube
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": labels}, "spec": {}}
    amounts = {GPU: "4", "cpu": "8", "memory": "32Gi", "pods": "110"}
    await create_with_status(
        kube, NODE, node, {"allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    )
    ours = {**names.labels(names.RAY), names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "1"}
    for name, namespace, own, requests in (
        ("w", NAMESPACE, ours, {GPU: "1", "cpu": "2", "memory": "4Gi"}),
        ("x", NAMESPACE, {}, {"cpu": "500m"}),
        ("y", "audio", {}, {GPU: "2", "cpu": "1"}),
    ):
        container = {"name": "c", "image": "i", "resources": {"requests": requests}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": own},
            "spec": {"containers": [container], "nodeName": "a"},
        }
        await create_with_status(kube, POD, pod, {"phase": "Running"})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": NAMESPACE}}
    limits = {"hard": {"requests.cpu": "10"}, "used": {"requests.cpu": "2500m"}}
    await create_with_status(kube, RESOURCE_QUOTA, quota, limits)


async def hold_back(
    cluster: Cluster, type_: str = "CapacityAvailable", reason: str = "InsufficientCapacity", message: str = SHORT
) -> None:
    """Revision 2 of `digits` waits for devices."""
    condition = {
        "type": type_,
        "status": "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-25T12:00:00Z",
    }
    stored = await cluster.get()
    ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")
    await cluster.kube.patch_status(
        ref, {"conditions": [condition]}, resource_version=stored["metadata"]["resourceVersion"]
    )


def test_who_uses_what_and_what_still_fits(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest(replicas=2, resources={"cpu": "2", "gpu": {"count": 1}})))
    server.do(fill)
    server.do(hold_back)
    done = on_server("capacity", "-o", "json")
    assert (done.code, done.err) == (0, "")
    devices, cpu, memory = done.json["classes"]
    assert devices == {
        "resource": GPU,
        "type": "NVIDIA-L4",
        "deviceMemoryMiB": 23034,
        "nodes": 1,
        "total": 4,
        "usable": 4,
        "used": 3,
        "free": 1,
        "nodesByFree": [{"free": 1, "nodes": 1}],
        "largest": {GPU: 1, "cpu": 4500, "memory": 28 * GIB},
    }
    assert (cpu["resource"], cpu["free"], memory["resource"], memory["free"]) == ("cpu", 4500, "memory", 28 * GIB)
    assert [
        (each["name"], each["revision"], each["pods"], each["requests"].get(GPU)) for each in done.json["usage"]
    ] == [
        ("digits", 1, 1, 1),
        ("other pods", None, 1, None),
    ]
    assert done.json["usage"][0]["devices"] == [{"resource": GPU, "type": "NVIDIA-L4", "amount": 1}]
    (quota,) = done.json["quotas"]
    assert (quota["name"], quota["key"], quota["hard"], quota["used"]) == ("team", "requests.cpu", 10_000, 2500)
    (waiting,) = done.json["waiting"]
    assert (waiting["name"], waiting["pods"], waiting["reason"]) == ("digits", 2, "InsufficientCapacity")
    assert waiting["requestsOfEachPod"] == {"cpu": 2000, "memory": 5 * GIB // 2, "pods": 1, GPU: 1}

    text = on_server("capacity").out
    rows = [line.split() for line in text.splitlines()]
    assert next(row for row in rows if row[:1] == [GPU])[:7] == [GPU, "NVIDIA-L4", "23034Mi", "1", "4", "3", "1"]
    assert f"1 {GPU}, 4.5 CPU, 28Gi memory" in text
    assert f"2 × (1 {GPU}, 2 CPU, 2.5Gi memory)" in text
    assert f"1 {GPU} (NVIDIA-L4), 2 CPU, 4Gi memory" in text
    assert "2 nvidia.com/gpu needed (2 × 1), 1 of 4 free on 1 node" in text
    assert "audio" not in text
    assert "GPU labels: gpu-operator (guessed from the nodes)" in text
    assert done.json["profiles"] == ["gpu-operator"]


def test_replicas_that_wait_for_shared_pods_need_no_memory_for_ray(on_server: Any, server: Any, manifest: Any) -> None:
    shared = {"placement": "shared"}
    on_server("apply", "-f", str(manifest(replicas=2, runtime=shared, resources={"cpu": "1", "memory": "1Gi"})))
    server.do(hold_back)
    (waiting,) = on_server("capacity", "-o", "json").json["waiting"]
    assert (waiting["pods"], waiting["requestsOfEachPod"]) == (2, {"cpu": 1000, "memory": GIB})


def test_a_model_that_waits_in_a_queue_of_kueue_waits_too(on_server: Any, server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest(scheduling={"queue": "team"}, resources={"gpu": {"count": 1}})))
    message = "revision 1: pod w waits in LocalQueue team of Kueue: insufficient unused quota"
    server.do(lambda cluster: hold_back(cluster, "RevisionReady", "NotAdmitted", message))
    (waiting,) = on_server("capacity", "-o", "json").json["waiting"]
    assert (waiting["name"], waiting["reason"], waiting["message"]) == ("digits", "NotAdmitted", message)


def test_all_namespaces_have_a_column(on_server: Any, server: Any) -> None:
    server.do(fill)
    done = on_server("capacity", "-A")
    assert done.code == 0
    assert ["audio", "other", "pods", "1", "2", GPU, "(NVIDIA-L4),", "1", "CPU"] in [
        line.split() for line in done.out.splitlines()
    ]
    assert {each["namespace"] for each in on_server("capacity", "-A", "-o", "json").json["usage"]} == {
        NAMESPACE,
        "audio",
    }


def test_without_permission_for_nodes_the_rest_is_shown(on_server: Any, server: Any) -> None:
    server.do(fill)

    def refuse(verb: str, ref: Ref) -> Exception | None:
        return Forbidden("nodes is forbidden (403)") if ref.kind == NODE else None

    server.cluster.kube.faults = refuse
    done = on_server("capacity", "-o", "json")
    assert (done.code, done.json["classes"], len(done.json["usage"])) == (0, None, 2)
    assert done.err == "the nodes are left out: listing nodes and the pods of all namespaces is not permitted\n"
    assert "Nodes" not in on_server("capacity").out


def test_a_cluster_without_nodes_or_pods(on_server: Any) -> None:
    done = on_server("capacity")
    assert (done.code, done.out) == (0, "Nodes\nnone\n")


def test_local_mode_has_no_nodes(local: Any) -> None:
    done = local("capacity")
    assert done.code == ExitCode.REFUSED
    assert done.err.endswith("error: capacity needs a cluster: local mode has neither nodes nor pods\n")
