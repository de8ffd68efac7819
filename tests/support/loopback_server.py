"""A web application that answers on loopback, in a thread of its own."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from fake_ray_head import end
from waiting import PATIENCE_S


@contextmanager
def serve_in_thread(app: web.Application, ssl_context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve until the context ends; yield the port."""
    loop, stop, ready, ports = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), list[int]()

    async def serve() -> None:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await stop.wait()
        await end(runner)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
        loop.close()
