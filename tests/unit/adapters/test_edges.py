"""Requests to edges and their reports."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from doubles.clock import FakeClock
from sundog_operator.adapters import edges
from sundog_operator.adapters.cached.shared import SharedEdges
from sundog_operator.adapters.edges import HttpEdges, MemoryBudget
from sundog_operator.adapters.ray_serve import RayServe, fixed_token
from sundog_operator.core.observed import EdgeReport
from sundog_operator.errors import RayUnavailable
from sundog_operator.ports import Edges, Object

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(port: int | None) -> Object:
    ports = [{"name": "agent", "containerPort": port}]
    return {
        "metadata": {"name": "edge-0", "uid": "u", "resourceVersion": "1"},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": "127.0.0.1"},
    }


def edge(answer: Handler) -> TestServer:
    app = web.Application()
    app.router.add_get("/evidence", answer)
    return TestServer(app)


async def report_of(answer: Handler) -> EdgeReport:
    """Return the report of an edge that answers like this."""
    async with edge(answer) as server, aiohttp.ClientSession() as session:
        (report,) = await HttpEdges(session).read([pod(server.port)])
    return report


@pytest.mark.parametrize("shared", [False, True])
async def test_groups_and_units_are_only_requested_when_needed(*, shared: bool) -> None:
    asked: list[dict[str, str]] = []

    async def evidence(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({"version": 1})

    async with edge(evidence) as server, aiohttp.ClientSession() as session:
        asking: Edges = HttpEdges(session)
        asking = SharedEdges(asking, FakeClock()) if shared else asking
        pods = [pod(server.port)]
        reports = [await asking.read(pods), await asking.count(pods, "a"), await asking.count(pods, "a", by_unit=True)]
    assert asked == [
        {},
        {"service": "a", "detail": "blocks"},
        {"service": "a", "detail": "blocks,groups,units"},
    ]
    assert [each.evidence for (each,) in reports] == [{"version": 1}] * 3


async def test_the_message_of_an_unready_pod_comes_from_its_condition() -> None:
    taken = {
        "type": "Ready",
        "status": "False",
        "reason": "PortTaken",
        "message": "port 8080 is held by python (pid 7)",
    }
    well = {"type": "Ready", "status": "True", "message": "all is well"}
    full = "0/2 nodes are available: 2 Insufficient cpu."
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": full}
    pods = [pod(1), pod(1), pod(1), pod(1)]
    for each, conditions in zip(pods, ([taken], [well], [], [unplaced]), strict=True):
        each["status"] = {"conditions": [{"type": "Initialized", "status": "True"}, *conditions]}
    async with aiohttp.ClientSession() as session:
        reports = await HttpEdges(session).read(pods)
    assert [(each.ready, each.unready) for each in reports] == [
        (False, taken["message"]),
        (True, ""),
        (False, ""),
        (False, "0 of 2 nodes: 2 without enough free cpu"),
    ]


async def in_parts(request: web.Request) -> web.StreamResponse:
    """A document whose second half arrives after the first half was read."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"version": 1, "counters": [')
    await asyncio.sleep(0.05)
    await response.write(b"1, 2]}")
    await response.write_eof()
    return response


async def test_an_answer_that_comes_in_parts_is_read_to_its_end() -> None:
    """Such documents are larger than the buffer between two processes."""
    report = await report_of(in_parts)
    assert (report.error, report.evidence) == ("", {"version": 1, "counters": [1, 2]})


async def test_an_answer_over_the_limit_is_not_read_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "MAX_EVIDENCE_BYTES", 30)
    report = await report_of(in_parts)
    assert report.evidence is None
    assert report.error.endswith("/evidence: 31 bytes; expected at most 30")


@pytest.mark.parametrize(
    "body",
    [
        b'{"version": 1, "a": [' + b"{}," * 800_000 + b"{}]}",
        b'{"version": 1, "a": [' + b'{"":' * 800 + b"1" + b"}" * 800 + b"]}" + b'{"":' * 800_000,
        b'{"version": 1, "a": [' + b"[]," * 1_200_000 + b"{}]}",
        b'{"version": 1, "a": ["' + b"\xf0\x9f\x98\x80" * 100_000 + b'"' + b',"\xf0\x9f\x98\x80"' * 1_200_000 + b"]}",
    ],
    ids=["objects", "nested", "arrays", "wide texts"],
)
async def test_an_answer_that_would_take_much_memory_is_not_decoded(body: bytes) -> None:
    assert len(body) < edges.MAX_EVIDENCE_BYTES
    with pytest.raises(edges.NoEvidenceError, match=r"may take \d+ bytes of memory; expected at most 134217728"):
        edges.parse_evidence(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"the counters cannot\n be written: no space\n", ": the counters cannot be written: no space"),
        (b"", ""),
        (b"\x00\xff", ""),
        (b"a" * 5000, ": " + "a" * 200),
    ],
)
async def test_an_error_answer_of_an_edge_is_in_the_report(body: bytes, message: str) -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=503, body=body)

    report = await report_of(away)
    assert report.evidence is None
    assert report.error.endswith(f"/evidence: status 503{message}")


async def test_a_serve_status_in_parts_is_read_completely() -> None:
    async with TestServer(heads(serve_in_parts)) as server, aiohttp.ClientSession() as session:
        state = await RayServe(session, fixed_token("")).read(str(server.make_url("/ray")), "vision")
    assert sorted(state.applications) == ["a"]


