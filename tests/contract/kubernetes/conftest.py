"""The backends that the suite runs over. One more is one more branch of `kube`: a context that yields the port."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.clock import FakeClock
from real_kubernetes.cluster import Cluster
from sundog_operator.adapters.cached.kubernetes import CachedKubernetes
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.api import RESOURCE_TYPES, find_violations
from sundog_operator.ports import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    MODEL_DEPLOYMENT,
    NODE,
    SECRET,
    Kind,
    Kubernetes,
    Object,
    Ref,
    ref_of,
)
from waiting import comes_true

KINDS = (MODEL_DEPLOYMENT, SECRET, CONTROLLER_REVISION)
NAMESPACES = ("vision", "vision-b", "audio")
"""What the suite makes, and where."""

CRDS = Path(__file__).parents[3] / "crds"

ANYTHING: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
# What of the CRD's schema the suite relies on; its objects are valid under the whole schema too.
SCHEMAS: dict[str, dict[str, Any]] = {
    "ModelDeployment": {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "model": ANYTHING,
                    "replicas": {"type": "integer", "default": 1},
                    "paused": {"type": "boolean"},
                    "runtime": {
                        "type": "object",
                        "properties": {
                            "maxOngoingRequests": {"type": "integer", "default": 64},
                            "podLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                        },
                    },
                },
            },
            "status": ANYTHING | {"default": {"observedGeneration": -1}},
        },
    }
}


class ReopeningKubernetes:
    """Closes the file and opens it again before each call, as long as nobody watches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = FakeClock()
        self._kube = self._open()
        self._watchers = 0
        self._one_at_a_time = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            async with self._one_at_a_time:
                if not self._watchers:
                    self._kube.close()
                    self._kube = self._open()
                return await getattr(self._kube, name)(*args, **kwargs)

        return call

    async def watch(self, *args: Any) -> AsyncIterator[Any]:
        self._watchers += 1
        try:
            async for event in self._kube.watch(*args):
                yield event
        finally:
            self._watchers -= 1

    def close(self) -> None:
        self._kube.close()

    def _open(self) -> MemoryKubernetes:
        return MemoryKubernetes.open(self._path, self._clock, schemas=SCHEMAS)


@asynccontextmanager
async def memory(_tmp_path: Path) -> AsyncIterator[Kubernetes]:
    kube = MemoryKubernetes(FakeClock(), schemas=SCHEMAS)
    yield kube
    kube.close()


@asynccontextmanager
async def with_our_crds(_tmp_path: Path) -> AsyncIterator[Kubernetes]:
    """Shows that the suite's objects are good ones under the schemas and rules that a real server would have."""
    kube = MemoryKubernetes(FakeClock(), schemas=crd_schemas(), admit=admit)
    yield kube
    kube.close()


@functools.cache
def crd_schemas() -> dict[str, Object]:
    """By kind. They are megabytes of YAML, which take seconds to parse."""
    crds = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
    return {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in crds}


def admit(obj: Object, before: Object | None) -> list[str]:
    del before
    return [str(violation) for violation in find_violations(obj)] if obj["kind"] in RESOURCE_TYPES else []


@asynccontextmanager
async def reopened(tmp_path: Path) -> AsyncIterator[Kubernetes]:
    kube = ReopeningKubernetes(tmp_path / "state.db")
    yield kube
    kube.close()


@asynccontextmanager
async def http(tmp_path: Path) -> AsyncIterator[Kubernetes]:
    store, clock = MemoryKubernetes(FakeClock(), schemas=SCHEMAS), FakeClock()
    async with serve_http(store, clock, token="let me in") as url:
        write_kubeconfig(tmp_path / "kubeconfig", url, "let me in")
        client = await KubernetesClient.connect(tmp_path / "kubeconfig")
        try:
            yield client
        finally:
            await client.close()
            store.close()


@asynccontextmanager
async def cached(_tmp_path: Path) -> AsyncIterator[Kubernetes]:
    """Reads from memory, which watches keep as in the operator's process."""
    store = MemoryKubernetes(FakeClock(), schemas=SCHEMAS)
    kinds = {MODEL_DEPLOYMENT: {}, CONFIG_MAP: {}, CONTROLLER_REVISION: {}}
    kube = CachedKubernetes(store, lambda _: None, SystemClock(), scopes=kinds)

    async def follow(kind: Kind) -> None:
        async for event in store.watch(kind):
            if event.type != "SYNCED":
                kube.feed(event.type, event.object)

    watches = [asyncio.ensure_future(follow(kind)) for kind in kinds]
    for kind in kinds:
        await kube.resync(kind)
    yield kube
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    store.close()


@asynccontextmanager
async def served(cluster: Cluster) -> AsyncIterator[Kubernetes]:
    """A real API server, emptied of the suite's objects afterwards."""
    client = await KubernetesClient.connect(cluster.kubeconfig)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        for namespace in NAMESPACES:
            await client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        stack.push_async_callback(emptied, client)
        yield client


async def emptied(kube: Kubernetes) -> None:
    for ref in [ref_of(obj) for kind in KINDS for name in NAMESPACES for obj in await kube.list(kind, name)]:
        await kube.delete(ref)
    await kube.delete(Ref(NODE, "", "contract-test"))


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Kubernetes]]] = {
    "memory": memory,
    "crds": with_our_crds,
    "reopened": reopened,
    "http": http,
    "cached": cached,
}


def real(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue("api_with_crds")
    return found


@pytest.fixture(params=[*BACKENDS, pytest.param("served", marks=pytest.mark.cluster)])
async def kube(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kubernetes]:
    backends = BACKENDS if request.param in BACKENDS else {"served": lambda _: served(real(request))}
    async with backends[request.param](tmp_path) as backend:
        yield backend


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]:
    """Waits until an awaited condition is true: garbage collection has its own time on a real server."""

    async def wait(condition: Callable[[], Awaitable[Any]]) -> None:
        await comes_true(condition, "what a server does in its own time")

    return wait
