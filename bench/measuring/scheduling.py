"""Pods that the real scheduler places on simulated nodes. The API server is real too. Nodes are objects alone, so no pod starts."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from measuring.fleet import client_of
from measuring.packing import NAMESPACE
from real_kubernetes.cluster import BINARIES, CONTROL_PLANE_BUILDS, Cluster, temporary
from real_kubernetes.node import start_scheduler
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import NODE, POD, Object, Ref, ref_of
from waiting import PATIENCE_S


@contextlib.contextmanager
def control_plane_without_controllers(name: str) -> Iterator[Cluster]:
    """Start an API server without controllers, which would evict pods from nodes that have no kubelet; skips if it cannot run."""
    if reason := BINARIES.refusal(CONTROL_PLANE_BUILDS):
        pytest.skip(reason)
    with temporary(name, with_node=False) as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl.wait("-n", NAMESPACE, "--for=create", "serviceaccount/default")
        assert cluster.instance is not None
        cluster.instance.stop("kube-controller-manager")
        yield cluster


@dataclass
class Scheduled:
    """Pods, and the node to which the scheduler has bound each."""

    client: KubernetesClient
    _bound: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def follow(self) -> None:
        """Note what the scheduler does with each pod."""
        async for event in self.client.watch(POD, NAMESPACE):
            if event.type not in {"ADDED", "MODIFIED"}:
                continue
            conditions = event.object.get("status", {}).get("conditions", ())
            refused = any(each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions)
            if (node := event.object["spec"].get("nodeName", "")) or refused:
                async with self._changed:
                    self._bound[event.object["metadata"]["name"]] = node
                    self._changed.notify_all()

    async def place(self, pods: Sequence[Object]) -> list[str]:
        """Create pods and return their names; without one that finds no node, all of them go again, and none is returned."""
        names = [f"pod-{next(self._numbers)}" for _ in pods]
        named = [pod | {"metadata": pod["metadata"] | {"name": name}} for pod, name in zip(pods, names, strict=True)]
        await asyncio.gather(*(self.client.create(pod) for pod in named))
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: all(name in self._bound for name in names))
        if all(self._bound[name] for name in names):
            return names
        await self.remove(names)
        return []

    def node_of(self, name: str) -> str:
        """Return the node of a placed pod."""
        return self._bound[name]

    async def remove(self, names: Sequence[str]) -> None:
        """Delete pods. A pod that is created later sees their places free, because the scheduler reads changes in order."""
        await asyncio.gather(*(self.client.delete(Ref(POD, NAMESPACE, name)) for name in names))


@contextlib.asynccontextmanager
async def scheduling_on(cluster: Cluster, nodes: Sequence[Object]) -> AsyncIterator[Scheduled]:
    """Have these nodes alone, and a scheduler that knows nothing else. Removes the pods at the end."""
    assert cluster.instance is not None
    async with client_of(cluster.kubeconfig) as client, _have_nodes(client, nodes):
        start_scheduler(cluster.instance, BINARIES)
        scheduled = Scheduled(client)
        following = asyncio.ensure_future(scheduled.follow())
        try:
            yield scheduled
        finally:
            following.cancel()
            cluster.instance.stop("kube-scheduler")
            cluster.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--wait=true")


@contextlib.asynccontextmanager
async def _have_nodes(client: KubernetesClient, made: Sequence[Object]) -> AsyncIterator[None]:
    """Have these nodes, ready and without the taint that a new one gets."""
    for node in made:
        stored = await client.create(node)
        stored = await client.replace({**stored, "spec": node["spec"]})
        await client.patch_status(ref_of(node), node["status"], resource_version=stored["metadata"]["resourceVersion"])
    try:
        yield
    finally:
        for node in made:
            await client.delete(Ref(NODE, "", node["metadata"]["name"]))
