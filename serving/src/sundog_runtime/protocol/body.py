"""Read the body of a request: its size limit, its deadline, and the rest that is not read to the end.

A client that sends very slowly is never silent, so neither the server nor the edge ends its request. The request holds a
place at the edge as long as more is to come, even after it was answered.
"""

import asyncio
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from math import inf

from sundog_runtime.errors import ClientGoneError, Problem, bad_input
from sundog_runtime.protocol.asgi import Message, Receive
from sundog_runtime.protocol.messages import Buffer
from sundog_runtime.protocol.oip import alignment_padding

_UNREAD_BYTES = 16_384
"""Bytes of a buffered body that an edge sends at a time."""

_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""Content encodings that are accepted, with zlib's code of each format."""

_TURNS = 3
"""Turns of the event loop after which data that has arrived at the server has reached the application."""


class RequestBody:
    """A request's body while it arrives. `has_more` is whether more is to come; `received_bytes` is the number of bytes received."""

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive, deadline: float) -> None:
        self.has_more = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self.received_bytes = 0
        self.deadline = deadline
        self._receive = receive

    @property
    def is_blocking_connection(self) -> bool:
        """Whether a client that still sends would hold its connection until the deadline."""
        return self.has_more and self.deadline < inf

    async def receive(self) -> Message:
        """Return the server's next message."""
        message = await self._receive()
        self.has_more = message.get("more_body", False)
        self.received_bytes += len(message.get("body", b""))
        return message

    async def receive_nowait(self) -> Message | None:
        """Return the next message if it is there without waiting for the client; otherwise None."""
        receiving = asyncio.ensure_future(self.receive())
        try:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            return receiving.result() if receiving.done() else None
        finally:
            receiving.cancel()

    async def discard(self) -> bool:
        """Drop the rest of the body. Return whether all of it arrived before the deadline."""
        with suppress(TimeoutError):
            async with self.until_deadline():
                while self.has_more:
                    await self.receive()
        return not self.has_more

    def until_deadline(self) -> asyncio.Timeout:
        """Return a context manager that cancels its block at the deadline."""
        return asyncio.timeout(max(0.0, self.deadline - time.monotonic()))


async def read_body_before_deadline(headers: Mapping[bytes, bytes], incoming: RequestBody, limit: int) -> Buffer:
    """Read like `read_body`. Raises Problem 408 if the body is late, and 504 if the body is there but was not read in time."""
    reading = read_body(headers, incoming.receive, limit)
    if incoming.deadline == inf:
        return await reading
    timeout = incoming.until_deadline()
    try:
        async with timeout:
            return await reading
    except TimeoutError:
        if not timeout.expired():
            raise
    raise await _timeout_problem(headers, incoming)


async def _timeout_problem(headers: Mapping[bytes, bytes], incoming: RequestBody) -> Problem:
    """Return the problem by who is at fault. A replica that was too busy to read has a large part of the body, or its end, unread."""
    unread = await incoming.receive_nowait()
    if unread is not None and unread["type"] == "http.disconnect":
        raise ClientGoneError
    was_unread = unread is not None and (len(unread.get("body", b"")) >= _UNREAD_BYTES or not incoming.has_more)
    # The rest would hold the connection, and with it a place at the edge, as long as it arrives.
    incoming.has_more = False
    close = ((b"connection", b"close"),)
    if was_unread:
        return Problem(504, "DeadlineExceeded", "the request's deadline passed before its body was read", close)
    length = headers.get(b"content-length", b"").decode("latin-1")
    of = f" of {length}" if length else ""
    detail = f"the request's deadline passed when {incoming.received_bytes}{of} bytes of its body had arrived"
    return Problem(408, "RequestTimeout", detail, close)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> Buffer:
    """Return the whole body. It is in memory once and at most `limit` bytes of it: pieces are joined as they arrive.

    A body in several pieces is stored so that binary tensors after its JSON are aligned, and writable.

    Raises Problem 413 (by Content-Length before anything is read, or while reading), 415 for an unknown content encoding,
    and ClientGoneError when the client has gone away.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)
    if (encoding := content_encoding(headers)) and encoding not in _WINDOWS:
        shown, known = encoding[:60].decode("latin-1"), b", ".join(_WINDOWS).decode()
        raise Problem(415, "ContentEncoding", f"the body has the content encoding {shown!r}; expected {known} or none")
    whole, padding = bytearray(), alignment_padding(headers)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        if max(0, len(whole) - padding) + len(part) > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
        if not whole:
            if not more:
                return bytes(part)
            whole += bytes(padding)
        whole += part
        if not more:
            return memoryview(whole)[padding:] if padding else whole


def content_encoding(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the compression of the body, in lower case; empty if there is none."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    return b"" if encoding == b"identity" else encoding


def decompress(body: Buffer, encoding: bytes, limit: int) -> bytes:
    """Return the decompressed body, never more than `limit` bytes in memory. Raises Problem 413 for more, 400 for damaged data."""
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_input("MalformedBody", f"the body is not {encoding.decode()}: {error}") from None
    if len(whole) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        found = "ends within" if not inflater.eof else "has bytes after"
        raise bad_input("MalformedBody", f"the body {found} its {encoding.decode()} data")
    return whole


def _too_large(limit: int) -> Problem:
    return Problem(413, "BodyTooLarge", f"the body is larger than {limit} bytes")
