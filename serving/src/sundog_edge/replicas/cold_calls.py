"""Answers of gRPC health checks to an application that is scaled to zero. HAProxy sends them as HTTP/1.1, one in each connection.

gRPC reads the status after the message, in trailers, which the agent's HTTP server cannot send.
"""

import asyncio
from pathlib import Path
from typing import Final

from sundog_edge.haproxy.rules.agent_backend import SERVICE_HEADER
from sundog_edge.haproxy.rules.grpc import HEALTH, SERVICE

_MAX_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 5.0
_PREFIX_BYTES: Final = 5
_TRUE: Final = b"\x08\x01"
"""A message whose field 1 is 1: `live` or `ready` of the protocol's answers, `SERVING` of gRPC's own health check."""

_OK, _NOT_FOUND, _INVALID_ARGUMENT = 0, 5, 3


async def start_cold_calls(socket: Path) -> asyncio.Server:
    """Listen for such calls."""
    return await asyncio.start_unix_server(_serve, socket, limit=_MAX_BYTES)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            body = await _read_body(reader, head.lower())
            writer.write(_render(*answer(head.split(" ", 2)[1], _find_header(head, SERVICE_HEADER), body)))
            await writer.drain()
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
        pass  # HAProxy composes the answer to a call without one.
    finally:
        writer.close()


def _find_header(head: str, name: str) -> str:
    lines = (line.partition(":") for line in head.split("\r\n")[1:])
    return next((value.strip() for key, _, value in lines if key.lower() == name), "")


async def _read_body(reader: asyncio.StreamReader, head: str) -> bytes:
    """Read the body of a request. Raises ValueError if it is malformed or too large."""
    if "chunked" not in _find_header(head, "transfer-encoding"):
        length = int(_find_header(head, "content-length") or 0)
        if not 0 <= length <= _MAX_BYTES:
            raise ValueError("the body is too large")
        return await reader.readexactly(length)
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        if not 0 < size <= _MAX_BYTES - len(body):
            raise ValueError("the body is too large")
        body += (await reader.readexactly(size + 2))[:-2]
    return body


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


def _render(status: int, message: bytes) -> bytes:
    """Return an HTTP answer. Without a message, the status is in the headers, and there is no body."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nconnection: close\r\n"
    if status != _OK:
        return head + b"grpc-status: %d\r\ncontent-length: 0\r\n\r\n" % status
    frame = b"\x00" + len(message).to_bytes(4, "big") + message
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(frame), frame)
    return head + b"transfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n" + chunk + b"grpc-status: 0\r\n\r\n"