async def test_an_unchanged_serve_status_is_parsed_once() -> None:
    message = "deploying"

    async def tell(_: web.Request) -> web.Response:
        application = {"status": "RUNNING", "message": message, "deployments": {}, "deployed_app_config": {}}
        return web.json_response({"applications": {"a": application}})

    async with TestServer(heads(tell)) as server, aiohttp.ClientSession() as session:
        serve, dashboard = RayServe(session, fixed_token("")), str(server.make_url("/ray"))
        first = await serve.read(dashboard, "vision")
        assert await serve.read(dashboard, "vision") is first
        message = ""
        assert (await serve.read(dashboard, "vision")).applications["a"].message == ""


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"applications": [' + b"{}," * 600_000 + b"{}]}", "1000000 values"),
        (b'{"applications": "' + b"x" * 17_000_000 + b'"}', "16777216 bytes"),
    ],
    ids=["values", "bytes"],
)
async def test_a_serve_status_that_would_take_much_memory_is_refused(body: bytes, found: str) -> None:
    async with TestServer(serving(body)) as server, aiohttp.ClientSession() as session:
        with pytest.raises(RayUnavailable, match=f"the answer has over {found}"):
            await RayServe(session, fixed_token("")).read(str(server.make_url("/ray")), "vision")


async def test_a_serve_status_that_is_read_no_more_is_forgotten() -> None:
    clock = FakeClock()
    async with TestServer(serving(b'{"applications": {}}')) as server, aiohttp.ClientSession() as session:
        serve = RayServe(session, fixed_token(""), clock.monotonic)
        former, current = (str(server.make_url(path)) for path in ("/former", "/current"))
        await serve.read(former, "vision")
        clock.advance(30)
        await serve.read(current, "vision")
        assert set(serve._answers) == {former, current}
        clock.advance(30)
        await serve.read(current, "vision")
        assert set(serve._answers) == {current}


def serving(body: bytes) -> web.Application:
    """Heads of Ray, one per path, that all answer this."""

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=body)

    return heads(tell)


def heads(answer: Handler) -> web.Application:
    """Heads of Ray, one per path."""
    app = web.Application()
    app.router.add_get("/{head}/api/serve/applications/", answer)
    return app


async def serve_in_parts(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"applications": {"a": {"status": "RUNNING", "message": "", ')
    await asyncio.sleep(0.05)
    await response.write(b'"deployments": {}, "deployed_app_config": {}}}, "target_groups": []}')
    await response.write_eof()
    return response


MIB = 2**20


async def hostile_edges(session: aiohttp.ClientSession, asking: HttpEdges, count: int, body: bytes) -> list[EdgeReport]:
    """Ask so many pods that all answer with a compressed body."""

    async def answer(_: web.Request) -> web.Response:
        response = web.Response(body=body)
        response.enable_compression()
        return response

    async with edge(answer) as server:
        return await asking.read([pod(server.port)] * count)


def rows(mib: float) -> bytes:
    row = b'{"arm":"canary","code":200,"count":12345},'
    return b'{"version":1,"rows":[' + row * int(mib * MIB / len(row)) + b"{}]}"


async def test_the_answers_of_all_edges_take_no_more_than_the_budget_together() -> None:
    body = rows(0.6)
    needed = edges.estimate_memory(body)
    budget = MemoryBudget(2 * needed)
    async with aiohttp.ClientSession() as session:
        reports = await hostile_edges(session, HttpEdges(session, budget), 6, body)
        read = [each for each in reports if each.evidence is not None]
        assert len(read) == 2
        refused = next(each for each in reports if each.evidence is None)
        assert f"may take {needed} bytes of memory, and others take {2 * needed}" in refused.error
        assert budget.used == 2 * needed
        del reports, read, refused
        gc.collect()
        assert budget.used == 0, "what nobody uses is given back"
        (report,) = await hostile_edges(session, HttpEdges(session, budget), 1, body)
    assert report.evidence is not None


async def test_few_large_answers_are_decoded_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    lock, most = threading.Lock(), 0
    decode = edges.parse_evidence

    def counted(body: bytes, *, yields: bool = False) -> dict[str, Any]:
        nonlocal most
        with lock:
            running.append(1)
            most = max(most, len(running))
        try:
            assert yields
            assert threading.current_thread() is not threading.main_thread()
            return decode(body, yields=yields)
        finally:
            with lock:
                running.pop()

    monkeypatch.setattr(edges, "parse_evidence", counted)
    async with aiohttp.ClientSession() as session:
        reports = await hostile_edges(session, HttpEdges(session), 6, rows(0.3))
    assert all(each.evidence for each in reports)
    assert most <= edges.MAX_LARGE_ANSWERS


@pytest.mark.parametrize(
    "body", [b'{"version":1,"a":[1,-2.5e3,{"b":"c"}],"n":123456789012345678901234567890}', rows(0.01)]
)
def test_decoding_in_turns_gives_the_same_document(body: bytes) -> None:
    assert edges.parse_evidence(body, yields=True) == edges.parse_evidence(body)


async def test_the_event_loop_runs_while_a_large_answer_is_decoded() -> None:
    """The decoder of the standard library does not let other threads run."""
    turns, ended = 0, False
    body = rows(4)

    async def count() -> None:
        nonlocal turns
        while not ended:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await asyncio.sleep(0)
    before = turns
    document = await asyncio.to_thread(edges.parse_evidence, body, yields=True)
    during, ended = turns - before, True
    await counting
    assert len(document["rows"]) > 90_000
    assert during > 10, "the event loop gets a turn each 5 ms"
