"""Many ModelDeployments on their own control plane, an operator with the chart's account, and their durations."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from charting import NAMESPACE, service_account, values
from charting.lifecycle import fake_workloads
from fake_cluster.operator_process import OperatorProcess, running_operator, wait_until
from measuring.record import ROOT
from real_kubernetes import audit, kuberay
from real_kubernetes.cluster import BINARIES, CONTROL_PLANE_BUILDS, Cluster, temporary
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import MODEL_DEPLOYMENT, Kind, Object, Ref
from sundog_operator.ports import NAMESPACE as NAMESPACES

AT_ONCE = 16
"""Requests at the same time of who creates the objects."""


@contextlib.contextmanager
def control_plane(name: str) -> Iterator[Cluster]:
    """Start an empty control plane with the CRDs; skips if it cannot run."""
    if reason := BINARIES.refusal(CONTROL_PLANE_BUILDS):
        pytest.skip(reason)
    with temporary(name, with_node=False) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        kuberay.apply_crds(cluster.kubectl)
        # An API server that has a CRD is not yet one that serves it.
        wait_until(
            lambda: cluster.kubectl.succeeds("get", "modeldeployments,experiments,rayclusters,rayservices", "-A"),
            "CRDs",
        )
        yield cluster


@dataclass
class Fleet:
    """A control plane with fake workloads, and the operator's account."""

    cluster: Cluster
    folder: Path

    @contextlib.contextmanager
    def operator(self, identity: str = "a", workers: int | None = None) -> Iterator[OperatorProcess]:
        """Start an operator with the chart's configuration, and wait until it leads."""
        given = values("smallest")
        file = service_account.installation(given) + (f"\nworkers: {workers}\n" if workers else "")
        kubeconfig = service_account.kubeconfig(self.cluster.kubectl, self.folder / "kubeconfig")
        with running_operator(
            self.folder, kubeconfig, "--namespace", NAMESPACE, identity=identity, installation=file
        ) as process:
            wait_until(process.leads, "an operator that leads", alive=process, within=120)
            yield process

    def requests(self) -> Counter[str]:
        """Return the requests of the operator's account so far, by verb and resource."""
        assert self.cluster.instance is not None
        return Counter(
            str(use.right) for use in audit.requests(audit.log(self.cluster.instance), service_account.ACCOUNT)
        )

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of the control plane's processes."""
        assert self.cluster.instance is not None
        return {name: cpu_of(process.pid) for name, process in self.cluster.instance.processes().items()}


LEASE = "leases.coordination.k8s.io"


def writes(requests: Counter[str]) -> Counter[str]:
    """Return the requests that change something, except those for the operator's Lease."""
    reads = ("get ", "list ", "watch ")
    return Counter({each: n for each, n in requests.items() if not each.startswith(reads) and not each.endswith(LEASE)})


def cpu_of(pid: int) -> float:
    """CPU seconds of a process."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def fleet(name: str, folder: Path) -> Iterator[Fleet]:
    """Start everything except the operator."""
    with control_plane(name) as cluster:
        service_account.install(cluster.kubectl, values("smallest"))
        with fake_workloads(cluster.kubeconfig, folder / "fake-workloads.log"):
            yield Fleet(cluster, folder)


@contextlib.asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[KubernetesClient]:
    """Connect a client as an administrator."""
    client = await KubernetesClient.connect(kubeconfig, manager="bench")
    try:
        yield client
    finally:
        await client.close()
        # aiohttp takes a moment to shut TLS connections down.
        await asyncio.sleep(0.25)


def model_deployment(index: int, namespaces: int) -> Object:
    """Return one of many ModelDeployments, in one of so many namespaces."""
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": f"model-{index // namespaces}", "namespace": f"team-{index % namespaces}"},
        "spec": {"model": {"uri": f"https://models.example.com/{index}", "entrypoint": "net:Net"}},
    }


async def each(count: int, make: Callable[[int], Awaitable[object]]) -> None:
    """Make so many, some of them at the same time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        async with gate:
            await make(index)

    await asyncio.gather(*(one(index) for index in range(count)))


async def make_namespaces(client: KubernetesClient, count: int) -> None:
    """Namespaces `team-0` and so on, where they are missing."""

    async def namespace(index: int) -> None:
        name = f"team-{index}"
        if await client.get(Ref(NAMESPACES, "", name)) is None:
            await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    await each(count, namespace)


async def wait_for(
    client: KubernetesClient, kind: Kind, count: int, reached: Callable[[Object], bool], within_s: float
) -> int:
    """Wait until so many objects of a kind have come to a state; how many have when the time is over."""
    seen: set[str] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while len(seen) < count:
                async with contextlib.aclosing(client.watch(kind)) as events:
                    async for event in events:
                        if event.type in {"ADDED", "MODIFIED"} and reached(event.object):
                            seen.add(event.object["metadata"]["uid"])
                        if len(seen) == count:
                            break
    return len(seen)


def is_ready(obj: Object) -> bool:
    """Return whether it is Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def apply_all(kubeconfig: Path, operator: OperatorProcess, count: int, namespaces: int, within_s: float) -> float:
    """Create so many ModelDeployments and wait until all are ready; how long that took, in seconds."""
    async with client_of(kubeconfig) as client:
        await make_namespaces(client, namespaces)
        began = time.monotonic()
        waiting = asyncio.ensure_future(wait_for(client, MODEL_DEPLOYMENT, count, is_ready, within_s))
        await each(count, lambda index: client.create(model_deployment(index, namespaces)))
        while not waiting.done():
            assert operator.process.poll() is None, f"the operator ended: {operator.log.read_text()[-600:]}"
            await asyncio.wait((waiting,), timeout=1)
        found = waiting.result()
        assert found == count, f"{found} of {count} ModelDeployments are Ready after {within_s:g} s"
        return time.monotonic() - began
