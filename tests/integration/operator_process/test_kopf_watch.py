"""kopf as our watch: what it tells, what it survives, and that it writes nothing."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from doubles.hooked_kubernetes import HookedKubernetes
from fake_ray_head import end
from sundog_operator.adapters import kopf_watch
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.kopf_watch import KopfWatch, WatchTarget
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.kubernetes_connection import Login
from sundog_operator.adapters.memory_kubernetes.http_server import make_application
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.ports import CONFIG_MAP, SECRET, Kind, Object, Ref
from waiting import PATIENCE_S

OURS = {"app.kubernetes.io/part-of": "sundog"}


def config_map(name: str, labels: dict[str, str] | None = None, namespace: str = "vision", **data: str) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": OURS if labels is None else labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str | None, str, Object]] = []
        self._came = asyncio.Event()

    def __call__(self, kind: Kind, change: str | None, obj: Object) -> None:
        del kind
        self.events.append((change, obj["metadata"]["name"], obj))
        self._came.set()

    async def until(self, reached: Callable[["Told"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not reached(self):
                self._came.clear()
                await self._came.wait()

    def names(self) -> set[str]:
        return {name for _, name, _ in self.events}


@asynccontextmanager
async def served(store: HookedKubernetes, folder: Path, middleware: Any = None) -> AsyncIterator[KubernetesClient]:
    app = make_application(store, SystemClock(), token="t")
    if middleware is not None:
        app.middlewares.append(middleware)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    write_kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{runner.addresses[0][1]}", "t")
    client = await KubernetesClient.connect(folder / "kubeconfig")
    try:
        yield client
    finally:
        await client.close()
        store.close()
        await end(runner)


@asynccontextmanager
async def watching(
    watched: list[WatchTarget], told: Told, client: KubernetesClient, *namespaces: str
) -> AsyncIterator[KopfWatch]:
    watch = KopfWatch(lambda: watched, told, client.login, namespaces)
    running = asyncio.ensure_future(watch.run())
    try:
        yield watch
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await watch.wait_until_ended()
        assert not watch.thread.is_alive()


@pytest.fixture
def store() -> HookedKubernetes:
    return HookedKubernetes(SystemClock())


async def test_it_reports_own_objects_and_every_change(store: HookedKubernetes, tmp_path: Path) -> None:
    told = Told()
    await store.create(config_map("before"))
    await store.create(config_map("foreign", labels={}))
    async with served(store, tmp_path) as client, watching([WatchTarget(CONFIG_MAP, OURS)], told, client):
        await told.until(lambda t: "before" in t.names())
        created = await store.create(config_map("a", x="1"))
        await told.until(lambda t: "a" in t.names())
        await store.apply(config_map("a", x="1", y="2"))
        await store.delete(Ref(CONFIG_MAP, "vision", "a"))
        await told.until(lambda t: any(change == "DELETED" for change, _, _ in t.events))
        assert any(change == "MODIFIED" for change, _, _ in told.events)
        assert [obj for change, name, obj in told.events if (change, name) == ("ADDED", "a")] == [created]
        assert told.events[0][0] is None, "what was there is told without a word for its change"
        assert "foreign" not in told.names()
        kinds = {(obj["apiVersion"], obj["kind"]) for _, _, obj in told.events}
        assert kinds == {("v1", "ConfigMap")}
        assert {write.verb for write in store.writes} == {"create", "apply", "delete"}, "only the test writes"


async def test_one_namespace_of_many(store: HookedKubernetes, tmp_path: Path) -> None:
    told = Told()
    async with served(store, tmp_path) as client, watching([WatchTarget(CONFIG_MAP)], told, client, "vision"):
        await store.create(config_map("elsewhere", namespace="audio"))
        await store.create(config_map("here"))
        await told.until(lambda t: "here" in t.names())
        assert told.names() == {"here"}


async def test_types_of_secrets_that_are_nobodys_here(store: HookedKubernetes, tmp_path: Path) -> None:
    told = Told()
    for name, kind in (("helm", "helm.sh/release.v1"), ("keys", "Opaque")):
        meta = {"name": name, "namespace": "vision"}
        await store.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind})
    watched = [WatchTarget(SECRET, fields="type!=helm.sh/release.v1")]
    async with served(store, tmp_path) as client, watching(watched, told, client):
        await told.until(lambda t: "keys" in t.names())
        assert told.names() == {"keys"}


async def test_an_error_that_kopf_does_not_know_costs_a_new_start(store: HookedKubernetes, tmp_path: Path) -> None:
    """In the stream of a watch, an error other than 410 and 429 ends kopf."""
    told, errors = Told(), 1

    @web.middleware
    async def fail_once(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        nonlocal errors
        if "watch" in request.query and errors:
            errors -= 1
            status = {"kind": "Status", "code": 500, "message": "etcd is away"}
            return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n")
        return await handler(request)

    async with served(store, tmp_path, fail_once) as client, watching([WatchTarget(CONFIG_MAP)], told, client) as watch:
        async with asyncio.timeout(PATIENCE_S):
            while watch.starts < 2:  # noqa: ASYNC110 - counted in another thread
                await asyncio.sleep(0.05)
        await store.create(config_map("after"))
        await told.until(lambda t: "after" in t.names())


async def test_a_kind_that_is_served_only_later(store: HookedKubernetes, tmp_path: Path) -> None:
    told, hidden = Told(), True

    @web.middleware
    async def hide(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        if hidden and request.path == "/api/v1":
            return web.json_response({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})
        return await handler(request)

    await store.create(config_map("a"))
    async with served(store, tmp_path, hide) as client, watching([WatchTarget(CONFIG_MAP)], told, client) as watch:
        async with asyncio.timeout(PATIENCE_S):
            while watch.starts < 1:  # noqa: ASYNC110 - counted in another thread
                await asyncio.sleep(0.05)
        hidden = False
        watch.restart()
        await told.until(lambda t: "a" in t.names())


async def test_a_thread_that_does_not_end_logs_nothing_after_the_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the last line of the operator's log would not say why it ended."""
    monkeypatch.setattr(kopf_watch, "_JOIN_TIMEOUT_S", 0.01)
    began, ended = threading.Event(), threading.Event()

    async def login() -> Login:
        logging.getLogger("kopf.requests").error("early")
        began.set()
        ended.wait(PATIENCE_S)
        logging.getLogger("kopf.requests").error("late")
        return Login(
            "http://127.0.0.1:1",
            verify=False,
            ca_file=None,
            certificate_file=None,
            key_file=None,
            authorization=None,
        )

    watch = KopfWatch(lambda: [WatchTarget(CONFIG_MAP)], Told(), login)
    running = asyncio.ensure_future(watch.run())
    assert await asyncio.to_thread(began.wait, PATIENCE_S)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await watch.wait_until_ended()
    assert watch.thread.is_alive()
    ended.set()
    await asyncio.to_thread(watch.thread.join, PATIENCE_S)
    assert not watch.thread.is_alive()
    assert {"early"} == {record.message for record in caplog.records if record.name == "kopf.requests"}
