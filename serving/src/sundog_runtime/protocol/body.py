"""The body of a request: how much of it is taken, until when, and what becomes of one that nobody reads to its end.

A client that sends drop by drop is never silent, so nothing else ends it: neither the server nor the edge, whose place it
holds for as long as more is to come, also after it was answered.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from math import inf
from typing import Any

from sundog_runtime.errors import ClientGoneError, Problem, bad_input
from sundog_runtime.protocol.messages import Buffer
from sundog_runtime.protocol.oip import alignment_padding

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_UNREAD_BYTES = 16_384
"""As much as an edge hands over at a time of a body that it has."""

_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""Content encodings that are taken, with zlib's name for their form."""

_TURNS = 3
"""Of the event loop, until what has come to the server has come to who asks for it."""


class RequestBody:
    """A request's body on its way. `to_come` says whether there is more of it, `arrived` how many bytes were taken."""

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive, deadline: float) -> None:
        self.has_more = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self.arrived = 0
        self.deadline = deadline
        self._receive = receive

    @property
    def is_held(self) -> bool:
        """Whether a client that still sends would hold its connection beyond the deadline."""
        return self.has_more and self.deadline < inf

    async def receive(self) -> Message:
        """The next message, as the server gives it."""
        message = await self._receive()
        self.has_more = message.get("more_body", False)
        self.arrived += len(message.get("body", b""))
        return message

    async def receive_at_once(self) -> Message | None:
        """As `receive`, if there is one without waiting for the client."""
        receiving = asyncio.ensure_future(self.receive())
        try:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            return receiving.result() if receiving.done() else None
        finally:
            receiving.cancel()

    async def discard(self) -> bool:
        """Drop what still comes. Whether all of it came before the deadline."""
        with suppress(TimeoutError):
            async with self.until_deadline():
                while self.has_more:
                    await self.receive()
        return not self.has_more

    def until_deadline(self) -> asyncio.Timeout:
        """Cancels what it is put around when the deadline has passed."""
        return asyncio.timeout(max(0.0, self.deadline - time.monotonic()))


async def read_body_before_deadline(headers: Mapping[bytes, bytes], incoming: RequestBody, limit: int) -> Buffer:
    """As `read_body`. Raises Problem 408 where the deadline passes before the body is here, 504 where it is and was not read."""
    reading = read_body(headers, incoming.receive, limit)
    if incoming.deadline == inf:
        return await reading
    in_time = incoming.until_deadline()
    try:
        async with in_time:
            return await reading
    except TimeoutError:
        if not in_time.expired():
            raise
    raise await _given_up(headers, incoming)


async def _given_up(headers: Mapping[bytes, bytes], incoming: RequestBody) -> Problem:
    """Whose fault it is: a replica that was too busy to read has a good part of the body, or its end, before it."""
    unread = await incoming.receive_at_once()
    if unread is not None and unread["type"] == "http.disconnect":
        raise ClientGoneError
    waits = unread is not None and (len(unread.get("body", b"")) >= _UNREAD_BYTES or not incoming.has_more)
    # What still comes would hold the connection, and with it a place at the edge, for as long as it comes.
    incoming.has_more = False
    close = ((b"connection", b"close"),)
    if waits:
        return Problem(504, "DeadlineExceeded", "the request's time was over before its body was read", close)
    length = headers.get(b"content-length", b"").decode("latin-1")
    of = f" of {length}" if length else ""
    detail = f"the request's time was over when {incoming.arrived}{of} bytes of its body had arrived"
    return Problem(408, "RequestTimeout", detail, close)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> Buffer:
    """The whole body, at most `limit` bytes of it in memory, and once: pieces are joined as they come.

    What comes in pieces lies so that binary tensors behind their JSON are aligned, and can be written to.

    Raises Problem 413 (by Content-Length before anything is read, or while reading), 415 for an unknown content encoding,
    and ClientGoneError when there is nobody left to answer.
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
    """How the body is compressed, in lower case; empty where it is not."""
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    return b"" if encoding == b"identity" else encoding


def decompress(body: Buffer, encoding: bytes, limit: int) -> bytes:
    """The body itself, of which no more than `limit` bytes are ever in memory. Raises Problem 413 for more, 400 for what is damaged."""
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_input("MalformedBody", f"the body is not {encoding.decode()}: {error}") from None
    if len(whole) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        found = "ends within" if not inflater.eof else "has bytes behind"
        raise bad_input("MalformedBody", f"the body {found} its {encoding.decode()} data")
    return whole


def _too_large(limit: int) -> Problem:
    return Problem(413, "BodyTooLarge", f"the body is larger than {limit} bytes")
