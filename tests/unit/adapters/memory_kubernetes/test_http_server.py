"""The HTTP API beyond the requests of our own client, and kubectl itself."""

import asyncio
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.memory_kubernetes.http_server import make_application, serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.errors import DependencyError
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, Object, Ref
from waiting import PATIENCE_S

TOKEN = "s3cret:with/odd@signs"
MDEPS = "/apis/serving.sundog.dev/v1alpha1/namespaces/vision/modeldeployments"
DIGITS = Ref(MODEL_DEPLOYMENT, "vision", "digits")
FREE = {"x-kubernetes-preserve-unknown-fields": True}
# Aliases that expand to more than the limit.
BOMB = b"a: &a [" + b"x," * 9_000 + b"]\nb: [" + b"*a," * 60 + b"]"
SCHEMAS: dict[str, Any] = {
    "ModelDeployment": {"properties": {"spec": {"properties": {"model": FREE, "replicas": {}}}, "status": FREE}}
}
COLUMNS = {
    "ModelDeployment": [
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "URI", "type": "string", "jsonPath": ".spec.model.uri", "priority": 1},
    ]
}


@pytest.fixture
def kube(clock: Any) -> HookedKubernetes:
    return HookedKubernetes(clock, schemas=SCHEMAS)


@pytest.fixture
async def url(kube: HookedKubernetes, clock: Any) -> AsyncIterator[str]:
    async with serve_http(kube, clock, token=TOKEN, columns=COLUMNS) as base:
        yield base


@pytest.fixture
async def session(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as opened:
        yield opened


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: Any = None,
    kind: str = "application/json",
    **query: str,
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes | None) else orjson.dumps(body)
    async with session.request(method, path, data=data, params=query, headers={"Content-Type": kind}) as response:
        return response.status, await response.json()


async def watch_lines(response: aiohttp.ClientResponse, count: int) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return [orjson.loads(await response.content.readline()) for _ in range(count)]


class TestAuthentication:
    @pytest.mark.parametrize(
        "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Authorization": "Basic ???"}]
    )
    @pytest.mark.parametrize("path", [MDEPS, "/version", "/healthz", "/nowhere"])
    async def test_requests_without_the_token_are_rejected(self, url: str, path: str, header: dict[str, str]) -> None:
        async with aiohttp.ClientSession(url) as session, session.get(path, headers=header) as response:
            assert response.status == 401
            assert (await response.json())["reason"] == "Unauthorized"

    async def test_takes_the_token_in_either_scheme(self, url: str) -> None:
        for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", aiohttp.encode_basic_auth("anyone", TOKEN)):
            async with (
                aiohttp.ClientSession(url) as session,
                session.get("/version", headers={"Authorization": header}) as response,
            ):
                assert response.status == 200


