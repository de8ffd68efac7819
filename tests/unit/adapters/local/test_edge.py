"""What LocalEdge gives edges that come at once. The processes are pretended."""

import asyncio
import contextlib
import threading
from typing import Any

import orjson
import pytest

from background import going_on
from sundog_operator.adapters.local import ports_allocation
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.ports_allocation import single
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.ports import POD, Object
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
    """A free port. Who finds it free goes on together with another who does, if one comes."""
    port, together, is_free = single(), threading.Barrier(2), ports_allocation.is_free

    def is_free_for_both(candidate: int) -> bool:
        if candidate == port:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.2)
        return is_free(candidate)

    monkeypatch.setattr(ports_allocation, "is_free", is_free_for_both)
    return port


async def test_edges_that_come_at_once_have_ports_of_their_own(
    state: StateDirectory, clock: Any, table: Any, preferred: int
) -> None:
    kube = MemoryKubernetes(clock)
    for team in TEAMS:
        await kube.create(config_map(team))
        await kube.create(deployment(team))
    edge = LocalEdge(kube, state.path, clock, http_port=preferred, https_port=0, table=table)
    async with going_on(edge.run()), asyncio.timeout(PATIENCE_S):
        while len(pods := await kube.list(POD)) < len(TEAMS):  # noqa: ASYNC110 the pretended world has no events
            await asyncio.sleep(0)
    ports = [
        port["containerPort"] for pod in pods for container in pod["spec"]["containers"] for port in container["ports"]
    ]
    assert preferred in ports
    assert sorted(ports) == sorted(set(ports))
    assert len(ports) == 3 * len(TEAMS)
