"""One contract for what numbers are read from: the adapter against a real Prometheus, and the stand-in that the reconciler's tests use."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from doubles.clock import FakeClock
from doubles.prometheus import HANGS_S, FakePrometheus
from fake_ray_head import end
from ports import free_port
from real_prometheus import MISSING, prometheus
from sundog_operator.adapters.prometheus import MAX_RESPONSE_BYTES, HttpPrometheus
from sundog_operator.core.observed import PrometheusResult
from sundog_operator.ports import Prometheus
from waiting import PATIENCE_S, comes_true

SHORT_S = 0.3


@dataclass
class Real:
    url: str
    gauge: Gauge


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    if MISSING:
        pytest.skip(MISSING)
    registry = CollectorRegistry()
    gauge = Gauge("tests_number", "What a test says.", ["namespace", "revision"], registry=registry)
    gauge.labels("vision", "8").set(0.25)
    gauge.labels("vision", "7").set(4)
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    try:
        with prometheus(tmp_path_factory.mktemp("prometheus"), [f"127.0.0.1:{port}"]) as url:
            yield Real(url, gauge)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Giving(Protocol):
    async def __call__(self, number: float | None) -> tuple[Prometheus, str]:
        """A Prometheus and an expression that gives that number, or no data."""


@pytest.fixture(params=["stand-in", "prometheus"])
def giving(request: pytest.FixtureRequest, session: aiohttp.ClientSession) -> Giving:
    async def stand_in(number: float | None) -> tuple[Prometheus, str]:
        fake = FakePrometheus(FakeClock())
        fake.numbers = {} if number is None else {"x": number}
        return fake, "x"

    async def from_real(number: float | None) -> tuple[Prometheus, str]:
        server: Real = request.getfixturevalue("real")
        asked = HttpPrometheus(session, server.url, 30)
        if number is None:
            return asked, "nobody_exports_this"
        expression = 'tests_number{namespace="vision", revision="8"}'
        server.gauge.labels("vision", "8").set(number)

        async def scraped() -> bool:
            return (await asked.query(expression)).value == number

        await comes_true(scraped, f"{number} at {server.url}")
        return asked, expression

    return stand_in if request.param == "stand-in" else from_real


@pytest.mark.parametrize("number", [0.0, 0.25, -3.0, 1e12])
async def test_a_number_is_read_as_it_is(giving: Giving, number: float) -> None:
    asked, expression = await giving(number)
    assert await asked.query(expression) == PrometheusResult(number)


async def test_no_data_is_no_number(giving: Giving) -> None:
    asked, expression = await giving(None)
    assert await asked.query(expression) == PrometheusResult(problem="gives no data")


@pytest.mark.parametrize(
    ("expression", "reading"),
    [
        ("scalar(vector(2.5))", PrometheusResult(2.5)),
        ("1 + 1", PrometheusResult(2)),
        ("count(tests_number)", PrometheusResult(2)),
        ("tests_number", PrometheusResult(problem="gives 2 series instead of one number")),
        ("tests_number[5m]", PrometheusResult(problem="gives a matrix instead of one number")),
        ('"text"', PrometheusResult(problem="gives a string instead of one number")),
        ("vector(0) / 0", PrometheusResult(problem="gives NaN, which is not a finite number")),
        ("vector(1) / 0", PrometheusResult(problem="gives +Inf, which is not a finite number")),
    ],
)
async def test_what_is_one_number_and_what_is_none(
    real: Real, session: aiohttp.ClientSession, expression: str, reading: PrometheusResult
) -> None:
    asked = HttpPrometheus(session, f"{real.url}/", 30)

    async def scraped() -> bool:
        return (await asked.query("count(tests_number)")).value == 2

    await comes_true(scraped, "both series")
    assert await asked.query(expression) == reading


async def test_invalid_promql_is_reported_in_the_words_of_prometheus(
    real: Real, session: aiohttp.ClientSession
) -> None:
    found = await HttpPrometheus(session, real.url, 30).query("rate(up")
    assert found == PrometheusResult(
        problem='is refused by Prometheus: invalid parameter "query": 1:8: parse error: unclosed left parenthesis'
    )


Handler = Callable[[web.Request], Any]


@pytest.fixture
async def misbehaving(session: aiohttp.ClientSession) -> AsyncIterator[Callable[..., Any]]:
    """A Prometheus whose server does as it is told, and is waited for as long as a busy machine may take."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler, timeout_s: float = PATIENCE_S) -> HttpPrometheus:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", handler)
        runners.append(web.AppRunner(app, shutdown_timeout=0.1))
        await runners[-1].setup()
        port = free_port()
        await web.TCPSite(runners[-1], "127.0.0.1", port).start()
        return HttpPrometheus(session, f"http://127.0.0.1:{port}/prefix", timeout_s)

    yield start
    for runner in runners:
        await end(runner)


