"""The fast path of small requests: which requests take it, and that it answers like uvicorn's path."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sundog_runtime.context import parameters
from sundog_runtime.fast_path import FastPath, TrailerDroppingProtocol, make_protocol_class
from sundog_runtime.protocol.messages import Buffer, HttpResponse
from sundog_runtime.replica import Replica
from sundog_runtime.scheduling import execution_mode
from waiting import PATIENCE_S

ROW = [0.5, -1.0, 2.0, 0.25]
GOOD = b'{"inputs":[[0.5,-1.0,2.0,0.25]]}'


class Admission:
    """Admits every request by default, and counts."""

    def __init__(self) -> None:
        self.open = True
        self.inside = 0
        self.left: list[int] = []
        self.fails = False

    def try_admit(self) -> bool:
        self.inside += self.open
        return self.open

    def record_response(self, status: int, seconds: float) -> None:
        if self.fails:
            raise RuntimeError("no ink")
        assert seconds >= 0
        self.inside -= 1
        self.left.append(status)

    def cancel_admission(self) -> None:
        self.inside -= 1


class EchoServer:
    """A server with a fast path that echoes, and a normal path that echoes differently, after `gate`."""

    def __init__(self) -> None:
        self.admission = Admission()
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self.asked = 0
        self.headers: list[Mapping[bytes, bytes]] = []
        self.uvicorn: uvicorn.Server
        self.serving: asyncio.Task[None]

    def answer(self, path: str, headers: Mapping[bytes, bytes], body: Buffer) -> HttpResponse | None:
        if body == b"usual":
            return None
        if body == b"raise":
            raise RuntimeError("a mistake of ours")
        self.headers.append(headers)
        status = int(headers.get(b"x-status", b"200"))
        return HttpResponse(status, ((b"content-type", b"text/plain"),), b"short " + path.encode() + b" " + bytes(body))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self.gate.wait()
        names = b",".join(name for name, _ in scope["headers"])
        answer = b"usual %b %b [%b]" % (scope["path"].encode(), body, names)
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def protocol() -> type[HttpToolsProtocol] | None:
    """The protocol in place of the one with a fast path."""
    return None


@pytest.fixture
async def server(protocol: type[HttpToolsProtocol] | None) -> AsyncIterator[EchoServer]:
    made = EchoServer()
    protocol = protocol or make_protocol_class(FastPath({b"/m": "/", b"/m/": "/"}, made.answer, made.admission))
    config = uvicorn.Config(
        made.app,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=protocol,
        loop="none",
        interface="asgi3",
    )
    made.uvicorn = uvicorn.Server(config)
    made.uvicorn.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    made.serving = asyncio.create_task(made.uvicorn.serve())
    while not made.uvicorn.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0)
    made.port = made.uvicorn.servers[0].sockets[0].getsockname()[1]
    yield made
    made.gate.set()
    made.uvicorn.should_exit = True
    await made.serving


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def connect(server: EchoServer) -> AsyncIterator[Callable[[], Awaitable[Connection]]]:
    writers = []

    async def make() -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writers.append(writer)
        return reader, writer

    yield make
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def post(body: bytes, *headers: str, path: str = "/m", method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: m", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def test_a_request_in_one_piece_is_answered_at_once(server: EchoServer, connect: Any) -> None:
    reader, writer = await connect()
    for path, given in (("/m", "find-me"), ("/m/", "and-me")):
        writer.write(post(b"one", f"x-request-id: {given}", path=path))
        status, headers, body = await answer_of(reader)
        assert (status, body) == (200, b"short / one")
        assert headers["content-type"] == "text/plain"
        assert headers["x-request-id"] == given
        assert {"date", "server"} <= set(headers)
    writer.write(post(b"one"))
    assert len((await answer_of(reader))[1]["x-request-id"]) == 36
    assert (server.admission.left, server.admission.inside) == ([200, 200, 200], 0)


@pytest.mark.parametrize(("status", "line"), [("500", b"500 Internal Server Error"), ("599", b"599 ")])
async def test_the_status_is_sent_and_counted(server: EchoServer, connect: Any, status: str, line: bytes) -> None:
    reader, writer = await connect()
    writer.write(post(b"one", f"x-status: {status}"))
    assert await reader.readline() == b"HTTP/1.1 " + line + b"\r\n"
    assert server.admission.left == [int(status)]


@pytest.mark.parametrize(
    "request_",
    [
        post(b"one", path="/other"),
        post(b"one", path="/m?x=1"),
        post(b"one", method="PUT"),
        post(b"one", version="1.0"),
        post(b"one", "connection: close"),
        post(b"one", 'x-request-id: a"b\x7f'.replace("\x7f", " c")),
        post(b"one", "expect: nothing", "connection: upgrade", "upgrade: websocket2"),
        post(b"usual"),
    ],
)
async def test_every_other_request_takes_the_normal_path(server: EchoServer, connect: Any, request_: bytes) -> None:
    reader, writer = await connect()
    writer.write(request_)
    status, _, body = await answer_of(reader)
    assert (status, body.split(b" ")[0]) == (200, b"usual")
    assert b"host,content-length" in body
    assert (server.admission.left, server.admission.inside) == ([], 0)


async def test_an_announced_body_is_awaited(server: EchoServer, connect: Any) -> None:
    reader, writer = await connect()
    whole = post(b"one", "expect: 100-continue")
    writer.write(whole[:-3])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(whole[-3:])
    assert b"usual /m one" in (await answer_of(reader))[2]


async def test_a_request_that_is_not_admitted_takes_the_normal_path(server: EchoServer, connect: Any) -> None:
    server.admission.open = False
    reader, writer = await connect()
    writer.write(post(b"one"))
    assert (await answer_of(reader))[2].startswith(b"usual /m one")
    server.admission.open = True
    writer.write(post(b"two"))
    assert (await answer_of(reader))[2] == b"short / two"


@pytest.mark.parametrize("at", [10, 60, -3])
async def test_a_request_in_pieces_arrives_whole(server: EchoServer, connect: Any, at: int) -> None:
    reader, writer = await connect()
    whole = post(b"in pieces", "x-a: 1", "x-b: 2")
    writer.write(whole[:at])
    # An answer on another connection shows that the server has seen the first piece.
    other, more = await connect()
    more.write(post(b"two"))
    await answer_of(other)
    writer.write(whole[at:])
    assert (await answer_of(reader))[2] in (
        b"usual /m in pieces [host,content-length,x-a,x-b]",
        b"short / in pieces",
    )
    assert server.admission.inside == 0


async def test_chunks_are_joined(server: EchoServer, connect: Any) -> None:
    reader, writer = await connect()
    head = b"POST /m HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head + b"3\r\none\r\n4\r\n two\r\n2\r\n 3\r\n0\r\n\r\n")
    assert (await answer_of(reader))[2] == b"short / one two 3"


TRAILERS = b"x-status: 500\r\nexpect: 100-continue\r\nx-request-id: forged\r\nx_evil: 1\r\n"


def chunked(body: bytes, *, path: str = "/m", trailers: bytes = TRAILERS) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\nx-request-id: given\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)


async def test_trailers_are_dropped_on_the_fast_path(server: EchoServer, connect: Any) -> None:
    reader, writer = await connect()
    writer.write(chunked(b"one") + post(b"two"))
    status, headers, body = await answer_of(reader)
    assert (status, headers["x-request-id"], body) == (200, "given", b"short / one")
    # No trailer of the next request either.
    assert (await answer_of(reader))[2] == b"short / two"
    assert [set(each) for each in server.headers] == [
        {b"host", b"transfer-encoding", b"x-request-id"},
        {b"host", b"content-length", b"x-request-id"},
    ]


@pytest.mark.parametrize(
    "protocol", [None, TrailerDroppingProtocol], ids=["with the fast path", "without the fast path"]
)
@pytest.mark.parametrize(("path", "body"), [("/m", b"usual"), ("/other", b"one")])
@pytest.mark.parametrize("at", [-len(TRAILERS) - 2, -3, 10_000], ids=["late", "in two pieces", "at once"])
async def test_trailers_are_dropped_on_the_normal_path(
    server: EchoServer, connect: Any, path: str, body: bytes, at: int
) -> None:
    server.gate.clear()
    reader, writer = await connect()
    whole = chunked(body, path=path)
    writer.write(whole[:at])
    while not server.asked:  # noqa: ASYNC110 (nor for this)
        await asyncio.sleep(0)
    writer.write(whole[at:] + post(b"usual"))
    server.gate.set()
    answer = b"usual %b %b [host,transfer-encoding,x-request-id]" % (path.encode(), body)
    assert (await answer_of(reader))[2] == answer
    assert (await answer_of(reader))[2] == b"usual /m usual [host,content-length]"


async def test_pipelined_requests_are_answered_in_their_order(server: EchoServer, connect: Any) -> None:
    server.gate.clear()
    reader, writer = await connect()
    writer.write(post(b"one") + post(b"usual") + post(b"three") + post(b"four"))
    assert (await answer_of(reader))[2] == b"short / one"
    server.gate.set()
    found = [(await answer_of(reader))[2].split(b" [")[0] for _ in range(3)]
    assert found == [b"usual /m usual", b"usual /m three", b"usual /m four"]
    writer.write(post(b"five"))
    assert (await answer_of(reader))[2] == b"short / five"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00 what is this\r\n\r\n",
        b"POST /m HTTP/9.9\r\nhost: m\r\n\r\n",
        b"POST /m HTTP/1.1\r\nhost: m\r\ncontent-length: -1\r\n\r\n",
        b"POST /m HTTP/1.1\r\nhost: m\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        b"POST /m HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /m HTTP/1.1\r\nhost m\r\n\r\n",
    ],
)
async def test_malformed_requests_affect_no_other_client(server: EchoServer, connect: Any, garbage: bytes) -> None:
    reader, writer = await connect()
    good, more = await connect()
    writer.write(garbage)
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    more.write(post(b"one"))
    assert (await answer_of(good))[2] == b"short / one"
    assert (server.admission.inside, server.asked) == (0, 0)


async def test_a_client_that_leaves_in_the_middle_affects_no_other(server: EchoServer, connect: Any) -> None:
    _, writer = await connect()
    writer.write(post(b"one")[:-2])
    writer.transport.abort()
    reader, writer = await connect()
    writer.write(post(b"two"))
    assert (await answer_of(reader))[2] == b"short / two"


async def test_an_error_of_the_fast_path_disables_it_without_a_lost_request(
    server: EchoServer, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await connect()
    for body in (b"raise", b"one"):
        writer.write(post(body))
        assert (await answer_of(reader))[2].startswith(b"usual /m " + body)
    assert [record.message for record in caplog.records if record.name == "ray.serve.sundog"] == [
        "fast path disabled: it failed"
    ]
    assert server.admission.inside == 0


async def test_a_request_that_cannot_be_counted_is_answered_once(
    server: EchoServer, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.admission.fails = True
    reader, writer = await connect()
    writer.write(post(b"one") + post(b"two"))
    assert (await answer_of(reader))[2] == b"short / one"
    assert (await answer_of(reader))[2].startswith(b"usual /m two")
    assert "could not be counted" in caplog.text


async def test_a_server_that_ends_closes_idle_connections_and_finishes_the_others(
    server: EchoServer, connect: Any
) -> None:
    idle, writer = await connect()
    writer.write(post(b"one"))
    await answer_of(idle)
    server.gate.clear()
    busy, writer = await connect()
    writer.write(post(b"usual"))
    while not server.uvicorn.server_state.tasks:  # noqa: ASYNC110 (nor for this)
        await asyncio.sleep(0)
    server.uvicorn.should_exit = True
    async with asyncio.timeout(PATIENCE_S):
        assert await idle.read() == b""
    assert not server.serving.done()
    server.gate.set()
    _, headers, body = await answer_of(busy)
    assert (body.split(b" [")[0], headers["connection"]) == (b"usual /m usual", "close")


async def test_one_timer_closes_a_connection_that_idles_and_none_that_sends(server: EchoServer, connect: Any) -> None:
    reader, writer = await connect()
    writer.write(post(b"one"))
    await answer_of(reader)
    [connection] = server.uvicorn.server_state.connections
    timer = connection._idle_timer
    writer.write(post(b"two"))
    await answer_of(reader)
    assert connection._idle_timer is timer
    connection._close_if_idle()
    assert connection._idle_timer not in (timer, None)
    connection._idle_timer.cancel()
    connection.timeout_keep_alive = 0
    writer.write(post(b"three")[:20])
    while connection._idle_since is not None:  # noqa: ASYNC110 (nothing announces the first bytes of a request)
        await asyncio.sleep(0)
    connection._close_if_idle()
    writer.write(post(b"three")[20:])
    assert (await answer_of(reader))[2] == b"short / three"
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.read() == b""


# The paths that the application answers.


@pytest.fixture
async def replica(torch_model: Path, args: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    """A network that has proved to be quick, even on a busy machine."""
    monkeypatch.setattr(execution_mode, "QUICK_SECONDS", math.inf)
    monkeypatch.setattr(execution_mode, "LONG_SECONDS", math.inf)
    made = await Replica.start(args(torch_model))
    await made.reconfigure({"maxRequestBytes": 1000})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made.app), base_url="http://replica") as client:
        async with asyncio.timeout(PATIENCE_S):
            while made.app.try_answer("/", {}, GOOD) is None:
                assert (await client.post("/", content=GOOD)).status_code == 200
    yield made
    made.close()


NAN = b'{"inputs":[[1e30,1e30,-1e30,1e30]]}'


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/", {}, GOOD),
        ("/", {}, b"[[1, 2, 3, 4], [5, 6, 7, 8]]"),
        ("/v2/models/digits/infer", {}, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'),
        ("/", {"x-sundog-timeout-seconds": "5"}, GOOD),
    ],
)
async def test_the_answer_equals_that_of_the_normal_path(
    replica: Replica, path: str, headers: dict[str, str], body: bytes
) -> None:
    before = replica.metrics.fast_path_answers
    given = {name.encode(): value.encode() for name, value in headers.items()}
    found = replica.app.try_answer(path, given, body)
    assert found is not None
    assert replica.metrics.fast_path_answers == before + 1
    async with httpx.AsyncClient(transport=httpx.ASGITransport(replica.app), base_url="http://replica") as client:
        usual = await client.post(path, content=body, headers=headers)
    assert (found.status, found.body) == (usual.status_code, usual.content)
    assert dict(found.headers)[b"content-type"].decode() == usual.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/", {}, b""),
        ("/", {}, b"{"),
        ("/", {}, b'{"inputs":[[1,2]]}'),
        ("/", {}, b" " * 2000 + GOOD),
        ("/", {b"content-encoding": b"gzip"}, GOOD),
        ("/v2", {}, GOOD),
        ("/nowhere", {}, GOOD),
    ],
)
async def test_unusual_requests_take_the_normal_path(
    replica: Replica, path: str, headers: dict[bytes, bytes], body: bytes
) -> None:
    before = (dict(replica.metrics.answers), replica.metrics.fast_path_answers)
    assert replica.app.try_answer(path, headers, body) is None
    assert (dict(replica.metrics.answers), replica.metrics.fast_path_answers) == before


async def test_a_trailer_replaces_no_header(replica: Replica) -> None:
    """A server may append trailers to the headers, as Serve's own proxy does."""
    headers = [("x-sundog-timeout-seconds", "60"), ("x-request-id", "given")]
    trailers = [("x-sundog-timeout-seconds", "1e-9"), ("x-request-id", "forged")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(replica.app), base_url="http://replica") as client:
        assert (await client.post("/", content=GOOD, headers=headers + trailers)).status_code == 200
        refused = await client.post("/", content=b"{", headers=headers + trailers)
    assert refused.json()["requestId"] == "given"


