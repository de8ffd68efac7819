"""Bodies of requests: late, large, compressed, and in memory only once on their way in and out."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from problems import problem
from sundog_runtime.errors import Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.body import read_body
from sundog_runtime.protocol.oip import decode_oip
from sundog_runtime.signature import Signature, check_outputs
from sundog_runtime.tensors import TensorSpec, to_plain
from waiting import PATIENCE_S

ROW = [0.5, -1.0, 2.0, 0.25]


SHAPE = (8, 3, 224, 224)
PAYLOAD = int(np.prod(SHAPE)) * 4
PIECE = 65_536
SPEC = TensorSpec("x", "float32", (-1, 3, 224, 224))


def document(**more: Any) -> tuple[bytes, dict[bytes, bytes]]:
    sent = {"name": "x", "datatype": "FP32", "shape": list(SHAPE), "parameters": {"binary_data_size": PAYLOAD}}
    text = orjson.dumps({"inputs": [sent], "parameters": {"binary_data_output": True}, **more})
    return text, {b"inference-header-content-length": str(len(text)).encode()}


def receiving(text: bytes, size: int) -> Any:
    """Return a server's `receive` for a body in pieces, without a copy of its own."""

    def messages() -> Iterator[Any]:
        yield {"type": "http.request", "body": text, "more_body": True}
        for start in range(0, size, PIECE):
            yield {"type": "http.request", "body": bytes(min(PIECE, size - start)), "more_body": start + PIECE < size}

    pieces = messages()

    async def receive() -> Any:
        return next(pieces)

    return receive


async def test_less_than_two_copies_in_and_out() -> None:
    model = LoadedModel("python", "", lambda batch: batch, Signature((SPEC,), (SPEC,)))
    text, headers = document()
    tracemalloc.start()
    try:
        body = await read_body(headers, receiving(text, PAYLOAD), 2 * PAYLOAD)
        query = decode_oip("m", model, headers, body)
        _, read = tracemalloc.get_traced_memory()
        answer = query.encode(check_outputs(model.signature.outputs, to_plain(model.predict(query.batch))))
        _, both = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(answer.body) > PAYLOAD
    # The array is the body's memory, which grows in steps of an eighth. The answer is a second payload.
    assert read < 1.2 * PAYLOAD
    assert both < 2.3 * PAYLOAD


@pytest.mark.parametrize("filling", range(20))
async def test_a_body_in_pieces_is_aligned_without_a_copy(filling: int) -> None:
    text, headers = document(id="x" * filling)
    body = await read_body(headers, receiving(text, PAYLOAD), 2 * PAYLOAD)
    model = LoadedModel("python", "", lambda batch: batch, Signature((SPEC,), (SPEC,)))
    batch = decode_oip("m", model, headers, body).batch
    assert np.shares_memory(batch, np.frombuffer(body, np.uint8))
    assert batch.flags.writeable
    assert batch.flags.aligned


@pytest.mark.parametrize("headers", [{}, {b"inference-header-content-length": b"7"}], ids=["plain", "padded"])
async def test_the_limit_counts_only_the_body(headers: dict[bytes, bytes]) -> None:
    body = await read_body(headers, receiving(b"1234567", 93), 100)
    assert bytes(body) == b"1234567" + bytes(93)
    with pytest.raises(Problem) as caught:
        await read_body(headers, receiving(b"1234567", 94), 100)
    assert caught.value.status == 413


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "GZIP": gzip.compress,
    "identity": bytes,
}


