"""What one client may hold of HAProxy's memory, without any credentials and before any rule has seen its body."""

import asyncio
import contextlib
import struct
from typing import Self

import aiohttp
import pytest

from sundog_edge.haproxy.rules.memory_limits import MAX_STREAMS

pytestmark = pytest.mark.haproxy

MANY = 6
"""Requests and connections that an address may have."""

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
MAX_CONCURRENT_STREAMS = 3


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(index: int, value: bytes) -> bytes:
    """A header named by HPACK's static table, with a value of its own that is not remembered."""
    return (bytes([index]) if index < 15 else bytes([15, index - 15])) + bytes([len(value)]) + value


POST = b"\x83\x86" + field(4, b"/digits/") + field(1, b"a") + field(28, b"90000")


class Holding:
    """A client that begins many requests on one connection, and sends one byte of the body of each."""

    def __init__(self, edge, requests: int) -> None:
        self._edge, self._requests = edge, requests
        self.refused: set[int] = set()
        self.streams = 0
        self.closed = False

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._edge.http_port)
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        for stream in range(1, 2 * self._requests, 2):
            self._writer.write(frame(HEADERS, 4, stream, POST) + frame(DATA, 0, stream, b"x"))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._reading

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._frames()
        self.closed = True

    async def _frames(self) -> None:
        while True:
            head = await self._reader.readexactly(9)
            kind, stream = head[3], struct.unpack(">I", head[5:])[0]
            payload = await self._reader.readexactly(int.from_bytes(head[:3]))
            if kind == RST_STREAM:
                self.refused.add(stream)
            if kind == SETTINGS:
                told = dict(struct.iter_unpack(">HI", payload))
                self.streams = told.get(MAX_CONCURRENT_STREAMS, self.streams)


@pytest.fixture
async def few(edge, serve, replicas):
    """An edge that lets an address have few requests, with a service that wants a key. Whoever dawdles has a minute."""
    await edge.stop_haproxy()
    edge.haproxy_options = ("--source-connections", str(MANY), "--request-seconds", "60", "--client-seconds", "60")
    await edge.start_haproxy()
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    edge.secret("clients", ada="ada-key-0123456789")
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, auth={"apiKeys": "clients"}))
    await edge.up("digits", stable=1)
    return edge


async def status_from(edge, address: str) -> int:
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    headers = {"x-api-key": "ada-key-0123456789"}
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{edge.url}/digits/", data=b"{}", headers=headers) as response,
    ):
        return response.status


async def test_an_address_has_only_so_many_requests_however_few_its_connections(few):
    async def refused() -> bool:
        try:
            return await status_from(few, "127.0.0.1") != 200
        except aiohttp.ClientError:
            return True

    async with contextlib.AsyncExitStack() as clients:

        async def holding() -> Holding:
            return await clients.enter_async_context(Holding(few, MANY))

        client = await holding()

        async def full() -> bool:
            nonlocal client
            # The probe itself may have been one of those that an address may have, and then this one had too many.
            if client.closed:
                client = await holding()
            return await refused()

        await few.comes_true(full, "a further request refused, whatever it brings")
        assert not client.closed, "who has no more than it may goes on"
        assert await status_from(few, "127.0.0.2") == 200
        async with Holding(few, 1) as further:

            async def closed() -> bool:
                return further.closed

            await few.comes_true(closed, "the connection with a further one closed")

    async def served() -> bool:
        return not await refused()

    await few.comes_true(served, "a request of this address again")

    async def counted() -> bool:
        return sum(boot["refused"].get("source", 0) for boot in (await few.evidence())["boots"]) >= 2

    await few.comes_true(counted, "the refusals counted by what they were for")


async def test_a_connection_has_only_so_many_requests_and_the_client_learns_it(edge, digits):
    async with Holding(edge, MAX_STREAMS + 5) as client:

        async def refused() -> bool:
            return len(client.refused) == 5

        await edge.comes_true(refused, "the requests beyond the limit refused")
        assert client.streams == MAX_STREAMS
        assert await status_from(edge, "127.0.0.1") == 200
