"""Read and discard the rest of too large bodies, so that their clients get the answer.

Many clients write the whole request before they read. If HAProxy answered and closed at once, the kernel would reset the connection because
of the unread rest, and the client would see only the reset. So HAProxy sends these requests here, to the socket for feedback.
"""

import asyncio
import contextlib

from aiohttp import StreamReader, web

from sundog_edge.haproxy.rules.drain import BODY_TIMEOUT_S, IDLE_TIMEOUT_S, MAX_BYTES


async def drain_body(body: StreamReader) -> None:
    """Read a body to its end, at most MAX_BYTES, for at most BODY_TIMEOUT_S, and at most IDLE_TIMEOUT_S without data."""
    left = MAX_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while left > 0 and (part := await asyncio.wait_for(body.readany(), IDLE_TIMEOUT_S)):
                left -= len(part)


async def handle_drain(request: web.Request) -> web.Response:
    """Answer after the body is read, up to the limits. HAProxy replaces the answer."""
    await drain_body(request.content)
    return web.Response(status=413)
