"""One contract for addresses outside: the adapter against real HTTP servers, and the stand-in that the reconciler's tests use."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
import pytest
from aiohttp import web

import certificates
from doubles.clock import FakeClock
from doubles.webhooks import FakeWebhooks
from fake_ray_head import end
from ports import free_port
from sundog_operator.adapters.webhooks import AddressPolicy, HttpWebhooks
from sundog_operator.core.observed import WebhookResult
from sundog_operator.ports import Webhooks
from waiting import PATIENCE_S

DOCUMENT = {"name": "digits", "metadata": {"weight": "25"}, "note": "é"}
SHORT_S = 1.0
"""Expires in one test. A request reaches a server on loopback in a few milliseconds, and must reach it before."""


class Outside(Protocol):
    """What the tests set up, and what they look at."""

    webhooks: Webhooks

    def answering(self, status: int) -> str: ...

    def hanging(self) -> str: ...

    def absent(self) -> str: ...

    def received(self, url: str) -> list[dict[str, Any]]: ...

    async def until(self, task: "asyncio.Task[WebhookResult]") -> WebhookResult: ...


@dataclass
class StandIn:
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.webhooks = FakeWebhooks(self.clock)

    def answering(self, status: int) -> str:
        self.webhooks.answers[url := f"http://hooks/{status}"] = status
        return url

    def hanging(self) -> str:
        self.webhooks.hanging.add("http://hooks/hangs")
        return "http://hooks/hangs"

    def absent(self) -> str:
        return "http://nowhere/"

    def received(self, url: str) -> list[dict[str, Any]]:
        return self.webhooks.posted(url)

    async def until(self, task: "asyncio.Task[WebhookResult]") -> WebhookResult:
        await self.webhooks.turn()
        self.clock.advance(SHORT_S)
        return await task


class Server:
    """A real one. Its paths say what it does."""

    def __init__(self) -> None:
        self.webhooks: Webhooks = HttpWebhooks(AddressPolicy(allow_loopback=True))
        self.requests: list[tuple[web.Request, bytes]] = []
        self.url = ""
        self._never = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        match request.path.strip("/").split("/"):
            case ["hangs"]:
                await self._never.wait()
            case ["endless"]:
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b"x" * 65536)
            case ["to", target]:
                raise web.HTTPFound(f"http://{target}/200")
            case ["long-header"]:
                return web.Response(headers={"x-long": "x" * 100_000})
        return web.Response(status=int(request.path.strip("/")), text="not yet")

    def answering(self, status: int) -> str:
        return f"{self.url}/{status}"

    def hanging(self) -> str:
        return f"{self.url}/hangs"

    def absent(self) -> str:
        return f"http://127.0.0.1:{free_port()}/"

    def received(self, url: str) -> list[dict[str, Any]]:
        return [orjson.loads(body) for request, body in self.requests if f"{self.url}{request.path}" == url]

    async def until(self, task: "asyncio.Task[WebhookResult]") -> WebhookResult:
        return await task


async def started(server: Server, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    return runner


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    runner = await started(made)
    yield made
    await end(runner)


@pytest.fixture(params=["stand-in", "http"])
def outside(request: pytest.FixtureRequest) -> Outside:
    return StandIn() if request.param == "stand-in" else request.getfixturevalue("server")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 302, 404, 500])
async def test_the_status_of_the_answer_is_reported_whatever_it_is(outside: Outside, status: int) -> None:
    url = outside.answering(status)
    answer = await outside.webhooks.post(url, DOCUMENT, PATIENCE_S)
    assert answer == WebhookResult(status)
    assert answer.confirms == (status in (200, 201, 202))
    assert answer.description == f"answered {status}"
    assert outside.received(url) == [DOCUMENT]


async def test_each_post_is_one_request(outside: Outside) -> None:
    url = outside.answering(500)
    for number in range(3):
        await outside.webhooks.post(url, {"number": number}, PATIENCE_S)
    assert outside.received(url) == [{"number": 0}, {"number": 1}, {"number": 2}]


async def test_one_that_hangs_has_its_time_and_no_more(outside: Outside) -> None:
    url = outside.hanging()
    answer = await outside.until(asyncio.ensure_future(outside.webhooks.post(url, DOCUMENT, SHORT_S)))
    assert answer == WebhookResult(problem="did not answer within 1 s")
    assert outside.received(url) == [DOCUMENT]
    assert not answer.confirms


async def test_one_that_is_not_there_raises_nothing(outside: Outside) -> None:
    answer = await outside.webhooks.post(outside.absent(), DOCUMENT, PATIENCE_S)
    assert (answer, answer.description) == (WebhookResult(problem="cannot be connected to"), "cannot be connected to")


async def test_it_is_json_with_the_users_password_and_nothing_of_ours(server: Server) -> None:
    await server.webhooks.post(f"{server.url.replace('//', '//ci:pa%73s@')}/200?token=t", DOCUMENT, PATIENCE_S)
    ((request, _),) = server.requests
    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == aiohttp.encode_basic_auth("ci", "pass")
    assert request.query == {"token": "t"}
    assert "Cookie" not in request.headers


async def test_no_redirect_is_followed(server: Server) -> None:
    target = server.url.removeprefix("http://")
    assert await server.webhooks.post(f"{server.url}/to/{target}", DOCUMENT, PATIENCE_S) == WebhookResult(302)
    assert len(server.requests) == 1


async def test_the_body_of_an_answer_is_not_waited_for(server: Server) -> None:
    assert await server.webhooks.post(f"{server.url}/endless", DOCUMENT, PATIENCE_S) == WebhookResult(200)


async def test_headers_without_an_end_are_no_answer(server: Server) -> None:
    answer = await server.webhooks.post(f"{server.url}/long-header", DOCUMENT, PATIENCE_S)
    assert answer.status is None
    assert answer.problem.startswith("broke off: ")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://[::1", "is not a valid URL"),
        ("http://host:99999/", "is not a valid URL"),
        ("http://a..b/", "is not a valid URL"),
        (f"http://{'a' * 300}/", "is not a valid URL"),
        ("http://name.invalid/?token=secret", "has a host name that DNS does not resolve"),
    ],
)
async def test_a_strange_address_raises_nothing_and_its_secrets_are_not_shown(url: str, problem: str) -> None:
    answer = await HttpWebhooks(AddressPolicy(allow_loopback=True)).post(url, DOCUMENT, PATIENCE_S)
    assert answer == WebhookResult(problem=problem)


async def test_a_certificate_that_signs_itself_is_not_trusted(tmp_path: Path) -> None:
    made = certificates.self_signed("127.0.0.1")
    (tmp_path / "tls.pem").write_text(made.certificate + made.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "tls.pem")
    server = Server()
    runner = await started(server, tls)
    answer = await server.webhooks.post(f"{server.url}/200", DOCUMENT, PATIENCE_S)
    await end(runner)
    assert answer == WebhookResult(problem="shows a certificate that is not trusted")
    assert server.requests == []


async def test_plain_http_is_no_tls(server: Server) -> None:
    answer = await server.webhooks.post(server.url.replace("http:", "https:") + "/200", DOCUMENT, PATIENCE_S)
    assert answer == WebhookResult(problem="does not speak TLS")


@pytest.mark.parametrize("hosts", [(), ("localhost", "127.0.0.1")])
@pytest.mark.parametrize("rename", [lambda url: url, lambda url: url.replace("127.0.0.1", "localhost")])
async def test_in_a_cluster_the_operators_own_pod_is_not_asked(
    server: Server, hosts: tuple[str, ...], rename: Callable[[str], str]
) -> None:
    webhooks = HttpWebhooks(AddressPolicy(frozenset(hosts)))
    answer = await webhooks.post(f"{rename(server.url)}/200", DOCUMENT, PATIENCE_S)
    assert answer == WebhookResult(problem="leads to the operator's own pod, which is forbidden")
    assert server.requests == []
