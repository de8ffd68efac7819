"""LocalEdge with several edges at once. The processes are fakes."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from background import in_background
from sundog_operator.adapters.local import ports_allocation
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.ports_allocation import PortClaims, allocate_port
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.ports import EVENT, POD, Object
from waiting import PATIENCE_S

NAME = "sundog-edge"
TEAMS = ("one", "two")


def deployment(namespace: str) -> Object:
    meta = {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/name": NAME}}
    template = {"metadata": {"labels": meta["labels"]}, "spec": {"containers": [{"name": "haproxy"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": meta["labels"]}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def config_map(namespace: str) -> Object:
    data = {"split.json": orjson.dumps({"version": 1, "generation": 1, "services": []}).decode()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": namespace}, "data": data}


@pytest.fixture
def preferred(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port. A caller that finds it free waits for a second caller that finds it free, if there is one."""
    port, together, is_free = allocate_port(), threading.Barrier(2), ports_allocation.is_port_free

    def is_free_for_both(candidate: int) -> bool:
        if candidate == port:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.2)
        return is_free(candidate)

    monkeypatch.setattr(ports_allocation, "is_port_free", is_free_for_both)
    return port


async def test_edges_at_once_have_own_ports(state: StateDirectory, clock: Any, table: Any, preferred: int) -> None:
    kube = MemoryKubernetes(clock)
    for team in TEAMS:
        await kube.create(config_map(team))
        await kube.create(deployment(team))
    edge = LocalEdge(kube, state.path, clock, http_port=preferred, https_port=0, table=table)
    async with in_background(edge.run()), asyncio.timeout(PATIENCE_S):
        while len(pods := await kube.list(POD)) < len(TEAMS):  # noqa: ASYNC110 the fake cluster has no events
            await asyncio.sleep(0)
    ports = [
        port["containerPort"] for pod in pods for container in pod["spec"]["containers"] for port in container["ports"]
    ]
    assert preferred in ports
    assert sorted(ports) == sorted(set(ports))
    assert len(ports) == 3 * len(TEAMS)


async def test_instances_at_once_share_no_port(tmp_path: Path, state: StateDirectory, clock: Any, table: Any) -> None:
    preferred, pods = allocate_port(), []
    async with contextlib.AsyncExitStack() as stack:
        for path in (state.path, tmp_path / "other"):
            kube = MemoryKubernetes(clock)
            await kube.create(config_map("one"))
            await kube.create(deployment("one"))
            edge = LocalEdge(kube, path, clock, http_port=preferred, https_port=0, table=table)
            await stack.enter_async_context(in_background(edge.run()))
            async with asyncio.timeout(PATIENCE_S):
                while not (found := await kube.list(POD)):  # noqa: ASYNC110 the fake cluster has no events
                    await asyncio.sleep(0)
            pods += found
    first, second = (pod["spec"]["containers"][0]["ports"][0]["containerPort"] for pod in pods)
    assert first == preferred != second
    claims = PortClaims()
    assert claims.claim(preferred), "the end of an instance ends its claims"
    claims.release()


@pytest.fixture
def make_edge(kube: MemoryKubernetes, state: StateDirectory, clock: Any, table: Any) -> Callable[[], LocalEdge]:
    return lambda: LocalEdge(kube, state.path, clock, http_port=0, https_port=0, table=table)


@pytest.fixture
def kube(clock: Any) -> MemoryKubernetes:
    return MemoryKubernetes(clock)


async def http_port(kube: MemoryKubernetes, table: Any) -> int:
    """Wait for the port of the edge's only HAProxy."""
    async with asyncio.timeout(PATIENCE_S):
        while not (pods := await kube.list(POD)) or len(table.processes) < 2:  # noqa: ASYNC110 the fake cluster has no events
            await asyncio.sleep(0)
    return int(pods[0]["spec"]["containers"][0]["ports"][0]["containerPort"])


async def test_a_start_leaves_a_remembered_port_that_somebody_took(
    kube: MemoryKubernetes, table: Any, make_edge: Callable[[], LocalEdge]
) -> None:
    await kube.create(config_map("one"))
    await kube.create(deployment("one"))
    async with in_background((edge := make_edge()).run()):
        before = await http_port(kube, table)
    await edge.stop_all()
    with socket.create_server(("127.0.0.1", before)):
        async with in_background(make_edge().run()):
            after = await http_port(kube, table)
    (event,) = await kube.list(EVENT)
    assert after != before
    assert f"--http-bind=127.0.0.1:{after}" in table.commands[2].argv
    assert event["reason"] == "PortTaken"
    assert event["regarding"]["name"] == NAME
    assert f"port {before} is held by" in event["note"]
    assert f"(pid {os.getpid()}); the edge listens on port {after} for haproxy" in event["note"]


async def test_a_port_that_is_taken_during_a_run_is_awaited_with_advice(
    kube: MemoryKubernetes, table: Any, make_edge: Callable[[], LocalEdge], caplog: pytest.LogCaptureFixture
) -> None:
    await kube.create(config_map("one"))
    await kube.create(deployment("one"))
    async with in_background(make_edge().run()), asyncio.timeout(PATIENCE_S):
        before = await http_port(kube, table)
        with socket.create_server(("127.0.0.1", before)):
            (haproxy,) = (seen.pid for seen in table.processes.values() if "haproxy" in seen.argv)
            table.end(haproxy, 1)
            message = ""
            while not message:
                (pod,) = await kube.list(POD)
                condition = (pod.get("status") or {}).get("conditions", [{}])[0]
                message = condition["message"] if condition.get("reason") == "PortTaken" else ""
                await asyncio.sleep(0)
        assert await http_port(kube, table) == before
    assert f"port {before} of the edge's haproxy: held by" in message
    assert message.endswith("End that process, or restart local mode, which takes another port.")
    assert caplog.text.count(message) == 1
    assert await kube.list(EVENT) == []
