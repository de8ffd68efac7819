"""Time from the creation of a ModelDeployment to Ready, if everything except Sundog answers at once: Sundog's own share."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from measuring import fleet
from measuring.record import Record
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    MODEL_DEPLOYMENT,
    RAY_CLUSTER,
    Kind,
    Object,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

NAMESPACES = 4
EACH = 6
"""ModelDeployments of each namespace, one after the other."""

Seen = dict[str, float]


class Follower:
    """Record when a watch first sees objects, in seconds after the creation of a ModelDeployment."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._name = ""
        self._began = 0.0
        self.seen: Seen = {}
        self.ready = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in (MODEL_DEPLOYMENT, CONTROLLER_REVISION, RAY_CLUSTER, CONFIG_MAP):
                group.create_task(self._follow(kind))

    def begin(self, namespace: str, name: str) -> None:
        self._name, self._namespace = name, namespace
        self.seen, self._began = {}, time.monotonic()
        self.ready.clear()

    async def _follow(self, kind: Kind) -> None:
        while True:
            async with contextlib.aclosing(self._client.watch(kind)) as events:
                async for event in events:
                    if event.type in {"ADDED", "MODIFIED"}:
                        self._note(kind, event.object)

    def _note(self, kind: Kind, obj: Object) -> None:
        if obj["metadata"].get("namespace") != getattr(self, "_namespace", None):
            return
        for step, reached in STEPS[kind].items():
            if step not in self.seen and reached(obj, self._name):
                self.seen[step] = time.monotonic() - self._began
        if READY in self.seen:
            self.ready.set()


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _has_group(obj: Object, name: str) -> bool:
    return any(group["groupName"] == f"{name}-r1" for group in obj["spec"].get("workerGroupSpecs") or ())


def _is_deployed(obj: Object, name: str) -> bool:
    """Return whether its application has ready replicas."""
    return obj["metadata"]["name"] == name and bool((_status(obj).get("stable") or {}).get("readyReplicas"))


READY = "Ready: every edge has confirmed"
STEPS: Mapping[Kind, Mapping[str, Callable[[Object, str], bool]]] = {
    CONTROLLER_REVISION: {"a revision": lambda obj, name: obj["metadata"]["name"] == f"{name}-r1"},
    RAY_CLUSTER: {"a worker group in the RayCluster": _has_group},
    CONFIG_MAP: {
        "traffic in the edges' document": lambda obj, name: (
            obj["metadata"]["name"] == "sundog-edge" and f'"application": "{name}-r1"' in obj["data"]["split.json"]
        )
    },
    MODEL_DEPLOYMENT: {
        "its replicas run and it is stable": _is_deployed,
        READY: lambda obj, name: obj["metadata"]["name"] == name and fleet.is_ready(obj),
    },
}
ORDER = (
    "a revision",
    "a worker group in the RayCluster",
    "its replicas run and it is stable",
    "traffic in the edges' document",
    READY,
)


async def follow(here: fleet.Fleet) -> tuple[list[Seen], list[Seen]]:
    """Return the records of the first of each namespace, and of the others."""
    first, others = [], []
    async with fleet.client_of(here.cluster.kubeconfig) as client:
        await fleet.make_namespaces(client, NAMESPACES)
        follower = Follower(client)
        running = asyncio.ensure_future(follower.run())
        for index in range(NAMESPACES * EACH):
            obj = fleet.model_deployment(index, NAMESPACES)
            follower.begin(obj["metadata"]["namespace"], obj["metadata"]["name"])
            await client.create(obj)
            await asyncio.wait_for(follower.ready.wait(), 60)
            (first if index < NAMESPACES else others).append(follower.seen)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return first, others


def told(rounds: list[Seen], step: str) -> str:
    times = sorted(seen[step] for seen in rounds)
    return f"{statistics.median(times):.2f} s ({times[0]:.2f}–{times[-1]:.2f})"


def test_what_sundog_adds_to_a_start(tmp_path: Path) -> None:
    with fleet.fleet("startup", tmp_path) as here, here.operator():
        first, others = asyncio.run(follow(here))
    columns = ("seen, after its creation", "first of a namespace", "on a RayCluster that runs")
    record = Record("startup", "From the creation of a ModelDeployment to Ready, without what is not Sundog's", columns)
    for step in ORDER:
        record.add(step, told(first, step), told(others, step))
    record.raw = {"first": first, "others": others}
    record.finish()
