"""KubeRay with as many RayServices as it starts in the time, on a control plane like that of `test_control_plane.py`."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import kubernetes.aio
import pytest
import yaml

from fake_cluster.ray_pods import serve_config
from measuring import fleet
from measuring.record import IMPORT_PATH, Record
from ports import free_port
from real_kubernetes import kuberay
from real_kubernetes.binaries import KUBERAY
from real_kubernetes.cluster import BINARIES, Cluster
from sundog_operator.ports import Kind, Object

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

RAY_SERVICE = Kind("ray.io/v1", "RayService", "rayservices")
NAMESPACES = 20
COUNT = int(os.environ.get("SUNDOG_BENCH_RAYSERVICES", "1000"))
WITHIN_S = float(os.environ.get("SUNDOG_BENCH_WITHIN_S", "120"))
IMAGE = "registry.example.com/ray:2.60.0"
SIDES = {
    "as shipped": (),
    "16 at once, without a limit of requests": ("--reconcile-concurrency=16", "--qps=1000", "--burst=2000"),
}


@dataclass
class Found:
    """The result of one round."""

    created: int
    ready: int
    seconds: float
    cpu_s: float
    others_cpu_s: float
    rss_mib: float


@contextlib.contextmanager
def running_kuberay(cluster: Cluster, log: Path, options: tuple[str, ...]) -> Iterator[None]:
    """Start KubeRay, and the fake pods that it creates."""
    assert cluster.instance is not None
    port = free_port()
    path = os.pathsep.join([IMPORT_PATH, os.environ.get("PYTHONPATH", "")])
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fake_cluster.ray_pods", str(cluster.kubeconfig), str(port)]
        pods = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": path})
    try:
        # The API server is on loopback, for which Go asks no proxy.
        proxy = {"HTTP_PROXY": f"http://127.0.0.1:{port}"}
        kuberay.start(cluster.instance, BINARIES, options=options, environment=proxy)
        yield
    finally:
        kuberay.stop(cluster.instance)
        pods.terminate()
        pods.wait()


def ray_service(index: int) -> Object:
    """Return a RayService with a head that runs no model and one worker, like the pods of a ModelDeployment."""
    name = f"model-{index // NAMESPACES}"

    def template(container: str) -> Object:
        return {"spec": {"containers": [{"name": container, "image": IMAGE}]}}

    worker = {"groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "rayStartParams": {}}
    cluster = {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head")},
        "workerGroupSpecs": [worker | {"template": template("ray-worker")}],
    }
    return {
        "apiVersion": RAY_SERVICE.api_version,
        "kind": RAY_SERVICE.kind,
        "metadata": {"name": name, "namespace": f"team-{index % NAMESPACES}"},
        "spec": {"serveConfigV2": yaml.safe_dump(serve_config(name)), "rayClusterConfig": cluster},
    }


def runs(obj: Object) -> bool:
    """Return whether KubeRay has seen its application run. Its condition Ready comes later, with the Service's endpoints."""
    told = ((obj.get("status") or {}).get("activeServiceStatus") or {}).get("applicationStatuses") or {}
    return bool(told) and all(each.get("status") == "RUNNING" for each in told.values())


async def create_all(cluster: Cluster) -> tuple[int, float]:
    """Create the RayServices. Return how many are ready once all are or the time is over, and the time taken."""
    config = await kubernetes.aio.config.new_client_from_config(str(cluster.kubeconfig))
    async with fleet.client_of(cluster.kubeconfig) as client, config as ray:
        create = kubernetes.aio.client.CustomObjectsApi(ray).create_namespaced_custom_object

        async def make(index: int) -> None:
            made = ray_service(index)
            await create("ray.io", "v1", made["metadata"]["namespace"], RAY_SERVICE.plural, made)

        await fleet.make_namespaces(client, NAMESPACES)
        began = time.monotonic()
        making = asyncio.ensure_future(fleet.each(COUNT, make))
        ready = await fleet.wait_for(client, RAY_SERVICE, COUNT, runs, WITHIN_S)
        took = time.monotonic() - began
        await making
        return ready, took


def measure(folder: Path, options: tuple[str, ...]) -> Found:
    with fleet.control_plane("rayservices") as cluster, running_kuberay(cluster, folder / "pods.log", options):
        assert cluster.instance is not None
        before = {name: fleet.cpu_of(process.pid) for name, process in cluster.instance.processes().items()}
        ready, took = asyncio.run(create_all(cluster))
        processes = cluster.instance.processes()
        spent = {name: fleet.cpu_of(process.pid) - before[name] for name, process in processes.items()}
        rss = processes[kuberay.PROCESS].memory_info().rss / 2**20
    own = spent.pop(kuberay.PROCESS)
    return Found(COUNT, ready, took, own, sum(spent.values()), rss)


def test_ray_services(tmp_path: Path) -> None:
    BINARIES.build((KUBERAY,))
    columns = (
        "KubeRay v1.5.0",
        "RUNNING",
        "in",
        "per second",
        "CPU of KubeRay, each",
        "CPU of the rest, each",
        "memory",
    )
    record = Record("rayservices", f"{COUNT} RayServices in {NAMESPACES} namespaces, {WITHIN_S:.0f} s", columns)
    for index, (name, options) in enumerate(SIDES.items()):
        folder = tmp_path / str(index)
        folder.mkdir()
        found = measure(folder, options)
        assert found.ready, "no RayService runs"
        record.add(
            name,
            f"{found.ready}",
            f"{found.seconds:.0f} s",
            f"{found.ready / found.seconds:.1f}",
            f"{found.cpu_s / found.ready * 1000:.0f} ms",
            f"{found.others_cpu_s / found.ready * 1000:.0f} ms",
            f"{found.rss_mib:.0f} MiB",
        )
        record.raw[name] = asdict(found)
    record.finish()
