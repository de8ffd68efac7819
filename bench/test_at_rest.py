"""Cost of the operator while nothing happens: requests to the API server, and CPU by the number of resting objects."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from charting.lifecycle import fake_workloads
from fake_cluster.memory_api import MemoryApi
from fake_cluster.operator_process import OperatorProcess, running_operator
from measuring import fleet
from measuring.record import Record
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import Object

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

COUNT = 50
NAMESPACES = 5
SETTLE_S = 60.0
REST_S = 300.0
"""So that nearly every interval comes at least twice."""
MANY = [int(each) for each in os.environ.get("SUNDOG_BENCH_COUNTS", "100,1000").split(",")]
MANY_NAMESPACES = 20
PASSES = "controller_runtime_reconcile_total"
KINDS = ("modeldeployment", "raycluster", "edge", "resting")


@dataclass
class Found:
    """Requests by verb and resource, and their cost to the operator."""

    requests: dict[str, int]
    writes: dict[str, int]
    cpu_s: float


def measure(here: fleet.Fleet) -> Found:
    with here.operator() as operator:
        asyncio.run(fleet.apply_all(here.cluster.kubeconfig, operator, COUNT, NAMESPACES, 300))
        time.sleep(SETTLE_S)
        before, cpu = here.requests(), operator.cpu_s()
        time.sleep(REST_S)
        asked = here.requests() - before
        return Found(dict(asked), dict(fleet.writes(asked)), operator.cpu_s() - cpu)


def test_nothing_to_do(tmp_path: Path) -> None:
    with fleet.fleet("rest", tmp_path) as here:
        found = measure(here)
    title = f"{COUNT} idle ModelDeployments in {NAMESPACES} namespaces, {REST_S / 60:.0f} minutes"
    record = Record("at_rest", title, ("request", "number", "per second"))
    for what, number in Counter(found.requests).most_common():
        record.add(what, f"{number}", f"{number / REST_S:.2f}")
    record.add("all", f"{sum(found.requests.values())}", f"{sum(found.requests.values()) / REST_S:.2f}")
    record.notes.append(
        f"Writes other than the Lease's: {sum(found.writes.values())}. CPU: {found.cpu_s / REST_S:.1%} of a core."
    )
    record.raw = asdict(found)
    record.finish()
    assert found.writes == {}


@dataclass
class AtRest:
    """CPU of the operator's process with so many resting ModelDeployments, and its reconciles by kind."""

    count: int
    cpu_s: float
    rest_s: float
    passes: dict[str, float]
    load: float
    resident_mib: float

    @property
    def share(self) -> float:
        """Return the share of a core."""
        return self.cpu_s / self.rest_s


@contextmanager
def in_memory(folder: Path) -> Iterator[tuple[Path, OperatorProcess]]:
    """Run an operator with an in-memory API server and fake workloads; needs no binary."""
    api = MemoryApi(folder)
    api.start()
    try:
        with (
            fake_workloads(api.kubeconfig, folder / "fake-workloads.log"),
            running_operator(folder, api.kubeconfig, "--namespace", "sundog-system") as operator,
        ):
            yield api.kubeconfig, operator
    finally:
        api.stop()


def edge_pod(namespace: str) -> Object:
    """Return a pod of an edge, because no controller creates pods here."""
    ports = [{"name": "agent", "containerPort": 9090}]
    labels = {**names.PART_OF_SUNDOG, names.LABEL_NAME: names.EDGE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{names.EDGE}-0", "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "agent", "image": "edge", "ports": ports}]},
    }


async def add_edges(kubeconfig: Path) -> None:
    async with fleet.client_of(kubeconfig) as client:
        for index in range(MANY_NAMESPACES):
            await client.create(edge_pod(f"team-{index}"))


def passes(operator: OperatorProcess) -> dict[str, float]:
    return {kind: operator.metric(PASSES, controller=kind) for kind in KINDS}


def at_rest(folder: Path, count: int) -> AtRest:
    with in_memory(folder) as (kubeconfig, operator):
        asyncio.run(add_edges(kubeconfig))
        asyncio.run(fleet.apply_all(kubeconfig, operator, count, MANY_NAMESPACES, 900))
        time.sleep(SETTLE_S)
        passed, cpu, began = passes(operator), operator.cpu_s(), time.monotonic()
        time.sleep(REST_S)
        cpu_s, rest_s = operator.cpu_s() - cpu, time.monotonic() - began
        made = {kind: number - passed[kind] for kind, number in passes(operator).items()}
        return AtRest(count, cpu_s, rest_s, made, os.getloadavg()[1], operator.resident_mib())


def test_many_at_rest(tmp_path: Path) -> None:
    columns = ("ModelDeployments", "of a core", *(f"passes a minute: {kind}" for kind in KINDS), "load", "memory")
    title = f"Idle ModelDeployments in {MANY_NAMESPACES} namespaces before an API server in memory, {REST_S / 60:.0f} minutes"
    record = Record("at_rest_cpu", title, columns)
    found = []
    for count in MANY:
        folder = tmp_path / str(count)
        folder.mkdir()
        found.append(at_rest(folder, count))
    for each in found:
        made = (f"{each.passes[kind] * 60 / each.rest_s:.0f}" for kind in KINDS)
        record.add(f"{each.count}", f"{each.share:.2%}", *made, f"{each.load:.1f}", f"{each.resident_mib:.0f} MiB")
    record.notes.append(
        "CPU is that of the operator's process, load the machine's in the last 5 minutes, on two cores."
    )
    record.raw = {str(each.count): asdict(each) for each in found}
    record.finish()
