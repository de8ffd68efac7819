"""The operator and many ModelDeployments: a real API server, and stand-ins for KubeRay, Ray Serve and the edges."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from measuring.record import ROOT, Record
from real_kubernetes import kuberay
from real_kubernetes.cluster import BINARIES, CONTROL_PLANE_BUILDS, Cluster, temporary
from standing_in.operator_process import SUPPORT, OperatorProcess, running_operator, wait_until
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import MODEL_DEPLOYMENT, NAMESPACE, Object, Ref

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

NAMESPACES = 20
IDLE_S = 30.0
INSTALLATION = "workers: 16\n"
AT_ONCE = 16


@dataclass
class Found:
    """What one round found."""

    count: int
    all_ready_s: float
    cpu_s: float
    peak_mib: float
    requests: dict[str, float]
    passes: float
    idle_requests: dict[str, float]
    idle_cpu_s: float
    restart_s: float
    restart_writes: float


@contextlib.contextmanager
def standing_in(kubeconfig: Path, log: Path) -> Iterator[None]:
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        command = [sys.executable, "-m", "standing_in.process", str(kubeconfig)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": path})
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[KubernetesClient]:
    client = await KubernetesClient.connect(kubeconfig, manager="bench")
    try:
        yield client
    finally:
        await client.close()


def deployment(index: int) -> Object:
    return {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": f"model-{index // NAMESPACES}", "namespace": f"team-{index % NAMESPACES}"},
        "spec": {"model": {"uri": f"https://models.example.com/{index}", "entrypoint": "net:Net"}},
    }


def token(namespace: str) -> Object:
    """The Secret that an edge's pods wait for, whoever makes it."""
    labels = {"app.kubernetes.io/part-of": "sundog", "app.kubernetes.io/managed-by": "sundog"}
    meta = {"name": "sundog-ray", "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": "t"}}


async def each(count: int, make) -> None:  # type: ignore[no-untyped-def]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> None:
        async with gate:
            await make(index)

    await asyncio.gather(*(one(index) for index in range(count)))


async def all_ready(client: KubernetesClient, count: int, within_s: float) -> None:
    ready: set[str] = set()
    async with asyncio.timeout(within_s):
        async with contextlib.aclosing(client.watch(MODEL_DEPLOYMENT)) as events:
            async for event in events:
                if event.type in {"ADDED", "MODIFIED"} and is_ready(event.object):
                    ready.add(event.object["metadata"]["uid"])
                if len(ready) == count:
                    return


def is_ready(obj: Object) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def apply_all(kubeconfig: Path, count: int) -> float:
    """Create the ModelDeployments and wait until all are ready; how long that took."""
    async with client_of(kubeconfig) as client:

        async def namespace(index: int) -> None:
            if await client.get(Ref(NAMESPACE, "", f"team-{index}")) is None:
                meta = {"name": f"team-{index}"}
                await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
                await client.create(token(f"team-{index}"))

        await each(NAMESPACES, namespace)
        began = time.monotonic()
        waiting = asyncio.ensure_future(all_ready(client, count, 600))
        await each(count, lambda index: client.create(deployment(index)))
        await waiting
        return time.monotonic() - began


def writes(requests: dict[str, float]) -> float:
    return sum(number for method, number in requests.items() if method != "GET")


def difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {method: after[method] - before[method] for method in after}


def leading(operator: OperatorProcess) -> None:
    wait_until(operator.leads, "an operator that leads", alive=operator)


def measure(cluster: Cluster, folder: Path, count: int) -> Found:
    with standing_in(cluster.kubeconfig, folder / "stand-in.log"):
        with running_operator(
            folder, cluster.kubeconfig, "--namespace", "default", installation=INSTALLATION
        ) as operator:
            leading(operator)
            took = asyncio.run(apply_all(cluster.kubeconfig, count))
            cpu, requests = operator.cpu_s(), operator.requests()
            passes = operator.metric("controller_runtime_reconcile_total")
            time.sleep(5)
            before, cpu_before = operator.requests(), operator.cpu_s()
            time.sleep(IDLE_S)
            idle, idle_cpu = difference(operator.requests(), before), operator.cpu_s() - cpu_before
            peak = operator.peak_mib()
        began = time.monotonic()
        with running_operator(
            folder, cluster.kubeconfig, "--namespace", "default", identity="b", installation=INSTALLATION
        ) as operator:
            name = "controller_runtime_reconcile_total"
            wait_until(
                lambda: operator.metric(name, controller="modeldeployment") >= count, "a pass of each", 120, every=1
            )
            restart, restart_writes = time.monotonic() - began, writes(operator.requests())
    return Found(count, took, cpu, peak, requests, passes, idle, idle_cpu, restart, restart_writes)


@pytest.fixture
def control_plane() -> Iterator[Cluster]:
    """One of its own for each count: what an earlier one left in the API server would be counted too."""
    if BINARIES.missing(CONTROL_PLANE_BUILDS) and shutil.which("go") is None:
        pytest.skip("the API server is built by Go, which is not installed")
    with temporary("bench", with_node=False) as cluster:
        yield cluster


@pytest.mark.parametrize("count", [int(each) for each in os.environ.get("SUNDOG_BENCH_COUNTS", "100,1000").split(",")])
def test_many_model_deployments(control_plane: Cluster, tmp_path: Path, count: int) -> None:
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    kuberay.apply_crds(control_plane.kubectl)
    # An API server that has a CRD is not yet one that serves it.
    wait_until(lambda: control_plane.kubectl.succeeds("get", "modeldeployments,experiments,rayclusters", "-A"), "CRDs")
    found = measure(control_plane, tmp_path, count)
    per = {method: number / count for method, number in found.requests.items()}
    record = Record(f"control_plane_{count}", f"{count} ModelDeployments in {NAMESPACES} namespaces", ("what", "found"))
    record.add("apply to all Ready", f"{found.all_ready_s:.1f} s, {count / found.all_ready_s:.1f} per second")
    record.add("operator's CPU", f"{found.cpu_s:.1f} s, {found.cpu_s / count * 1000:.1f} ms each")
    record.add("operator's memory, peak", f"{found.peak_mib:.0f} MiB")
    record.add("requests each", ", ".join(f"{number:.1f} {method}" for method, number in per.items()))
    record.add("passes each", f"{found.passes / count:.1f}")
    idle = sum(found.idle_requests.values()) / IDLE_S
    record.add("at rest", f"{idle:.2f} requests per second, {found.idle_cpu_s / IDLE_S * 100:.0f} % of a core")
    record.add("writes at rest but the Lease's", f"{writes(found.idle_requests) - found.idle_requests['PUT']:.0f}")
    record.add("restart until each was looked at", f"{found.restart_s:.1f} s, {found.restart_writes:.0f} writes")
    record.raw = asdict(found)
    record.finish()