class TestErrors:
    async def test_are_status_objects(self, session: aiohttp.ClientSession, mdep: Any) -> None:
        code, status = await ask(session, "GET", f"{MDEPS}/digits")
        assert (code, status["reason"], status["kind"]) == (404, "NotFound", "Status")
        assert status["details"] == {"group": "serving.sundog.dev", "kind": "modeldeployments", "name": "digits"}
        assert (await ask(session, "POST", MDEPS, mdep()))[0] == 201
        code, status = await ask(session, "POST", MDEPS, mdep())
        assert (code, status["reason"]) == (409, "AlreadyExists")

    async def test_name_the_causes_of_invalid_objects(self, session: aiohttp.ClientSession, mdep: Any) -> None:
        code, status = await ask(session, "POST", MDEPS, mdep(metadata={"labels": {"a": "no label"}}))
        assert (code, status["reason"]) == (422, "Invalid")
        [cause] = status["details"]["causes"]
        assert cause["field"] == "metadata.labels[a]"
        assert "'no label'; expected a label value" in cause["message"]

    @pytest.mark.parametrize(
        ("method", "path", "body", "kind", "query", "code"),
        [
            ("POST", MDEPS, b"{", "application/json", {}, 400),
            ("POST", MDEPS, b"[]", "application/json", {}, 400),
            ("POST", MDEPS, b'{"kind": "Pod"}', "application/json", {}, 400),
            ("POST", MDEPS, b'{"metadata": {"name": "a", "namespace": "b"}}', "application/json", {}, 400),
            ("POST", MDEPS, b'{"metadata": {"name": "a"}}', "application/json", {"dryRun": "All"}, 400),
            ("PATCH", f"{MDEPS}/a", b"{}", "application/apply-patch+yaml", {}, 400),
            ("PATCH", f"{MDEPS}/a", b"a: [", "application/apply-patch+yaml", {"fieldManager": "x"}, 400),
            ("PATCH", f"{MDEPS}/a", b"spec: {}\nspec: {}", "application/apply-patch+yaml", {"fieldManager": "x"}, 400),
            ("PATCH", f"{MDEPS}/a", BOMB, "application/apply-patch+yaml", {"fieldManager": "x"}, 400),
            ("PATCH", f"{MDEPS}/a", b'{"metadata": {"name": "b"}}', "application/apply-patch+yaml", {"fieldManager": "x"}, 400),
            ("PATCH", f"{MDEPS}/a", b"{}", "text/plain", {}, 415),
            ("PATCH", f"{MDEPS}/a", b'{"spec": {"l": [1]}}', "application/strategic-merge-patch+json", {}, 415),
            ("PATCH", f"{MDEPS}/a", b"{}", "application/merge-patch+json", {}, 404),
            ("PUT", f"{MDEPS}/a", b"{}", "application/json", {}, 404),
            ("DELETE", f"{MDEPS}/a", None, "application/json", {}, 404),
            ("GET", MDEPS, None, "application/json", {"labelSelector": "a!=b"}, 400),
            ("GET", MDEPS, None, "application/json", {"fieldSelector": "spec.x=y"}, 400),
        ],
    )  # fmt: skip
    async def test_of_bad_requests(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
        query: dict[str, str],
        code: int,
    ) -> None:
        found, status = await ask(session, method, path, body, kind, **query)
        assert (found, status["kind"], status["code"]) == (code, "Status", code)

    async def test_of_a_store_that_fails(self, session: aiohttp.ClientSession, kube: HookedKubernetes) -> None:
        kube.faults = lambda _verb, _ref: DependencyError("the disk is full")
        code, status = await ask(session, "GET", MDEPS)
        assert (code, status["message"]) == (503, "the disk is full")

    async def test_of_an_unexpected_error(self, session: aiohttp.ClientSession, kube: HookedKubernetes) -> None:
        kube.faults = lambda _verb, _ref: KeyError("uid")
        code, status = await ask(session, "GET", MDEPS)
        assert (code, status["reason"], status["message"]) == (
            500,
            "InternalError",
            "in sundog itself: KeyError: 'uid'",
        )


