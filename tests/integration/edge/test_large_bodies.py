"""A body that is too large: its client writes all of it before it reads, and still reads why it was refused."""

import asyncio
import contextlib
import http.client
import json
import socket

import pytest

from sundog_edge.feedback.oversized_bodies import MAX_BYTES
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

LIMIT = 1000
PIECE = bytes(1 << 20)
LARGE = 50


def post(edge, pieces: int, *, chunked: bool, path: str = "/digits/") -> tuple[int, dict]:
    """The answer to so many pieces, as a client that writes all of them before it reads gets it."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.http_port, timeout=PATIENCE_S)
    headers = {} if chunked else {"content-length": str(pieces * len(PIECE))}
    try:
        connection.request("POST", path, iter([PIECE] * pieces), headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture
async def small(edge, digits):
    """Service `digits` takes bodies of 1000 bytes."""
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]
    await edge.apply(edge.service("digits", arms, maxRequestBytes=LIMIT))
    return digits


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_reason_is_read_by_who_writes_first(edge, small, chunked):
    for _ in range(3):
        status, problem = await asyncio.to_thread(post, edge, LARGE, chunked=chunked)
        assert (status, problem["code"]) == (413, "BodyTooLarge")
        found = "" if chunked else f" of {LARGE * len(PIECE)} bytes"
        assert (
            problem["detail"]
            == f"the body{found} is larger than 1000 bytes, which is endpoint.maxRequestBytes of its service"
        )
    assert small["stable"].seen == []

    async def counted() -> bool:
        return await edge.refused("digits") == {"size": 3}

    await edge.comes_true(counted, "three that are too large")


async def test_the_reason_is_read_over_http_2(edge, small):
    file = edge.root / "large"
    file.write_bytes(PIECE * LARGE)
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--http2-prior-knowledge", "-H", "expect:", "-H", "content-type: application/json"),
        *("--data-binary", f"@{file}", "-w", " %{http_version} %{http_code} %{size_upload}", f"{edge.url}/digits/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert (process.returncode, error) == (0, b"")
    assert b'"code":"BodyTooLarge"' in out
    assert out.endswith(b" 2 413 %d" % (LARGE * len(PIECE)))


async def test_the_connection_is_good_for_another_request(edge, small):
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    writer.write(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(PIECE) + PIECE)
    writer.write(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 " in answer


def write_until_refused(edge, head: bytes, piece: bytes) -> int:
    """How many bytes of a body without an end are taken."""
    taken = 0
    address = ("127.0.0.1", edge.http_port)
    with socket.create_connection(address, timeout=PATIENCE_S) as client, contextlib.suppress(ConnectionError):
        client.sendall(head)
        while True:
            client.sendall(piece)
            taken += len(piece)
    return taken


@pytest.mark.parametrize("chunked", [False, True])
async def test_no_more_is_read_than_that(edge, small, chunked):
    """Of a body that is known to be larger nothing is read on."""
    framing, piece = (
        (b"transfer-encoding: chunked", b"100000\r\n" + PIECE + b"\r\n")
        if chunked
        else (b"content-length: %d" % (MAX_BYTES + 1), PIECE)
    )
    head = b"POST /digits/ HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n"
    taken = await asyncio.to_thread(write_until_refused, edge, head, piece)
    most = MAX_BYTES if chunked else 0
    # And what fits the buffers on the way, which no one has read.
    assert most <= taken < most + (32 << 20)


async def test_who_dawdles_is_answered_meanwhile(edge, small):
    """The time to read on is bounded as well; the wait of this test is the edge's."""
    answer = await edge.raw(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n" + bytes(60_000))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_without_the_agent_the_answer_comes_at_once(edge, small):
    await edge.kill_agent()
    answer = await edge.raw(b"POST /digits/ HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n" + bytes(60_000))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"BodyTooLarge"' in answer
    # A body of which all is here needs nobody to read on.
    answer = await edge.raw(
        b"POST /digits/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1001\r\n\r\n" + bytes(1001)
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