@pytest.mark.parametrize("encoding", PACKED)
async def test_compressed_bodies(client: httpx.AsyncClient, encoding: str) -> None:
    body = json.dumps({"inputs": [ROW]}).encode()
    wanted = (await client.post("/", content=body)).json()
    answer = await client.post("/", content=PACKED[encoding](body), headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()) == (200, wanted)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code", "message"),
    [
        ("br", b"x", 415, "ContentEncoding", "the content encoding 'br'; expected gzip, x-gzip, deflate or none"),
        ("gzip, gzip", b"x", 415, "ContentEncoding", "'gzip, gzip'"),
        ("gzip", b"\x1f\x8b\x08", 400, "MalformedBody", "the body ends within its gzip data"),
        ("gzip", b"{}", 400, "MalformedBody", "the body is not gzip"),
        ("gzip", gzip.compress(b"{}") + b"{}", 400, "MalformedBody", "has bytes after its gzip data"),
        ("deflate", gzip.compress(b"{}"), 400, "MalformedBody", "the body is not deflate"),
    ],
)
async def test_compressed_bodies_that_are_wrong(
    client: httpx.AsyncClient, encoding: str, body: bytes, status: int, code: str, message: str
) -> None:
    answer = await client.post("/", content=body, headers={"content-encoding": encoding})
    assert message in problem(answer, status, code)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_small_body_does_not_unpack_to_more_than_a_body_may_have(
    torch_model: Path, args: Any, serve: Any, encoding: str
) -> None:
    limit = 1_000_000
    client = await serve(args(torch_model), {"maxRequestBytes": limit})
    packed = PACKED[encoding](bytes(100 * limit))
    tracemalloc.start()
    answer = await client.post("/", content=packed, headers={"content-encoding": encoding})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem(answer, 413, "BodyTooLarge") == f"the body is larger than {limit} bytes"
    assert peak < 10 * limit


async def test_a_client_that_goes_away_gets_no_answer(client: httpx.AsyncClient) -> None:
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await client.replica.app(scope, receive, send)  # type: ignore[attr-defined]
    assert sent == []


class Pieces:
    """One request from a server, whose body arrives piece by piece, one at each turn of the loop or when `go` is set."""

    def __init__(
        self, body: bytes, timeout: str = "", *, piece: int = 1, asked: tuple[str, str] = ("POST", "/")
    ) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        if timeout:
            headers.append((b"x-sundog-timeout-seconds", timeout.encode()))
        self.scope = {"type": "http", "method": asked[0], "path": asked[1], "headers": headers}
        self.go = asyncio.Event()
        self.go.set()
        self.taken = 0
        self.sent: list[Any] = []
        self._body = body
        self._piece = piece

    async def receive(self) -> Any:
        await asyncio.sleep(0)
        await self.go.wait()
        piece = self._body[self.taken : self.taken + self._piece]
        self.taken += len(piece)
        return {"type": "http.request", "body": piece, "more_body": self.taken < len(self._body)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def response(self) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
        """Return status, headers and document of a complete answer."""
        start, body = self.sent
        assert not body["more_body"]
        return start["status"], dict(start["headers"]), json.loads(body["body"])


@pytest.mark.parametrize("silent", [False, True], ids=["drop by drop", "silent"])
async def test_a_body_that_does_not_arrive_in_time_is_a_timeout(client: httpx.AsyncClient, silent: bool) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 10_000_000, timeout="0.5")
    if silent:
        request.go.clear()
    async with asyncio.timeout(PATIENCE_S):
        await replica.app(request.scope, request.receive, request.send)
    status, headers, document = request.response()
    assert (status, headers[b"content-type"]) == (408, b"application/problem+json")
    assert headers[b"connection"] == b"close", "what still comes holds a place at the edge"
    assert (document["code"], document["detail"]) == (
        "RequestTimeout",
        f"the request's deadline passed when {request.taken} of 10000000 bytes of its body had arrived",
    )
    assert (request.taken == 0) == silent
    assert replica.metrics.answers == {"RequestTimeout": 1}
    assert replica._scheduler._arriving == 0, "others are held for company that never comes"
    assert (await client.post("/", json={"inputs": [ROW]})).status_code == 200


@pytest.mark.parametrize("size", [20, 100_000], ids=["its end", "a good part"])
async def test_a_body_that_lies_unread_when_the_time_is_over_is_the_replica_s_fault(
    client: httpx.AsyncClient, size: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * size, timeout="0.0000001", piece=16_384)
    await replica.app(request.scope, request.receive, request.send)
    status, headers, document = request.response()
    assert (status, headers[b"connection"], document["code"]) == (504, b"close", "DeadlineExceeded")
    assert document["detail"] == "the request's deadline passed before its body was read"