class TestWrites:
    async def test_strict_apply_refuses_unknown_fields(self, session: aiohttp.ClientSession, mdep: Any) -> None:
        apply = {"kind": "application/apply-patch+yaml", "fieldManager": "me"}
        code, status = await ask(
            session, "PATCH", f"{MDEPS}/digits", mdep(nonsense=1), **apply, fieldValidation="Strict"
        )
        assert (code, status["details"]["causes"][0]["field"]) == (422, "spec.nonsense")
        code, stored = await ask(session, "PATCH", f"{MDEPS}/digits", mdep(nonsense=1), **apply)
        assert (code, stored["spec"]) == (200, {"model": {"uri": "s3://m"}})

    async def test_apply_without_force_respects_other_managers(self, session: aiohttp.ClientSession, mdep: Any) -> None:
        kind = "application/apply-patch+yaml"
        await ask(session, "PATCH", f"{MDEPS}/digits", mdep(replicas=1), kind, fieldManager="one")
        code, status = await ask(session, "PATCH", f"{MDEPS}/digits", mdep(replicas=2), kind, fieldManager="two")
        assert (code, status["reason"]) == (409, "Conflict")
        assert "spec.replicas is owned by one" in status["message"]
        code, _ = await ask(
            session, "PATCH", f"{MDEPS}/digits", mdep(replicas=2), kind, fieldManager="two", force="true"
        )
        assert code == 200

    async def test_put_replaces_content_but_not_status(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        stored = await kube.apply(mdep(replicas=1, metadata={"labels": {"a": "b"}}))
        version = stored["metadata"]["resourceVersion"]
        await kube.patch_status(DIGITS, {"url": "x"}, resource_version=version)
        code, status = await ask(session, "PUT", f"{MDEPS}/digits", mdep(metadata={"resourceVersion": version}))
        assert (code, status["reason"]) == (409, "Conflict")
        code, replaced = await ask(session, "PUT", f"{MDEPS}/digits", mdep() | {"status": {"url": "y"}})
        assert code == 200
        assert (replaced["spec"], replaced["status"]) == ({"model": {"uri": "s3://m"}}, {"url": "x"})
        assert "labels" not in replaced["metadata"]

    async def test_put_of_status_replaces_nothing_else(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        await kube.apply(mdep(replicas=1))
        code, stored = await ask(session, "PUT", f"{MDEPS}/digits/status", mdep(replicas=9) | {"status": {"url": "y"}})
        assert (code, stored["spec"]["replicas"], stored["status"]) == (200, 1, {"url": "y"})

    async def test_delete_preconditions(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        stored = await kube.apply(mdep())
        for wanted in ({"uid": "other"}, {"resourceVersion": "999"}):
            assert (await ask(session, "DELETE", f"{MDEPS}/digits", {"preconditions": wanted}))[0] == 409
        for body, query in (({"propagationPolicy": "Orphan"}, {}), ({}, {"propagationPolicy": "Orphan"})):
            assert (await ask(session, "DELETE", f"{MDEPS}/digits", body, **query))[0] == 400
        code, status = await ask(session, "DELETE", f"{MDEPS}/digits")
        assert (code, status["details"]["uid"]) == (200, stored["metadata"]["uid"])

    async def test_a_dry_run_of_a_delete_checks_and_deletes_nothing(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        body: Object = {"dryRun": ["All"]}
        assert (await ask(session, "DELETE", f"{MDEPS}/digits", body))[0] == 404
        stored = await kube.apply(mdep())
        other = {"preconditions": {"uid": "other"}}
        assert (await ask(session, "DELETE", f"{MDEPS}/digits", body | other))[0] == 409
        code, status = await ask(session, "DELETE", f"{MDEPS}/digits", body)
        assert (code, status["status"], status["details"]["uid"]) == (200, "Success", stored["metadata"]["uid"])
        assert (await ask(session, "DELETE", f"{MDEPS}/digits", None, dryRun="All"))[0] == 200
        assert await kube.get(DIGITS) == stored


class TestWatch:
    async def test_from_a_version(self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any) -> None:
        first = await kube.apply(mdep("a"))
        await kube.apply(mdep("b"))
        query = {"watch": "true", "resourceVersion": first["metadata"]["resourceVersion"]}
        async with session.get(MDEPS, params=query) as response:
            [line] = await watch_lines(response, 1)
            assert (line["type"], line["object"]["metadata"]["name"]) == ("ADDED", "b")

    async def test_of_labels_sees_objects_come_and_go(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        await kube.apply(mdep("a", metadata={"labels": {"x": "1"}}))
        await kube.apply(mdep("b"))
        async with session.get(MDEPS, params={"watch": "true", "labelSelector": "x=1"}) as response:
            assert (await watch_lines(response, 1))[0]["object"]["metadata"]["name"] == "a"
            await kube.apply(mdep("b", metadata={"labels": {"x": "1"}}))
            await kube.apply(mdep("a", metadata={"labels": {"x": "2"}}))
            lines = await watch_lines(response, 2)
            assert [(line["type"], line["object"]["metadata"]["name"]) for line in lines] == [
                ("ADDED", "b"), ("DELETED", "a"),
            ]  # fmt: skip

    async def test_with_initial_events_ends_them_by_a_bookmark(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        await kube.apply(mdep())
        query = {"watch": "true", "sendInitialEvents": "true", "allowWatchBookmarks": "true", "resourceVersion": "1"}
        async with session.get(MDEPS, params=query) as response:
            lines = await watch_lines(response, 2)
            assert [line["type"] for line in lines] == ["ADDED", "BOOKMARK"]
            assert lines[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}

    async def test_ends_in_time_with_a_bookmark(self, session: aiohttp.ClientSession, kube: HookedKubernetes) -> None:
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "0"}
        async with session.get(MDEPS, params=query) as response:
            lines = [orjson.loads(line) async for line in response.content]
        assert [line["type"] for line in lines] == ["BOOKMARK"]
        assert lines[0]["object"]["metadata"]["resourceVersion"] == str(kube.store.revision)

    async def test_that_is_dropped_breaks_the_connection(
        self, session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any
    ) -> None:
        await kube.apply(mdep())
        async with session.get(MDEPS, params={"watch": "true"}) as response:
            await watch_lines(response, 1)
            kube.drop_watches()
            with pytest.raises(aiohttp.ClientError):
                await response.content.readline()

    async def test_does_not_hold_up_a_shutdown(self, kube: HookedKubernetes, clock: Any, mdep: Any) -> None:
        await kube.apply(mdep())
        headers = {"Authorization": "Bearer t"}
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
            async with serve_http(kube, clock, token="t") as base:
                response = await session.get(base + MDEPS, params={"watch": "true"}, headers=headers)
                await watch_lines(response, 1)
            response.close()


async def test_list_carries_the_version_to_watch_from(
    session: aiohttp.ClientSession, kube: HookedKubernetes, mdep: Any, config_map: Any
) -> None:
    await kube.apply(mdep("a"))
    await kube.apply(mdep("b"))
    await kube.apply(config_map("c"))
    code, listed = await ask(session, "GET", MDEPS, fieldSelector="metadata.name=b")
    assert code == 200
    assert (listed["kind"], listed["metadata"]["resourceVersion"]) == ("ModelDeploymentList", str(kube.store.revision))
    assert [item["metadata"]["name"] for item in listed["items"]] == ["b"]


def test_kubeconfig_is_private_from_the_start_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("old")
    path.chmod(0o644)
    write_kubeconfig(path, "http://127.0.0.1:1234", TOKEN, namespace="vision")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = yaml.safe_load(path.read_text())
    assert document["contexts"][0]["context"]["namespace"] == "vision"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def kubectl(url: str, tmp_path: Path) -> Callable[..., Any]:
    """Run kubectl against the server. Return its exit code and its output."""
    binary = shutil.which("kubectl")
    if binary is None:
        pytest.skip("kubectl is not on this machine")
    write_kubeconfig(tmp_path / "kubeconfig", url, TOKEN, namespace="vision")

    async def run(*arguments: str, stdin: Object | None = None) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--kubeconfig={tmp_path / 'kubeconfig'}",
            f"--cache-dir={tmp_path / 'cache'}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate(orjson.dumps(stdin) if stdin else None)
        assert process.returncode is not None
        return process.returncode, output.decode()

    return run


class TestKubectl:
    async def test_reads(self, kubectl: Any, kube: HookedKubernetes, mdep: Any) -> None:
        stored = await kube.apply(mdep())
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        stored = await kube.patch_status(DIGITS, ready, resource_version=stored["metadata"]["resourceVersion"])
        _, shown = await kubectl("get", "mdep", "-A", "-o", "wide")
        assert [line.split() for line in shown.splitlines()] == [
            ["NAMESPACE", "NAME", "READY", "URI"], ["vision", "digits", "True", "s3://m"],
        ]  # fmt: skip
        _, shown = await kubectl("get", "mdep", "digits", "-o", "yaml")
        assert yaml.safe_load(shown) == stored
        assert await kubectl("get", "mdep", "absent") == (
            1, "Error from server (NotFound): ModelDeployment vision/absent does not exist\n",
        )  # fmt: skip

    async def test_writes(self, kubectl: Any, kube: HookedKubernetes, mdep: Any, config_map: Any) -> None:
        code, output = await kubectl("apply", "-f", "-", stdin=mdep(replicas=1))
        assert (code, output) == (0, "modeldeployment.serving.sundog.dev/digits created\n")
        code, output = await kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=mdep(replicas=2))
        assert code == 0, output
        code, output = await kubectl("annotate", "mdep", "digits", "serving.sundog.dev/command=promote id=abc")
        assert code == 0, output
        stored = await kube.get(DIGITS)
        assert stored is not None
        assert stored["spec"]["replicas"] == 2
        assert stored["metadata"]["annotations"]["serving.sundog.dev/command"] == "promote id=abc"
        code, output = await kubectl("apply", "-f", "-", stdin=mdep(nonsense=1))
        assert code == 1
        assert "spec.nonsense" in output
        await kube.apply(config_map("split", stored))
        code, output = await kubectl("delete", "mdep", "digits", "--dry-run=server")
        assert (code, await kube.get(DIGITS)) == (0, stored), output
        code, output = await kubectl("delete", "mdep", "digits")
        assert (code, output) == (0, 'modeldeployment.serving.sundog.dev "digits" deleted\n')
        assert await kube.get(DIGITS) is None
        assert await kube.list(CONFIG_MAP) == []


async def test_a_watch_that_begins_while_the_server_ends_holds_up_nothing(kube: HookedKubernetes, clock: Any) -> None:
    app = make_application(kube, clock, token=TOKEN)
    async with TestClient(TestServer(app)) as client:
        await app.shutdown()
        query = {"watch": "true", "timeoutSeconds": "300"}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with asyncio.timeout(PATIENCE_S), client.get(MDEPS, params=query, headers=headers) as response:
            assert await response.read() == b""
