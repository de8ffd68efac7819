"""The lines of an export, and its HTTP answers."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestClient, TestServer

from sundog_edge.errors import EdgeError
from sundog_edge.feedback import export
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome

PATH = "/feedback/digits/uid-1/export"


@dataclass
class Read:
    id: str
    tallies: Mapping[str, Mapping[str, int]]


@dataclass
class Memory:
    """A store with a test's rows. It can fail after some rows, and wait before it goes on."""

    exposed: list[ExportedExposure] = field(default_factory=list)
    outcome_rows: list[ExportedOutcome] = field(default_factory=list)
    sequence: int = 7
    fails_after: int | None = None
    waits: asyncio.Event | None = None

    async def read(self, attempts: Collection[str]) -> Read:
        if self.fails_after == 0:
            raise EdgeError("the store is away")
        tally = {"sequence": self.sequence, "events": len(self.outcome_rows), "squares": 2**70}
        return Read("s1", dict.fromkeys(attempts, tally))

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        assert attempt == "digits/uid-1"
        for number, each in enumerate(self.exposed):
            if number == self.fails_after:
                raise EdgeError("the store went away")
            yield each
        if self.waits is not None:
            await self.waits.wait()

    async def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        assert attempt == "digits/uid-1"
        for each in self.outcome_rows:
            yield each


def section(attempt: str, store: str, tally: Mapping[str, int]) -> dict[str, Any]:
    return {"attempt": attempt, "store": store, **tally}


def many(units: int) -> Memory:
    exposed = [ExportedExposure(unit, 1_000_000 * unit, 1, "control") for unit in range(units)]
    return Memory(exposed, [ExportedOutcome(unit, "converted", 1, "control", 1_500_000, unit) for unit in range(units)])


def client_of(store: Memory | None) -> TestClient[web.Request, web.Application]:
    app = web.Application()
    app.router.add_get("/feedback/{service}/{attempt}/export", export.make_export_handler(lambda: store, section))
    return TestClient(TestServer(app))


async def read(store: Memory, query: str = "") -> list[Any]:
    async with client_of(store) as client, client.get(PATH + query) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        text = (await response.read()).decode()
    assert text.endswith("\n")
    return [next(iter(orjson.loads(line).items())) for line in text.splitlines() if "squares" not in line]


async def test_all_rows_come_as_lines_between_head_and_end() -> None:
    async with client_of(many(2)) as client, client.get(PATH) as response:
        found = await response.text()
    head, *rows, end = found.splitlines()
    assert head.startswith('{"head": {"version": 1, "service": "digits", "attempt": "uid-1", "events": 2, "feedback": ')
    assert f'"squares": {2**70}' in head
    assert rows == [
        '{"exposure":["0000000000000000",0,1,"control"]}',
        '{"exposure":["0000000000000001",1000000,1,"control"]}',
        '{"outcome":["0000000000000000","converted",1,"control",1500000,0]}',
        '{"outcome":["0000000000000001","converted",1,"control",1500000,1]}',
    ]
    assert end.startswith('{"end": {"exposures": 2, "outcomes": 2, "events": 2, "feedback": ')


async def test_properties_come_if_they_are_asked_for() -> None:
    """A reader of an earlier release does not ask, and accepts no further member."""
    store = many(2)
    store.outcome_rows[0] = store.outcome_rows[0]._replace(properties='{"plan":"pro"}')
    assert [len(content) for kind, content in await read(store) if kind == "outcome"] == [6, 6]
    rows = [content for kind, content in await read(store, "?properties=true") if kind == "outcome"]
    assert [row[6:] for row in rows] == [['{"plan":"pro"}'], []]


@pytest.mark.parametrize("units", [0, 1, 499, 500, 501, 1200])
async def test_every_row_is_exported_once(units: int) -> None:
    rows = await read(many(units))
    assert [kind for kind, _ in rows] == ["exposure"] * units + ["outcome"] * units
    assert [int(content[0], 16) for _, content in rows] == [*range(units), *range(units)]


async def test_an_unavailable_store_is_reported_first() -> None:
    async with client_of(Memory(fails_after=0)) as client, client.get(PATH) as response:
        assert (response.status, await response.text()) == (503, "the store is away\n")


async def test_a_store_that_fails_midway_leaves_a_visibly_incomplete_answer() -> None:
    store = many(2000)
    store.fails_after = 1500
    async with client_of(store) as client, client.get(PATH) as response:
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_exports_run_one_at_a_time() -> None:
    store = many(1)
    store.waits = asyncio.Event()
    async with client_of(store) as client, client.get(PATH) as first:
        async with client.get(PATH) as second:
            assert second.status == 503
            assert second.headers["retry-after"] == "10"
        store.waits.set()
        assert (await first.text()).splitlines()[-1].startswith('{"end"')
        async with client.get(PATH) as third:
            assert third.status == 200
            await third.read()


@pytest.mark.parametrize("path", ["/feedback/digits/a%2Fb/export", "/feedback/%2E%2E%2F/x/export"])
async def test_invalid_names_are_not_looked_up(path: str) -> None:
    async with client_of(many(1)) as client, client.get(path) as response:
        assert response.status == 404


async def test_an_edge_without_a_store_answers_404() -> None:
    async with client_of(None) as client, client.get(PATH) as response:
        assert (response.status, await response.text()) == (404, "this edge keeps no outcomes of that name\n")
