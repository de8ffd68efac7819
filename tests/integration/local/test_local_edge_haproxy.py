"""The real edge under LocalEdge: HAProxy and its agent become ready, and either heals alone."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
import pytest

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.ports import POD, Object, Ref
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

NAMESPACE, NAME = "vision", "sundog-edge"
POD_REF = Ref(POD, NAMESPACE, f"{NAME}-0")


def objects() -> list[Object]:
    labels = {"app.kubernetes.io/name": NAME}
    split = {"version": 1, "namespace": NAMESPACE, "generation": 7, "clusters": {}, "services": []}
    meta = {"name": NAME, "namespace": NAMESPACE}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "haproxy"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta, "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {"split.json": orjson.dumps(split).decode()},
        },
    ]


def find(state_dir: Path, words: str) -> int:
    """The pid of the process whose arguments hold both, and whose parent's do not."""
    pids = []
    for process in psutil.process_iter():
        try:
            line, parent = " ".join(process.cmdline()), process.parent()
            above = " ".join(parent.cmdline()) if parent else ""
        except psutil.Error:
            continue
        if words in line and str(state_dir) in line and str(state_dir) not in above:
            pids.append(process.pid)
    (pid,) = pids
    return pid


async def test_the_real_edge_is_ready_serves_and_heals(
    local: Any, kube: MemoryKubernetes, state_dir: Path, clock: SystemClock
) -> None:
    for obj in objects():
        await kube.create(obj)
    edge = LocalEdge(kube, state_dir, clock, http_port=0, https_port=0)

    async def ready() -> Object | None:
        pod = await kube.get(POD_REF) or {}
        conditions = pod.get("status", {}).get("conditions", [{}])
        return pod if conditions[0].get("status") == "True" else None

    async def not_ready() -> bool:
        return await ready() is None

    try:
        async with local.running(edge), aiohttp.ClientSession() as http:
            pod = await local.comes_true(ready, "readiness of the edge")
            (report,) = await HttpEdges(http).read([pod])
            assert (report.ready, report.error) == (True, "")
            assert report.evidence["document"]["generation"] == 7
            port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
            async with http.get(f"http://127.0.0.1:{port}/nobody/") as answer:
                assert answer.status == 404
            for words, status in (("main() agent", 404), ("haproxy -W", 404)):
                old = find(state_dir, words)
                os.kill(old, signal.SIGKILL)
                await local.comes_true(not_ready, f"the end of {words}")
                await local.comes_true(ready, f"a new {words}")
                assert find(state_dir, words) != old
                async with http.get(f"http://127.0.0.1:{port}/nobody/") as answer:
                    assert answer.status == status
    finally:
        await asyncio.wait_for(edge.stop_all(), PATIENCE_S)
    assert local.running_in(state_dir) == []
