"""Cost to know the free accelerators of a large cluster, while many ModelDeployments wait for some."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fake_cluster.operator_process import wait_until
from measuring.busy_cluster import GPUS, NODES, PODS, TAKEN
from measuring.record import IMPORT_PATH, Record
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import Installation
from sundog_operator.app.device_inventory import COST_FACTOR, MIN_INTERVAL_S, DeviceInventory
from sundog_operator.core.kubernetes import capacity
from sundog_operator.core.planner.requeue import RESYNC_S

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

WAITING = 100
LOOKS = 10


@contextlib.contextmanager
def busy_cluster(folder: Path) -> Iterator[Path]:
    """Start the API server in its own process; yield the path of its kubeconfig."""
    kubeconfig = folder / "kubeconfig"
    path = os.pathsep.join([IMPORT_PATH, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "measuring.busy_cluster", str(kubeconfig)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})
    try:
        wait_until(kubeconfig.exists, "an API server with many pods", 120)
        yield kubeconfig
    finally:
        process.terminate()
        process.wait()


def memory_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


async def test_waiting_for_devices(tmp_path: Path) -> None:
    spec = ModelDeploymentSpec.from_json(
        {"model": {"uri": "https://models.example.com/1"}, "resources": {"gpu": {"count": 4, "type": ["h100"]}}}
    )
    clock, ours, installation = SystemClock(), MemoryKubernetes(SystemClock()), Installation()
    looks, asks, grown = [], [], 0.0
    with busy_cluster(tmp_path) as kubeconfig:
        server = await KubernetesClient.connect(kubeconfig)
        try:
            for _ in range(LOOKS):
                devices, before = DeviceInventory(), memory_mib()
                began = time.process_time()
                known = await devices.read(server, ours, clock)
                looks.append(time.process_time() - began)
                grown = max(grown, memory_mib() - before)
                began = time.process_time()
                for _ in range(WAITING):
                    room = capacity.find_available_capacity(
                        spec, await devices.read(server, ours, clock), [], installation
                    )
                asks.append((time.process_time() - began) / WAITING)
        finally:
            await server.close()
    assert known is not None
    assert room is not None
    assert room.on_nodes is not None
    assert (room.on_nodes.total, room.on_nodes.free) == (NODES * GPUS, NODES * (GPUS - TAKEN))
    look_s, ask_s = statistics.median(looks), statistics.median(asks)
    every_s = max(MIN_INTERVAL_S, COST_FACTOR * look_s)
    share = look_s / every_s + WAITING * ask_s / RESYNC_S
    record = Record("free_devices", f"{WAITING} ModelDeployments wait; {NODES} nodes, {PODS} pods", ("", ""))
    record.add("CPU of a look at all nodes and pods", f"{look_s * 1000:.0f} ms, every {every_s:.0f} s")
    record.add("CPU of a ModelDeployment that asks for the result", f"{ask_s * 1000:.2f} ms, every {RESYNC_S:.0f} s")
    record.add("together", f"{share:.1%} of a core")
    record.add("memory that a look takes, at most", f"{grown:.0f} MiB")
    record.raw = {"looks_s": looks, "asks_s": asks, "grown_mib": grown}
    record.finish()
