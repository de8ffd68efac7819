"""Copies of requests: which are sent, where, and how many at a time."""

import asyncio
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mirror_datagrams import datagram
from sundog_edge.mirror.__main__ import make_session
from sundog_edge.mirror.send import MAX_IN_FLIGHT, MAX_LAG_US, TARGETS, Mirror, MirrorTarget
from sundog_edge.split.shadow import Comparator, PartComparator
from waiting import PATIENCE_S

NOW_US = 1_700_000_000_002_500 + 1


def target(**changes: Any) -> MirrorTarget:
    fields: dict[str, Any] = {
        "key": "digits/att/3",
        "prefix": "/digits-r8.app",
        "addresses": ("127.0.0.1:1",),
        "comparator": Comparator(),
        **changes,
    }
    return MirrorTarget(**fields, timeout_s=PATIENCE_S)


def test_a_target_survives_its_json() -> None:
    parts = (PartComparator(kind="argmax", path="$.scores"), PartComparator(kind="tolerance", path="$.box", atol=1.0))
    aimed = target(comparator=Comparator(kind="custom", parts=parts))
    sent = orjson.loads(orjson.dumps(TARGETS.dump_python({"digits": aimed}, by_alias=True)))
    assert {*sent["digits"]} == {"key", "prefix", "addresses", "timeoutSeconds", "comparator"}
    assert TARGETS.validate_python(sent) == {"digits": aimed}


@pytest.mark.parametrize(
    ("fields", "aim", "late_us", "counted"),
    [
        ({"skip": "size"}, {}, 0, {"size": 1}),
        ({"status": "500"}, {}, 0, {"failed": 1}),
        ({"key": "digits/att/2"}, {}, 0, {"ended": 1}),
        ({"key": "other/att/3"}, {}, 0, {"ended": 1}),
        ({}, {"addresses": ()}, 0, {"noReplica": 1}),
        ({}, {}, MAX_LAG_US, {"dropped": 1}),
    ],
)
async def test_requests_with_a_reason_are_not_repeated(
    fields: dict[str, str], aim: dict[str, Any], late_us: int, counted: dict[str, int]
) -> None:
    async with make_session() as session:
        mirror = Mirror(session)
        mirror.set_targets({"digits": target(**aim)})
        mirror.take(datagram(**fields), NOW_US + late_us)
    (own,) = mirror.counts.values()
    assert (own.sent, own.skipped | ({"dropped": own.dropped} if own.dropped else {})) == (0, counted)


async def test_a_missing_replica_counts_as_error_after_the_candidates_first_answer() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response([1])

    app = web.Application()
    app.router.add_post("/{any:.*}", answer)
    async with TestServer(app) as server, make_session() as session:
        mirror = Mirror(session)
        mirror.set_targets({"digits": target(addresses=())})
        mirror.take(datagram(), NOW_US)
        mirror.set_targets({"digits": target(addresses=(f"127.0.0.1:{server.port}",))})
        mirror.take(datagram(), NOW_US)
        (own,) = mirror.counts.values()
        assert (own.sent, own.skipped) == (1, {"noReplica": 1})
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*mirror._running["digits"])
        assert own.paired == 1
        mirror.set_targets({"digits": target(addresses=())})
        mirror.take(datagram(), NOW_US)
        assert (own.sent, own.errors, own.in_flight, own.skipped) == (2, 1, 0, {"noReplica": 1})
        mirror.set_targets({"digits": target(addresses=(), key="digits/att/4")})
        mirror.take(datagram(key="digits/att/4"), NOW_US)
    later = mirror.counts["b1-7", "digits/att/4"]
    assert (later.sent, later.skipped) == (0, {"noReplica": 1}), "of another epoch nothing has answered yet"


async def test_concurrent_copies_are_limited() -> None:
    async with make_session() as session:
        mirror = Mirror(session)
        mirror.set_targets({"digits": target()})
        for _ in range(MAX_IN_FLIGHT + 5):
            mirror.take(datagram(), NOW_US)
        (own,) = mirror.counts.values()
        assert (own.sent, own.in_flight, own.dropped) == (MAX_IN_FLIGHT, MAX_IN_FLIGHT, 5)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert (own.errors, own.in_flight) == (MAX_IN_FLIGHT, 0)


async def test_a_copy_goes_to_a_replica_only() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=307, headers={"location": "/elsewhere"})

    app = web.Application()
    app.router.add_post("/{any:.*}", answer)
    async with TestServer(app) as server, make_session() as session:
        mirror = Mirror(session)
        mirror.set_targets({"digits": target(addresses=(f"127.0.0.1:{server.port}",))})
        mirror.take(datagram(), NOW_US)
        (own,) = mirror.counts.values()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*mirror._running["digits"])
    assert (seen, own.errors) == (["/digits-r8.app/v2/infer"], 1)


async def test_cookies_of_an_answer_are_not_sent_with_other_copies() -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("cookie"))
        return web.Response(headers={"set-cookie": "who=ada; Path=/"})

    app = web.Application()
    app.router.add_post("/", answer)
    # By name: aiohttp stores no cookies of numeric addresses.
    async with TestServer(app, host="localhost") as server, make_session() as session:
        for _ in range(2):
            (await session.post(server.make_url("/"))).release()
    assert seen == [None, None]