async def test_a_client_that_leaves_while_its_body_is_late_gets_no_answer(client: httpx.AsyncClient) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="0.0000001")

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    await replica.app(request.scope, receive, request.send)
    assert (request.sent, replica.metrics.answers) == ([], {"ClientGone": 1})


EARLY = [(("POST", "/nothing"), 404), (("GET", "/"), 405), (("GET", "/v2/health/live"), 200)]
"""Requests that are answered without a look at the body, and their statuses."""


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_a_client_may_send_the_rest_until_the_deadline(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 10_000_000, timeout="0.5", asked=asked)
    async with asyncio.timeout(PATIENCE_S):
        await replica.app(request.scope, request.receive, request.send)
    start, body = request.sent
    assert (start["status"], body["more_body"]) == (status, True), "the server must cut the connection"
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert b"connection" not in dict(start["headers"])
    assert 0 < request.taken < 10_000_000


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_a_client_that_sends_the_rest_in_time_keeps_its_connection(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="30", asked=asked)
    await replica.app(request.scope, request.receive, request.send)
    start, body, end = request.sent
    assert (start["status"], body["more_body"]) == (status, True)
    assert (end, request.taken) == ({"type": "http.response.body"}, 100)


@pytest.mark.parametrize(("asked", "status"), EARLY)
async def test_without_a_deadline_the_rest_of_a_body_is_left_to_the_server(
    client: httpx.AsyncClient, asked: tuple[str, str], status: int
) -> None:
    request = Pieces(b" " * 100, asked=asked)
    await client.replica.app(request.scope, request.receive, request.send)  # type: ignore[attr-defined]
    assert (request.response()[0], request.taken) == (status, 0)


@pytest.mark.parametrize("timeout", ["", "30"], ids=["no deadline", "in time"])
async def test_a_slow_body_that_arrives_in_time_is_answered(client: httpx.AsyncClient, timeout: str) -> None:
    request = Pieces(json.dumps({"inputs": [ROW]}).encode(), timeout)
    await client.replica.app(request.scope, request.receive, request.send)  # type: ignore[attr-defined]
    assert request.sent[0]["status"] == 200
    assert b"connection" not in dict(request.sent[0]["headers"])


async def test_a_request_cancelled_during_its_body_gets_no_answer(client: httpx.AsyncClient) -> None:
    replica = client.replica  # type: ignore[attr-defined]
    request = Pieces(b" " * 100, timeout="30")
    request.go.clear()
    task = asyncio.create_task(replica.app(request.scope, request.receive, request.send))
    while not replica._scheduler._arriving:  # noqa: ASYNC110 (it is the loop's turns that are waited for)
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (request.sent, replica.metrics.answers) == ([], {"ClientGone": 1})


class Body:
    """A body in pieces, which counts the pieces that were read."""

    def __init__(self, piece: bytes, count: int) -> None:
        self.piece, self.count, self.taken = piece, count, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.taken += 1
            yield self.piece


async def test_bodies_that_are_too_large(torch_model: Path, args: Any, serve: Any) -> None:
    client = await serve(args(torch_model), {"maxRequestBytes": 100})
    fits = json.dumps({"inputs": [ROW]}).encode().ljust(100)
    assert (await client.post("/", content=fits)).status_code == 200
    assert "100 bytes" in problem(await client.post("/", content=fits + b" "), 413, "BodyTooLarge")
    assert (await client.post("/", content=Body(fits, 1))).status_code == 200
    assert "100 bytes" in problem(await client.post("/", content=Body(fits + b" ", 1)), 413, "BodyTooLarge")
    body = Body(b" " * 40, 1000)
    assert "100 bytes" in problem(await client.post("/", content=body), 413, "BodyTooLarge")
    assert body.taken == 3, "a body is not read beyond the limit"
    huge = {"content-length": "9" * 30}
    problem(await client.post("/", content=b"", headers=huge), 413, "BodyTooLarge")
