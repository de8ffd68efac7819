"""Nodes, quotas and pods without a node, in a cluster in memory."""

from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.kuberay import create_with_status
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import NODE, POD, RESOURCE_QUOTA, Object, Ref

GPU = "nvidia.com/gpu"


async def offer(cluster: Cluster, name: str, resources: dict[str, str], labels: dict[str, str] | None = None) -> None:
    """Replace a node by one that is ready, with these allocatable resources."""
    await cluster.kube.delete(Ref(NODE, "", name))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}}, "spec": {}}
    status = {"allocatable": resources, "conditions": [{"type": "Ready", "status": "True"}]}
    await create_with_status(cluster.kube, NODE, node, status)


async def set_quota(cluster: Cluster, hard: dict[str, str], used: dict[str, str]) -> None:
    """Replace the namespace's quota `team`."""
    await cluster.kube.delete(Ref(RESOURCE_QUOTA, NAMESPACE, "team"))
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": NAMESPACE}}
    await create_with_status(cluster.kube, RESOURCE_QUOTA, quota, {"hard": hard, "used": used})


async def pods_of(cluster: Cluster, revision: int | None = None) -> list[Object]:
    """Return the pods of a revision of `digits`, or of all its revisions."""
    of_revision = {} if revision is None else {names.LABEL_REVISION: str(revision)}
    return await cluster.kube.list(POD, NAMESPACE, {names.LABEL_MODEL_DEPLOYMENT: NAME, **of_revision})


async def without_node(cluster: Cluster, revision: int | None = None) -> list[Object]:
    return [pod for pod in await pods_of(cluster, revision) if "nodeName" not in pod["spec"]]


async def place(cluster: Cluster, node: str, revision: int | None = None) -> None:
    """Do what the scheduler does with pods that fit: each without a node gets this one."""
    for pod in await without_node(cluster, revision):
        await cluster.kube.replace({**pod, "spec": {**pod["spec"], "nodeName": node}})


async def find_no_node(cluster: Cluster, revision: int) -> None:
    """Do what the scheduler does with pods that fit nowhere."""
    for pod in await without_node(cluster, revision):
        await no_node_for(cluster, pod)


async def no_node_for(cluster: Cluster, pod: Object) -> None:
    """Write the scheduler's answer for a pod that fits nowhere."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    message = f"0/1 nodes are available: 1 Insufficient {GPU}."
    ref = Ref(POD, NAMESPACE, pod["metadata"]["name"])
    await cluster.set_status(ref, {"phase": "Pending", "conditions": [{**condition, "message": message}]})