async def test_it_is_asked_by_post_below_its_address(misbehaving: Callable[..., Any]) -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, dict(await request.post())))
        return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [1, "7"]}})

    assert await (await misbehaving(handle)).query("up") == PrometheusResult(7)
    assert seen == [("POST", "/prefix/api/v1/query", {"query": "up", "timeout": f"{math.ceil(PATIENCE_S)}s"})]


async def test_no_redirect_is_followed(misbehaving: Callable[..., Any]) -> None:
    paths: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    problem = "got an answer with status 307 that is not from Prometheus' API"
    assert await (await misbehaving(handle)).query("up") == PrometheusResult(problem=problem)
    assert paths == ["/prefix/api/v1/query"]


@pytest.mark.parametrize(
    "body",
    [
        *("", "nonsense", "[]", "null", "{}", '{"status": "success"}'),
        '{"status": "success", "data": {"resultType": "vector", "result": [{}]}}',
        '{"status": "success", "data": {"resultType": "scalar", "result": [1]}}',
        '{"status": "success", "data": {"resultType": "scalar", "result": [1, "many"]}}',
        '{"status": "success", "data": {"resultType": "vector", "result": 5}}',
    ],
)
async def test_what_is_no_answer_of_prometheus_is_no_number(misbehaving: Callable[..., Any], body: str) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=body, status=200)

    problem = "got an answer with status 200 that is not from Prometheus' API"
    assert await (await misbehaving(handle)).query("up") == PrometheusResult(problem=problem)


async def test_the_description_of_an_answer_has_room_in_a_status(misbehaving: Callable[..., Any]) -> None:
    async def handle(_: web.Request) -> web.Response:
        result = [1, f"NaN{' ' * 50_000}"]
        return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": result}})

    assert await (await misbehaving(handle)).query("up") == PrometheusResult(
        problem="gives NaN, which is not a finite number"
    )


async def test_an_endless_answer_is_not_read_to_its_end(misbehaving: Callable[..., Any]) -> None:
    written = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        while written < 64 * MAX_RESPONSE_BYTES:
            await response.write(b" " * 65536)
            written += 65536
        return response

    assert await (await misbehaving(handle)).query("up") == PrometheusResult(problem="got an answer of more than 1 MiB")
    assert written < 64 * MAX_RESPONSE_BYTES


async def test_one_that_hangs_is_given_up(misbehaving: Callable[..., Any]) -> None:
    never = asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    found = await (await misbehaving(handle, SHORT_S)).query("up")
    assert found == PrometheusResult(problem="had no answer from Prometheus within 0.3 s")


async def test_the_stand_in_hangs_alike() -> None:
    clock = FakeClock()
    fake = FakePrometheus(clock)
    fake.hangs = True
    task = asyncio.ensure_future(fake.query("up"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    clock.advance(HANGS_S)
    assert await task == PrometheusResult(problem="had no answer from Prometheus within 10 s")


async def test_one_that_is_not_there_is_reported(session: aiohttp.ClientSession) -> None:
    found = await HttpPrometheus(session, f"http://127.0.0.1:{free_port()}", PATIENCE_S).query("up")
    assert found == PrometheusResult(problem="cannot reach Prometheus: it cannot be connected to")