async def test_the_fast_path_passes_parameters_to_the_model(replica: Replica) -> None:
    seen: list[Any] = []
    usual = replica._model.predict
    object.__setattr__(
        replica._model, "predict", lambda batch: (seen.append(dict(parameters().request)), usual(batch))[1]
    )
    assert replica.app.try_answer("/", {}, GOOD[:-1] + b',"parameters":{"seed":7}}') is not None
    assert replica.app.try_answer("/", {}, GOOD) is not None
    assert seen == [{"seed": 7}, {}]


async def test_the_fast_path_reports_an_error_of_the_model_once(replica: Replica) -> None:
    calls = []

    def broken(batch: Any) -> Any:
        calls.append(batch)
        raise RuntimeError("out of order")

    object.__setattr__(replica._model, "predict", broken)
    found = replica.app.try_answer("/", {b"x-request-id": b"find-me"}, GOOD)
    assert found is not None
    assert (found.status, b'"requestId":"find-me"' in found.body, len(calls)) == (500, True, 1)
    assert replica.metrics.answers["ModelError"] == 1


async def test_the_fast_path_never_runs_beside_a_call_on_the_thread(replica: Replica) -> None:
    """A model runs one call at a time."""
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    busy = asyncio.create_task(
        replica._thread.run(lambda: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(PATIENCE_S))
    )
    await asyncio.sleep(0)
    assert replica.app.try_answer("/", {}, GOOD) is None
    gate.set()
    await busy
    assert replica.app.try_answer("/", {}, GOOD) is not None


async def test_after_a_large_answer_the_next_takes_the_normal_path(replica: Replica) -> None:
    import torch

    small = replica._model.predict
    object.__setattr__(replica._model, "predict", lambda batch: torch.zeros(1, 3).expand(10_000, 3))
    assert replica.app.try_answer("/", {}, GOOD) is not None
    assert replica.app.try_answer("/", {}, GOOD) is None
    object.__setattr__(replica._model, "predict", small)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(replica.app), base_url="http://replica") as client:
        assert (await client.post("/", content=GOOD)).status_code == 200
    assert replica.app.try_answer("/", {}, GOOD) is not None
