"""Two real Ray clusters side by side: made ready, broken, healed, adopted and ended."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.local.ports_allocation import BLOCK_SIZE
from sundog_operator.adapters.local.ray_cluster import LocalRay
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.core.ray.clusters import ClusterView, make_local_ray_cluster, parse_cluster_view
from sundog_operator.ports import RAY_CLUSTER, Ref
from waiting import PATIENCE_S

pytestmark = pytest.mark.ray

REF = Ref(RAY_CLUSTER, "vision", "sundog-0")
APPLICATION = """
import os
from ray import serve

@serve.deployment
class Model:
    async def __call__(self, request):
        return os.environ["TMPDIR"]

def build(args):
    return Model.bind()
"""


@dataclass
class Instance:
    """One local mode: its API, its state directory, its controller."""

    kube: MemoryKubernetes
    state: Path
    ray: LocalRay

    async def ready(self) -> ClusterView | None:
        cluster = parse_cluster_view(REF.name, await self.kube.get(REF))
        return None if cluster.problem else cluster

    async def not_ready(self) -> bool:
        return await self.ready() is None

    @property
    def token(self) -> str:
        return (self.state / "ray-token").read_text()

    def head(self) -> psutil.Process:
        """The head process, found by its arguments and not by our records."""
        temporary = f"--temp-dir={self.state}/ray/0"
        (head,) = [p for p in psutil.process_iter() if temporary in _arguments(p) and "--head" in _arguments(p)]
        return head


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def second_state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sdl-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def _instance(state: Path, clock: SystemClock) -> Instance:
    kube = MemoryKubernetes(clock)
    await kube.create(make_local_ray_cluster(REF.namespace, REF.name, [], "none"))
    return Instance(kube, state, LocalRay(kube, state, clock))


async def test_two_clusters_live_side_by_side_heal_are_adopted_and_leave_nothing(
    local: Any, state_dir: Path, second_state_dir: Path, clock: SystemClock
) -> None:
    first, second = await _instance(state_dir, clock), await _instance(second_state_dir, clock)
    try:
        async with local.running(first.ray), local.running(second.ray), aiohttp.ClientSession() as http:
            views = [await local.comes_true(each.ready, "HeadPodReady") for each in (first, second)]
            await _check_apart(first, second, *views)
            await _check_token(http, views[0], first, second)
            await _check_serving(local, http, views[0], first)
            _check_loopback_only(first)
            await _check_healed(local, first, views[0])
        # The controllers are gone, as after a kill of the reconciler; both clusters still run.
        pids = [each.head().pid for each in (first, second)]
        first.ray, second.ray = (LocalRay(each.kube, each.state, clock) for each in (first, second))
        async with local.running(first.ray):
            await local.comes_true(first.ready, "readiness of the adopted cluster")
            assert [each.head().pid for each in (first, second)] == pids
            await first.kube.delete(REF)

            async def forgotten() -> bool:
                return not any((state_dir / "ray").iterdir())

            await local.comes_true(forgotten, "the end of a deleted cluster")
        assert local.running_in(state_dir) == []
        assert second.head().pid == pids[1]
    finally:
        await asyncio.gather(first.ray.stop_all(), second.ray.stop_all())
    assert local.running_in(second_state_dir) == []
    assert [parse_cluster_view(REF.name, await second.kube.get(REF)).problem] != [""]


async def _check_apart(first: Instance, second: Instance, one: ClusterView, two: ClusterView) -> None:
    assert abs(int(one.dashboard_port) - int(two.dashboard_port)) >= BLOCK_SIZE
    status = (await first.kube.get(REF) or {})["status"]
    assert status["head"] == {
        "podIP": "127.0.0.1",
        "serviceIP": "127.0.0.1",
        "podName": "sundog-0-head",
        "serviceName": "sundog-0-head-svc",
    }
    assert status["observedGeneration"] == 1
    for instance in (first, second):
        assert stat.S_IMODE(instance.state.stat().st_mode) == 0o700
        assert stat.S_IMODE((instance.state / "ray-token").stat().st_mode) == 0o600
        assert instance.token not in " ".join(_arguments(instance.head()))
    assert first.token != second.token


async def _check_token(http: aiohttp.ClientSession, cluster: ClusterView, first: Instance, second: Instance) -> None:
    url = f"{cluster.dashboard}/api/serve/applications/"
    expected = {f"Bearer {first.token}": 200, f"Bearer {second.token}": 403, "": 401}
    found = {}
    for authorization in expected:
        async with http.get(url, headers={"Authorization": authorization} if authorization else {}) as answer:
            found[authorization] = answer.status
    assert found == expected


async def _check_serving(local: Any, http: aiohttp.ClientSession, cluster: ClusterView, instance: Instance) -> None:
    """An application gets a replica port of the block, on loopback, and Serve's proxy the port of the status."""
    (instance.state / "application.py").write_text(APPLICATION)
    url, headers = f"{cluster.dashboard}/api/serve/applications/", {"Authorization": f"Bearer {instance.token}"}
    application = {
        "name": "a",
        "route_prefix": "/a.app",
        "import_path": "application:build",
        "args": {"version": 1},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(instance.state)}},
        "deployments": [{"name": "Model", "num_replicas": 1}],
    }
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": int(cluster.serve_port)},
        "applications": [application],
    }
    async with http.put(url, json=document, headers=headers) as answer:
        assert answer.status == 200, await answer.text()

    async def replica_port() -> int | None:
        async with http.get(url, headers=headers) as answer:
            state = await answer.json()
        assert state["applications"]["a"]["status"] != "DEPLOY_FAILED", state
        targets = [t for group in state["target_groups"] if group["app_name"] == "a" for t in group["targets"]]
        ports = {int(target["port"]) for target in targets if target["ip"] == "127.0.0.1"}
        return next(iter(ports - {int(cluster.serve_port)}), None)

    replica = await local.comes_true(replica_port, "a replica of its own")
    base = int(cluster.dashboard_port) // BLOCK_SIZE * BLOCK_SIZE
    assert base + 340 <= replica < base + 670
    for port in (replica, int(cluster.serve_port)):
        async with http.get(f"http://127.0.0.1:{port}/a.app") as answer:
            assert (answer.status, await answer.text()) == (200, str(instance.state / "ray/0/tmp"))


def _check_loopback_only(instance: Instance) -> None:
    """Nothing listens to the network, except Serve's call between deployments, which asks for the token."""
    pids = {instance.head().pid, *(child.pid for child in instance.head().children(recursive=True))}
    wide = [
        connection
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr[0] not in {"127.0.0.1", "::ffff:127.0.0.1"}
    ]
    assert {psutil.Process(connection.pid).name()[:14] for connection in wide} <= {"ray::ServeRepli"[:14]}, wide


async def _check_healed(local: Any, instance: Instance, before: ClusterView) -> None:
    """A killed head is seen, and started again on the same ports; its orphans do not stand in the way."""
    old = instance.head().pid
    os.kill(old, signal.SIGKILL)
    await local.comes_true(instance.not_ready, "HeadPodReady=False")
    problem = parse_cluster_view(REF.name, await instance.kube.get(REF)).problem
    assert "Ray ended with signal 9" in problem
    assert await local.comes_true(instance.ready, "the healed cluster") == before
    assert instance.head().pid != old
    with socket.create_connection(("127.0.0.1", int(before.dashboard_port)), timeout=PATIENCE_S):
        pass
