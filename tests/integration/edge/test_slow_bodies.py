"""Bodies that come drop by drop: the model server itself, without Serve, behind a real edge."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sundog_runtime.replica import Replica

pytestmark = pytest.mark.haproxy

APPLICATION = "digits-r7"
PREFIX = f"/{APPLICATION}.app"
ECHO = """
class Predictor:
    def load(self, path, config):
        pass

    def predict(self, batch):
        return batch
"""
DROPS = 400
"""More than fit into a request's time at one in each twentieth of a second."""


@pytest.fixture
async def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The address of a model server that gives back what it gets."""
    pytest.importorskip("torch")
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "echo"
    root.mkdir()
    (root / "echo.py").write_text(ECHO)
    told = {"uri": f"file://{root}", "entrypoint": "echo:Predictor"}
    replica = await Replica.start(
        {"version": 1, "namespace": "vision", "service": "digits", "revision": 7, "model": told}
    )
    await replica.reconfigure(None)

    async def as_serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/-/routes":
            await replica.app(scope | {"root_path": PREFIX}, receive, send)
            return
        body = json.dumps({PREFIX: APPLICATION}).encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(as_serve, port=0, lifespan="off", log_config=None, access_log=False, loop="none")
    server = uvicorn.Server(config)
    # It must not take the signals of the test run.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn tells it no other way)
        await asyncio.sleep(0)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
    replica.close()


@pytest.fixture
async def narrow(edge, serve, model):
    """Service `digits`: one replica, which one request at a time may be at; others wait."""
    serve.targets = {APPLICATION: [model]}
    await edge.apply(
        edge.service(
            "digits",
            [edge.arm("stable", APPLICATION, [[0, 10_000]])],
            requestTimeoutSeconds=0.5,
            maxOngoingRequests=1,
            queue={"maxRequests": 10, "timeoutSeconds": 60.0},
        )
    )
    await edge.up("digits", stable=1)
    return edge


class Dripping:
    """A client that sends more than a buffer of its body at once and the rest a byte at a time, and reads meanwhile."""

    def __init__(self, edge, line: bytes) -> None:
        self.answer = b""
        self._edge = edge
        self._start = line + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n" + b" " * 40_000

    async def run(self) -> int:
        """How many drops it sent until its connection was closed; all of them, if it was not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._edge.http_port)
        writer.write(self._start)
        reading = asyncio.create_task(self._read(reader))
        try:
            for drop in range(DROPS):
                if (await asyncio.wait({reading}, timeout=0.05))[0]:
                    return drop
                writer.write(b" ")
            return DROPS
        finally:
            reading.cancel()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                self.answer += piece

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1])


async def usual(edge) -> int:
    """The status of a request as others make it, which waits for as long as the place at the replica is not free."""
    async with edge.session.post(f"{edge.url}/digits/", data=b'{"inputs": [[1.0]]}') as response:
        # Its headers may come before its body, and who leaves between them has given up.
        await response.read()
        return response.status


async def under_way(edge) -> bool:
    return sum(row["inFlight"] for row in (await edge.evidence())["counters"]) == 1


async def test_a_body_that_comes_drop_by_drop_has_the_requests_time_and_is_the_clients_fault(narrow):
    slow = Dripping(narrow, b"POST /digits/")
    dripping = asyncio.create_task(slow.run())
    await narrow.comes_true(lambda: under_way(narrow), "the slow request at the replica")
    assert await usual(narrow) == 200
    assert await dripping < DROPS, "its connection was not closed"
    assert slow.status == 408
    head, _, body = slow.answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    told = json.loads(body)
    assert told["code"] == "RequestTimeout"
    assert told["detail"].endswith(" of 90000 bytes of its body had arrived")
    assert narrow.ends(await narrow.settled(2)) == {"ok": 1, "client4xx": 1}


@pytest.mark.parametrize(
    ("line", "status", "end"),
    [
        (b"POST /digits/nothing", 404, "client4xx"),
        (b"GET /digits/", 405, "client4xx"),
        # Of a row of its own, which decides nothing.
        (b"GET /digits/v2/health/live", 200, "truncated"),
    ],
    ids=["path", "method", "probe"],
)
async def test_who_has_an_answer_and_sends_on_has_no_more_time_than_that(narrow, line, status, end):
    slow = Dripping(narrow, line)
    dripping = asyncio.create_task(slow.run())
    await narrow.comes_true(lambda: under_way(narrow), "the slow request at the replica")
    assert await usual(narrow) == 200
    assert await dripping < DROPS, "its connection was not closed"
    assert slow.status == status
    assert narrow.ends(await narrow.settled(2)) == {"ok": 1, end: 1}
