"""Bodies that are too large: their rest is read and forgotten, so that their clients read why.

Many clients write all of a request before they read. If HAProxy answered and closed at once, the kernel would reset the connection under
what it has not read, and such a client would see that alone. So HAProxy brings these requests here, to the socket that has feedback too.
"""

import asyncio
import contextlib

from aiohttp import StreamReader, web

from sundog_edge.haproxy.rules.drain import BODY_TIMEOUT_S, IDLE_TIMEOUT_S, MAX_BYTES


async def drain_body(body: StreamReader) -> None:
    """Read a body to its end, at most so many bytes of it, and for no longer than `TIME_S`, or `SILENCE_S` while nothing comes."""
    left = MAX_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while left > 0 and (part := await asyncio.wait_for(body.readany(), IDLE_TIMEOUT_S)):
                left -= len(part)


async def handle_drain(request: web.Request) -> web.Response:
    """Answer once the body is read, or as much of it as is read at all. What the client is told is HAProxy's."""
    await drain_body(request.content)
    return web.Response(status=413)
