"""Answers of gRPC health checks to an application that is scaled to zero. HAProxy sends them as HTTP/1.1, one in each connection.

gRPC reads the status after the message, in trailers, which the agent's HTTP server cannot send.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import h11

from sundog_edge import headers
from sundog_edge.haproxy.rules.grpc import HEALTH, SERVICE

_MAX_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 5.0
_PREFIX_BYTES: Final = 5
_TRUE: Final = b"\x08\x01"
"""A message whose field 1 is 1: `live` or `ready` of the protocol's answers, `SERVING` of gRPC's own health check."""

_OK, _NOT_FOUND, _INVALID_ARGUMENT = 0, 5, 3


async def start_cold_calls(socket: Path) -> asyncio.Server:
    """Listen for such calls."""
    return await asyncio.start_unix_server(_serve, socket)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            request, body = await _read_request(connection, reader)
            service = dict(request.headers).get(headers.SERVICE.encode(), b"").decode("latin-1")
            for event in _render(*answer(request.target.decode("latin-1"), service, body)):
                writer.write(connection.send(event) or b"")
            await writer.drain()
    except (OSError, h11.ProtocolError):
        pass  # HAProxy composes the answer to a call without one.
    finally:
        writer.close()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request, bytes]:
    """Read a request and its body. Raises ProtocolError if it is malformed, incomplete or too large."""
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_MAX_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data) and len(body) + len(event.data) <= _MAX_BYTES:
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, body
        else:
            raise h11.RemoteProtocolError("the request is incomplete or too large")


def answer(path: str, service: str, body: bytes) -> tuple[int, bytes]:
    """Return the gRPC status and the message for a health check of a service's model."""
    try:
        asked = _parse_first_text(body[_PREFIX_BYTES:])
    except (IndexError, UnicodeDecodeError):
        return _INVALID_ARGUMENT, b""
    known = {
        f"{SERVICE}ModelReady": (service,),
        f"{HEALTH}Check": ("", service, SERVICE.strip("/")),
    }.get(path)
    return (_OK, _TRUE) if known is None or asked in known else (_NOT_FOUND, b"")


def _parse_first_text(message: bytes) -> str:
    """Parse field 1 of a message that begins with it; empty for another one. Raises IndexError or UnicodeDecodeError."""
    if message[:1] != b"\n":
        return ""
    length = message[1]
    if length > 127 or len(message) < 2 + length:
        raise IndexError("the text is longer than a name")
    return message[2 : 2 + length].decode()


def _render(status: int, message: bytes) -> Iterator[h11.Event]:
    """Yield an HTTP answer. Without a message, the status is in the headers, and there is no body."""
    common = [(headers.CONTENT_TYPE, "application/grpc"), (headers.CONNECTION, "close")]
    if status != _OK:
        own = [(headers.GRPC_STATUS, str(status)), (headers.CONTENT_LENGTH, "0")]
        yield h11.Response(status_code=200, headers=[*common, *own])
        yield h11.EndOfMessage()
        return
    chunked = [(headers.TRANSFER_ENCODING, "chunked"), (headers.TRAILER, headers.GRPC_STATUS)]
    yield h11.Response(status_code=200, headers=[*common, *chunked])
    yield h11.Data(data=b"\x00" + len(message).to_bytes(4, "big") + message)
    yield h11.EndOfMessage(headers=[(headers.GRPC_STATUS, str(status))])
