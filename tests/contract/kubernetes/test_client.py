"""What the client makes of a server that fails, forgets or breaks off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from fake_ray_head import end
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.errors import (
    AlreadyExists,
    Conflict,
    DependencyError,
    Forbidden,
    Invalid,
    NotServed,
    RequestRefused,
)
from sundog_operator.ports import CONFIG_MAP, DEPLOYMENT, POD, Object, Ref, WatchEvent
from waiting import PATIENCE_S

A = Ref(CONFIG_MAP, "vision", "a")
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


def config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "vision", "labels": {"of": name}},
        "data": data,
    }


@asynccontextmanager
async def client_of(url: str, tmp_path: Path, token: str = "t") -> AsyncIterator[KubernetesClient]:
    write_kubeconfig(tmp_path / "kubeconfig", url, token)
    client = await KubernetesClient.connect(tmp_path / "kubeconfig")
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def answering(respond: Respond, tmp_path: Path) -> AsyncIterator[KubernetesClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        async with client_of(f"http://{host}:{port}", tmp_path) as client:
            yield client
    finally:
        await end(runner)


@pytest.fixture
def store() -> HookedKubernetes:
    return HookedKubernetes(FakeClock())


@pytest.fixture
async def client(store: HookedKubernetes, tmp_path: Path) -> AsyncIterator[KubernetesClient]:
    async with serve_http(store, FakeClock(), token="t") as url, client_of(url, tmp_path) as opened:
        yield opened


async def take(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    async with asyncio.timeout(PATIENCE_S):
        taken = [await anext(events) for _ in range(count)]
    return [(event.type, event.object["metadata"]["name"] if event.object else "") for event in taken]


class TestAnnotate:
    async def test_of_one_resource_version_only(self, store: HookedKubernetes, client: KubernetesClient) -> None:
        read = (await store.apply(config_map("a")))["metadata"]["resourceVersion"]
        moved = await client.annotate(A, {"by": "one"}, resource_version=read)
        with pytest.raises(Conflict, match=f"expected {read}"):
            await client.annotate(A, {"by": "another"}, resource_version=read)
        assert await store.get(A) == moved


class TestWatch:
    async def test_finds_the_difference_after_the_server_forgot(
        self, store: HookedKubernetes, client: KubernetesClient
    ) -> None:
        for name in ("kept", "changed", "gone", "reborn"):
            await store.apply(config_map(name))
        async with aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 5)
            await store.apply(config_map("streamed"))
            assert await take(events, 1) == [("ADDED", "streamed")]
            # In one step, so that the watcher sees none of it before the history is gone.
            store.store.apply(config_map("changed", x="1"), "test", force=True, strict=False)
            for name in ("gone", "reborn", "streamed"):
                store.store.delete(Ref(CONFIG_MAP, "vision", name))
            for name in ("born", "reborn"):
                store.store.create(config_map(name), "test", strict=False)
            store.compact()
            assert sorted(await take(events, 6)) == sorted(
                [
                    ("DELETED", "gone"),
                    ("DELETED", "reborn"),
                    ("DELETED", "streamed"),
                    ("ADDED", "born"),
                    ("MODIFIED", "changed"),
                    ("ADDED", "reborn"),
                ]
            )
            await store.apply(config_map("later"))
            assert await take(events, 1) == [("ADDED", "later")]

    async def test_tells_whose_a_lost_object_was(self, store: HookedKubernetes, client: KubernetesClient) -> None:
        stored = await store.apply(config_map("a"))
        async with aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 2)
            store.store.delete(A)
            store.compact()
            async with asyncio.timeout(PATIENCE_S):
                event = await anext(events)
        assert event.type == "DELETED"
        assert event.object == {key: stored[key] for key in ("apiVersion", "kind", "metadata")}

    async def test_goes_on_when_the_server_ends_the_stream_in_time(
        self, store: HookedKubernetes, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sundog_operator.adapters.kubernetes_client._WATCH_S", 0)
        streams = 0
        third_stream = asyncio.Event()

        def count(verb: str, _ref: Ref) -> None:
            nonlocal streams
            streams += verb == "watch"
            if streams == 3:
                third_stream.set()

        store.faults = count
        async with aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 1)
            waiting = asyncio.ensure_future(take(events, 1))
            async with asyncio.timeout(PATIENCE_S):
                await third_stream.wait()
            await store.apply(config_map("a"))
            assert await waiting == [("ADDED", "a")]
            await store.apply(config_map("b"))
            assert await take(events, 1) == [("ADDED", "b")]

    async def test_raises_when_the_connection_breaks(self, store: HookedKubernetes, client: KubernetesClient) -> None:
        async with aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 1)
            await store.apply(config_map("a"))
            await take(events, 1)
            store.drop_watches()
            with pytest.raises(DependencyError, match="configmaps: the stream broke"):
                await take(events, 1)

    async def test_raises_when_the_server_ends_streams_at_once(self, tmp_path: Path) -> None:
        async def empty(_request: web.Request) -> web.Response:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})

        async def respond(request: web.Request) -> web.Response:
            return web.Response() if "watch" in request.query else await empty(request)

        async with answering(respond, tmp_path) as client, aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 1)
            with pytest.raises(DependencyError, match="ended the stream at once"):
                await take(events, 1)

    @pytest.mark.parametrize("code", [429, 500])
    async def test_raises_an_error_event(self, tmp_path: Path, code: int) -> None:
        async def respond(request: web.Request) -> web.Response:
            if "watch" in request.query:
                status = {"kind": "Status", "code": code, "message": "too busy"}
                return web.json_response({"type": "ERROR", "object": status})
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})

        async with answering(respond, tmp_path) as client, aclosing(client.watch(CONFIG_MAP)) as events:
            await take(events, 1)
            with pytest.raises(DependencyError, match="watch of configmaps: too busy"):
                await take(events, 1)


class TestErrors:
    @pytest.mark.parametrize("code", [404, 429, 500, 503])
    async def test_an_answer_that_is_no_status_says_nothing_about_the_object(self, tmp_path: Path, code: int) -> None:
        async def respond(_request: web.Request) -> web.Response:
            return web.Response(status=code, text="<html>something between</html>")

        async with answering(respond, tmp_path) as client:
            for call in (client.get(A), client.delete(A), client.list(CONFIG_MAP), client.apply(config_map("a"))):
                with pytest.raises(DependencyError, match=f"API server answered {code}"):
                    await call

    async def test_a_kind_that_is_not_served_is_not_an_absent_object(self, tmp_path: Path) -> None:
        async def respond(_request: web.Request) -> web.Response:
            return web.json_response({"kind": "Status", "reason": "NotFound", "message": "no such path"}, status=404)

        async with answering(respond, tmp_path) as client:
            with pytest.raises(NotServed, match="no such path"):
                await client.get(A)

    @pytest.mark.parametrize(
        ("code", "status", "error"),
        [
            (401, {"reason": "Unauthorized"}, DependencyError),
            (403, {"reason": "Forbidden"}, Forbidden),
            (409, {"reason": "AlreadyExists"}, AlreadyExists),
            (409, {"reason": "Conflict"}, Conflict),
            (422, {"reason": "Invalid"}, Invalid),
            (500, {"reason": "InternalError"}, RequestRefused),
            (500, {}, DependencyError),
        ],
    )
    async def test_carry_the_message_of_the_server(
        self, tmp_path: Path, code: int, status: Object, error: type[Exception]
    ) -> None:
        async def respond(_request: web.Request) -> web.Response:
            body = {"kind": "Status", "message": "said so", "details": {"name": "a"}} | status
            return web.json_response(body, status=code)

        async with answering(respond, tmp_path) as client:
            with pytest.raises(error, match=r"ConfigMap vision/a.*said so") as caught:
                await client.apply(config_map("a"))
            assert type(caught.value) is error

    async def test_an_answer_cut_off(self, tmp_path: Path) -> None:
        async def respond(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"kind": ')
            assert request.transport is not None
            request.transport.abort()
            return response

        async with answering(respond, tmp_path) as client:
            with pytest.raises(DependencyError, match="broke off"):
                await client.get(A)

    async def test_no_server(self, tmp_path: Path, unused_tcp_port: int) -> None:
        async with client_of(f"http://127.0.0.1:{unused_tcp_port}", tmp_path, token="s3cret") as client:
            with pytest.raises(DependencyError, match="does not answer") as caught:
                await client.get(A)
            assert "s3cret" not in str(caught.value)

    async def test_a_wrong_token(self, store: HookedKubernetes, tmp_path: Path) -> None:
        async with (
            serve_http(store, FakeClock(), token="right") as url,
            client_of(url, tmp_path, token="wrong") as client,
        ):
            with pytest.raises(DependencyError, match="Unauthorized"):
                await client.get(A)

    async def test_a_proxy_of_the_environment_is_not_for_this_machine(
        self, store: HookedKubernetes, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
        async with serve_http(store, FakeClock(), token="t") as url, client_of(url, tmp_path) as client:
            assert await client.get(A) is None

    async def test_no_configuration(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        (tmp_path / "bad").write_text("clusters: [")
        for path in (None, tmp_path / "absent", tmp_path / "bad"):
            with pytest.raises(DependencyError, match="no configuration"):
                await KubernetesClient.connect(path)


class TestRequests:
    """The dialect of a real API server, as the client writes it."""

    @pytest.fixture
    def requests(self) -> list[tuple[str, str, dict[str, str], str, Any]]:
        return []

    @pytest.fixture
    async def recorded(self, requests: list[Any], tmp_path: Path) -> AsyncIterator[KubernetesClient]:
        async def respond(request: web.Request) -> web.Response:
            body = await request.json() if request.can_read_body else None
            requests.append((request.method, request.path, dict(request.query), request.content_type, body))
            stored = config_map("a") | {"metadata": {"name": "a", "namespace": "vision", "managedFields": [{}]}}
            return web.json_response(stored)

        async with answering(respond, tmp_path) as client:
            yield client

    async def test_apply(self, recorded: KubernetesClient, requests: list[Any]) -> None:
        given = config_map("a") | {"status": {"x": 1}}
        given["metadata"]["managedFields"] = [{}]
        applied = await recorded.apply(given)
        assert "managedFields" not in applied["metadata"]
        assert requests == [
            (
                "PATCH",
                "/api/v1/namespaces/vision/configmaps/a",
                {"fieldManager": "sundog", "force": "true"},
                "application/apply-patch+yaml",
                config_map("a"),
            )
        ]

    async def test_patch_status(self, recorded: KubernetesClient, requests: list[Any]) -> None:
        await recorded.patch_status(Ref(DEPLOYMENT, "vision", "a"), {}, resource_version="7")
        assert requests == [
            (
                "PATCH",
                "/apis/apps/v1/namespaces/vision/deployments/a/status",
                {"fieldManager": "sundog"},
                "application/json-patch+json",
                [
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                    {"op": "add", "path": "/status", "value": {}},
                ],
            )
        ]

    async def test_delete(self, recorded: KubernetesClient, requests: list[Any]) -> None:
        await recorded.delete(A, uid="u")
        [(method, path, query, _, body)] = requests
        assert (method, path, query) == ("DELETE", "/api/v1/namespaces/vision/configmaps/a", {})
        assert body == {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": "u"},
        }

    async def test_a_name_cannot_leave_its_place(self, recorded: KubernetesClient, requests: list[Any]) -> None:
        await recorded.get(Ref(CONFIG_MAP, "vision", "../secrets/a?x"))
        assert requests[0][1] == "/api/v1/namespaces/vision/configmaps/../secrets/a?x"


async def test_items_of_a_list_have_their_type(tmp_path: Path) -> None:
    async def respond(_request: web.Request) -> web.Response:
        # A real server leaves the type out of the items of built-in kinds, and orders by its storage keys.
        items = [{"metadata": {"namespace": n, "name": "x"}} for n in ("a-b", "a")]
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": items})

    async with answering(respond, tmp_path) as client:
        listed = await client.list(CONFIG_MAP)
    assert [(obj["kind"], obj["apiVersion"], obj["metadata"]["namespace"]) for obj in listed] == [
        ("ConfigMap", "v1", "a"),
        ("ConfigMap", "v1", "a-b"),
    ]


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_permission_is_reviewed_for_the_group_and_the_namespace(allowed: bool, tmp_path: Path) -> None:
    asked: list[Any] = []

    async def respond(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, await request.json()))
        return web.json_response({"status": {"allowed": allowed}}, status=201)

    async with answering(respond, tmp_path) as client:
        assert await client.is_permitted("create", "networkpolicies.networking.k8s.io", "vision") is allowed
        assert await client.is_permitted("get", "secrets", "") is allowed
    ((method, path, review), (_, _, of_core)) = asked
    assert (method, path) == ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
    assert "metadata" not in review
    assert review["spec"]["resourceAttributes"] == {
        "verb": "create",
        "group": "networking.k8s.io",
        "resource": "networkpolicies",
        "namespace": "vision",
    }
    assert of_core["spec"]["resourceAttributes"] == {"verb": "get", "group": "", "resource": "secrets", "namespace": ""}


async def test_a_document_is_read_by_its_path(client: KubernetesClient) -> None:
    assert (await client.document("/version"))["gitVersion"].startswith("v1.")


async def test_a_scan_reads_page_by_page(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def pages(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        number = int(request.query.get("continue", "0"))
        token = {"continue": str(number + 1)} if number < 2 else {}
        items = [{"metadata": {"name": f"p{number}", "namespace": "vision"}}]
        return web.json_response({"metadata": {"resourceVersion": "7", **token}, "items": items})

    async with answering(pages, tmp_path) as client:
        assert await client.scan(POD, lambda pod: pod["metadata"]["name"]) == ["p0", "p1", "p2"]
    assert [each.get("continue") for each in asked] == [None, "1", "2"]
    assert {each["limit"] for each in asked} == {"500"}
