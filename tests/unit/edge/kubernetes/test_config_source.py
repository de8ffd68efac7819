"""The document and the Secrets from an API server that is slow, silent, ahead, behind, or away."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from fake_ray_head import end
from sundog_edge.errors import ApiUnavailable, SettingsError
from sundog_edge.kubernetes import client, config_source
from sundog_edge.kubernetes.client import ApiServer, ServiceAccount
from sundog_edge.kubernetes.config_source import ClusterSource, retry_delay_s
from sundog_edge.security.secrets import ComposedSecrets
from sundog_edge.state_dir import StateDir
from waiting import PATIENCE_S

PATH = "/api/v1/namespaces/vision/"


class Api:
    """An API server's lists and watches of one ConfigMap and one Secret."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.version = 1
        self.status = 200
        self.answering = asyncio.Event()
        """Lists are answered while it is set, with the state at the time of the request."""

        self.answering.set()
        self.watches: list[asyncio.Queue[dict[str, Any] | None]] = []
        self._of: dict[int, str] = {}
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(PATH + "{plural}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await end(self._runner)
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        self.tokens.add(request.headers["Authorization"])
        assert request.query["fieldSelector"] == "metadata.name=sundog-edge"
        if self.status != 200:
            return web.Response(status=self.status)
        if "watch" not in request.query:
            self.asked.append(("list", plural))
            found, version = self.objects.get(plural), self.version
            await self.answering.wait()
            return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": [found] if found else []})
        self.asked.append(("watch", plural))
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.watches.append(events)
        self._of[id(events)] = plural
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (event := await events.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self.watches.remove(events)
        return response

    def store(self, plural: str, obj: dict[str, Any] | None, *, tell: bool = True) -> None:
        self.version += 1
        before = self.objects.get(plural)
        stamped = self.stamped(obj or before or {})
        if obj is None:
            self.objects.pop(plural, None)
        else:
            self.objects[plural] = stamped
        kind = "ADDED" if before is None else "MODIFIED" if plural in self.objects else "DELETED"
        for events in self.watches if tell else ():
            if self._of[id(events)] == plural:
                events.put_nowait({"type": kind, "object": stamped})

    def stamped(self, obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "metadata": {"name": "sundog-edge", "resourceVersion": str(self.version)}}

    def end_watches(self, *events: dict[str, Any]) -> None:
        for watch in self.watches:
            for event in events:
                watch.put_nowait(event)
            watch.put_nowait(None)

    def document(self, generation: int, *, tell: bool = True) -> None:
        self.store("configmaps", {"data": {"split.json": json.dumps({"generation": generation})}}, tell=tell)

    def secrets(self, *, tell: bool = True, **contents: dict[str, str]) -> None:
        data = {
            name: encode(json.dumps({key: encode(text) for key, text in keys.items()}))
            for name, keys in contents.items()
        }
        self.store("secrets", {"data": data}, tell=tell)


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is about files and another task
            await asyncio.sleep(0.005)


@pytest.fixture
async def api(monkeypatch):
    monkeypatch.setattr(config_source, "FIRST_PAUSE_S", 0.01)
    made = Api()
    await made.start()
    yield made
    made.end_watches()
    await made.stop()


@pytest.fixture
def account(api, tmp_path):
    (tmp_path / "token").write_text("first\n")
    return ServiceAccount(f"http://127.0.0.1:{api.port}", tmp_path / "token", tmp_path / "ca.crt")


@pytest.fixture
async def state(account, tmp_path):
    state = StateDir.at(tmp_path / "s")
    source = ClusterSource(lambda: ApiServer(account, "vision"), state, "sundog-edge")
    task = asyncio.create_task(source.run())
    yield state
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def generation(state: StateDir) -> int:
    return json.loads(state.split.read_text())["generation"] if state.split.exists() else 0


def secret(state: StateDir, name: str) -> dict[str, bytes]:
    return dict(ComposedSecrets(state.secrets).read([name])[name])


async def test_present_and_later_objects_are_written(api, state):
    await until(lambda: len(api.watches) == 2)
    assert not state.split.exists()
    api.secrets(keys={"ada": "first"})
    api.document(1)
    await until(lambda: generation(state) == 1)
    assert secret(state, "keys") == {"ada": b"first"}
    api.document(2)
    await until(lambda: generation(state) == 2)
    api.secrets(keys={"ada": "second", "bob": "x"})
    await until(lambda: secret(state, "keys") == {"ada": b"second", "bob": b"x"})
    assert api.asked.count(("list", "configmaps")) == 1


async def test_a_document_is_never_written_before_its_secrets(api, state):
    await until(lambda: len(api.watches) == 2)
    api.secrets(keys={"ada": "not announced"}, tell=False)
    api.document(1)
    await until(lambda: generation(state) == 1)
    assert secret(state, "keys") == {"ada": b"not announced"}


async def test_an_outdated_read_of_secrets_reverts_nothing(api, state):
    await until(lambda: len(api.watches) == 2)
    api.secrets(keys={"ada": "revoked later"})
    await until(lambda: secret(state, "keys") == {"ada": b"revoked later"})
    api.answering.clear()
    api.document(1)
    await until(lambda: api.asked.count(("list", "secrets")) == 2)
    api.secrets(keys={"bob": "x"})
    await until(lambda: secret(state, "keys") == {"bob": b"x"})
    api.answering.set()
    await until(lambda: generation(state) == 1)
    assert secret(state, "keys") == {"bob": b"x"}


async def test_a_late_watch_reverts_nothing(api, state, monkeypatch):
    written: list[bytes] = []

    def write(path, content):
        written.append(content)
        write_if_changed(path, content)

    write_if_changed = config_source.write_if_changed
    monkeypatch.setattr(config_source, "write_if_changed", write)
    await until(lambda: len(api.watches) == 2)
    api.secrets(keys={"ada": "revoked later"}, tell=False)
    late = api.objects["secrets"]
    api.secrets(keys={"bob": "x"}, tell=False)
    api.document(1)
    await until(lambda: generation(state) == 1)
    (watch,) = (events for events in api.watches if api._of[id(events)] == "secrets")
    watch.put_nowait({"type": "MODIFIED", "object": late})
    api.secrets(keys={"eve": "y"})
    await until(lambda: secret(state, "keys") == {"eve": b"y"})
    assert not any(encode(json.dumps({"ada": encode("revoked later")})).encode() in content for content in written)


async def test_of_two_writes_the_later_secret_stays(api, account, tmp_path, monkeypatch):
    going = asyncio.Event()

    async def to_thread(write, path, content):
        if b"old" in content:
            await going.wait()
        write(path, content)

    monkeypatch.setattr(config_source.asyncio, "to_thread", to_thread)
    state = StateDir.at(tmp_path / "t")
    source, server = ClusterSource(lambda: server, state, "sundog-edge"), ApiServer(account, "vision")
    versions = [
        {"metadata": {"resourceVersion": version}, "data": {"keys": text}}
        for version, text in (("9", "old"), ("10", "new"))
    ]
    taking = [asyncio.create_task(source._store_secrets(server, each)) for each in versions]
    for _ in range(10):
        await asyncio.sleep(0)
    going.set()
    await asyncio.gather(*taking)
    assert json.loads(state.secrets.read_text()) == {"keys": "new"}


async def test_a_restored_backup_with_lower_versions_is_applied(api, state):
    api.version = 100
    await until(lambda: len(api.watches) == 2)
    api.secrets(keys={"ada": "lost with the disk"})
    await until(lambda: secret(state, "keys") == {"ada": b"lost with the disk"})
    api.version = 10
    api.secrets(keys={"bob": "x"}, tell=False)
    api.end_watches()
    await until(lambda: secret(state, "keys") == {"bob": b"x"} and len(api.watches) == 2)
    api.secrets(keys={"eve": "y"})
    await until(lambda: secret(state, "keys") == {"eve": b"y"})


@pytest.mark.parametrize(
    "last", [(), ({"type": "ERROR", "object": {"code": 410}},), ({"type": "BOOKMARK", "object": {}},)], ids=str
)
async def test_changes_without_a_watch_are_read(api, state, last):
    api.document(1)
    await until(lambda: generation(state) == 1 and len(api.watches) == 2)
    api.document(2, tell=False)
    api.end_watches(*last)
    await until(lambda: generation(state) == 2)


async def test_deleted_objects_change_nothing(api, state):
    api.document(1)
    api.secrets(keys={"ada": "x"})
    await until(lambda: generation(state) == 1 and len(api.watches) == 2)
    api.store("secrets", None)
    api.store("configmaps", None)
    api.store("configmaps", {"data": {}})
    api.document(2)
    await until(lambda: generation(state) == 2)
    assert secret(state, "keys") == {"ada": b"x"}


async def test_an_unavailable_api_server_changes_nothing_and_is_followed_again(api, state, monkeypatch, caplog):
    monkeypatch.setattr(config_source, "MAX_PAUSE_S", 0.02)
    api.document(1)
    await until(lambda: generation(state) == 1 and len(api.watches) == 2)
    api.end_watches()
    await api.stop()
    await until(lambda: sum("is not available for" in line for line in caplog.messages) == 2)
    assert generation(state) == 1
    api.document(2)
    await api.start()
    await until(lambda: generation(state) == 2)
    # One line for each object, whatever the number of retries.
    assert sum("is not available for" in line for line in caplog.messages) == 2


@pytest.mark.parametrize("status", [401, 403, 410, 500])
async def test_an_invalid_answer_is_requested_again(api, state, status):
    api.document(1)
    await until(lambda: generation(state) == 1 and len(api.watches) == 2)
    api.status = status
    api.end_watches()
    await until(lambda: not api.watches)
    api.document(2, tell=False)
    api.status = 200
    await until(lambda: generation(state) == 2)


async def test_the_token_is_read_for_every_request(api, account, state):
    await until(lambda: len(api.watches) == 2)
    account.token.write_text("second\n")
    api.end_watches()
    await until(lambda: api.tokens == {"Bearer first", "Bearer second"})


async def test_errors_show_no_token_and_no_content(api, account):
    api.status = 403
    server = ApiServer(account, "vision")
    with pytest.raises(ApiUnavailable) as refused:
        await server.read("configmaps", "sundog-edge")
    assert str(refused.value) == "API server answered 403 for configmaps sundog-edge; expected 200"
    account.token.unlink()
    with pytest.raises(ApiUnavailable, match="configmaps sundog-edge: No such file or directory"):
        await server.read("configmaps", "sundog-edge")
    await server.close()


async def test_an_answer_without_end_is_refused(api, account, monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 1000)
    api.store("configmaps", {"data": {"split.json": "x" * 1000}})
    server = ApiServer(account, "vision")
    with pytest.raises(ApiUnavailable, match="exceeds 1000 bytes"):
        await server.read("configmaps", "sundog-edge")
    await server.close()


def test_the_account_of_a_pod(tmp_path):
    found = ServiceAccount.of_pod({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert found == ServiceAccount("https://[fd00::1]:6443", tmp_path / "token", tmp_path / "ca.crt")
    with pytest.raises(SettingsError, match="KUBERNETES_SERVICE_HOST is not set"):
        ServiceAccount.of_pod({}, tmp_path)


def test_pauses_grow_to_a_limit_and_are_random():
    for failures in range(2000):
        assert 0.25 <= retry_delay_s(failures) <= 10
    assert len({retry_delay_s(20) for _ in range(20)}) > 1
    assert max(retry_delay_s(20) for _ in range(50)) > 1 > max(retry_delay_s(0) for _ in range(50))
