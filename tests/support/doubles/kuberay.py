"""KubeRay, Ray's autoscaler and the kubelet for the reconciler: pods of groups start, and stop once they are idle."""

from collections.abc import Iterable
from typing import Any

from doubles.serve import FakeServe
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import ReplicaStart
from sundog_operator.core.ray import groups
from sundog_operator.ports import POD, RAY_CLUSTER, Clock, Kind, Object, Ref


async def create_with_status(kube: MemoryKubernetes, kind: Kind, obj: Object, status: Object) -> None:
    """Create an object, and say what its controller would."""
    stored = await kube.create(obj)
    meta = stored["metadata"]
    ref = Ref(kind, meta.get("namespace", ""), meta["name"])
    await kube.patch_status(ref, status, resource_version=meta["resourceVersion"])


class FakeServes:
    """`ports.Serve` of several clusters, by dashboard. With `started_at_once` replicas run at once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.by_dashboard: dict[str, FakeServe] = {}
        self.namespaces: set[str] = set()
        self.started_at_once = False
        self.reads = 0

    async def read(self, dashboard: str, namespace: str) -> Any:
        self.reads += 1
        self.namespaces.add(namespace)
        return await self.of(dashboard).read(dashboard, namespace)

    async def put(self, dashboard: str, namespace: str, document: Any) -> None:
        await self.of(dashboard).put(dashboard, namespace, document)

    def of(self, dashboard: str) -> FakeServe:
        if dashboard not in self.by_dashboard:
            serve = self.by_dashboard[dashboard] = FakeServe(self._clock)
            if self.started_at_once:
                serve.start_s, serve.started = 0.0, ReplicaStart({"load": 0.5}, self._clock.now())
        return self.by_dashboard[dashboard]

    def running(self, name: str) -> int:
        return sum(serve.running(name) for serve in self.by_dashboard.values())

    def start_of(self, name: str) -> dict[str, Any] | None:
        return next(
            (start for serve in self.by_dashboard.values() if (start := serve.start_of(name)) is not None), None
        )

    def applications(self, dashboard: str) -> set[str]:
        """Names in the document that was PUT last."""
        puts = self.of(dashboard).puts
        return {app["name"] for app in puts[-1]["applications"]} if puts else set()


class FakeKubeRay:
    """Follows RayClusters.

    `stuck` are groups whose pods stay, whatever is asked; `unplaced` those whose pods find no node, and so are never idle;
    `node` is the node of new pods, empty for none; `heads_down` clusters whose head is not ready; `refusals` why no more pods
    can be made, by cluster.
    """

    def __init__(self, kube: MemoryKubernetes, serves: FakeServes, namespace: str) -> None:
        self._kube, self._serves, self._namespace = kube, serves, namespace
        self.stuck: set[str] = set()
        self.unplaced: set[str] = set()
        self.node = ""
        self.heads_down: set[str] = set()
        self.refusals: dict[str, str] = {}

    async def act(self) -> None:
        for obj in await self._kube.list(RAY_CLUSTER, self._namespace):
            await self._report(obj)
            current = await self._kube.get(Ref(RAY_CLUSTER, self._namespace, obj["metadata"]["name"]))
            if current is not None:
                await self._scale(current)

    async def _report(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        ready = "False" if name in self.heads_down else "True"
        conditions = [{"type": "HeadPodReady", "status": ready, "reason": "HeadPodRunningAndReady"}]
        if message := self.refusals.get(name):
            reason = "FailedCreateWorkerPod"
            expected_message = f"{reason}\n{message}"
            conditions.append(
                {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": expected_message}
            )
        status = {"conditions": conditions}
        if obj.get("status") != status:
            ref = Ref(RAY_CLUSTER, self._namespace, name)
            await self._kube.patch_status(ref, status, resource_version=obj["metadata"]["resourceVersion"])

    async def _scale(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        dashboard = f"http://{name}-head-svc.{self._namespace}.svc.cluster.local:8265"
        deployed = self._serves.applications(dashboard)
        changed = False
        for group in obj["spec"].get("workerGroupSpecs", ()):
            asked = group.get("replicas", 0)
            if group["groupName"] == names.SHARED_WORKERS:
                asked = self._serves.of(dashboard).count_pods(group)
            wanted = max(group["minReplicas"], min(asked, group["maxReplicas"]))
            if group["minReplicas"] == 0 and group["groupName"] not in {*deployed, names.SHARED_WORKERS}:
                wanted = 0
            if group.get("replicas") != wanted:
                group["replicas"], changed = wanted, True
            await self._pods(name, group, wanted)
        if changed:
            await self._kube.replace(obj)

    async def _pods(self, cluster: str, group: Object, wanted: int) -> None:
        labels = {groups.LABEL_CLUSTER: cluster, groups.LABEL_GROUP: group["groupName"]}
        present = await self._kube.list(POD, self._namespace, labels)
        for number in range(len(present), wanted if cluster not in self.refusals else 0):
            template = group["template"]
            made = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{cluster}-{group['groupName']}-worker-{number}",
                    "namespace": self._namespace,
                    "labels": {**template["metadata"]["labels"], **labels, groups.LABEL_NODE_TYPE: "worker"},
                },
                "spec": {**template["spec"], **({"nodeName": self.node} if self.node else {})},
            }
            phase = "Pending" if group["groupName"] in self.unplaced else "Running"
            await create_with_status(self._kube, POD, made, {"phase": phase})
        named = set((group.get("scaleStrategy") or {}).get("workersToDelete") or ())
        idle = present[wanted:] if group["groupName"] not in self.unplaced else []
        if group["groupName"] not in self.stuck:
            await self._delete([pod for pod in present if pod in idle or pod["metadata"]["name"] in named])

    async def _delete(self, pods: Iterable[Object]) -> None:
        for pod in pods:
            await self._kube.delete(Ref(POD, self._namespace, pod["metadata"]["name"]))
