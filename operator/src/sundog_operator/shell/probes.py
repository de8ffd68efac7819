"""What the kubelet and Prometheus ask the operator: `/healthz`, `/readyz`, `/metrics`."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ProbeCheck = Callable[[], str]
"""What is wrong, in one line; empty when nothing is."""

STALE_AFTER_S: Final = 60.0


def make_heartbeat_check(beat: Callable[[], float], what: str, stale_s: float = STALE_AFTER_S) -> ProbeCheck:
    """A check that a loop turned lately; `beat` gives when, by time.monotonic."""

    def check() -> str:
        silent = time.monotonic() - beat()
        return f"{what} stands still for {silent:.0f} s" if silent > stale_s else ""

    return check


@asynccontextmanager
async def serve_probes(
    host: str,
    port: int,
    *,
    health: Mapping[str, ProbeCheck],
    readiness: Mapping[str, ProbeCheck],
    metrics: Callable[[], bytes],
) -> AsyncIterator[int]:
    """Answer while the context lasts; gives the port, a free one for 0."""
    app = web.Application()
    app.router.add_get("/healthz", _answer(health))
    app.router.add_get("/readyz", _answer(readiness))
    app.router.add_get("/metrics", _metrics(metrics))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _answer(checks: Mapping[str, ProbeCheck]) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        wrong = {name: problem for name, check in checks.items() if (problem := check())}
        lines = [f"{name}: {wrong.get(name) or 'ok'}" for name in checks]
        return web.Response(text="\n".join(lines) + "\n", status=503 if wrong else 200)

    return answer


def _metrics(metrics: Callable[[], bytes]) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=metrics(), headers=headers)

    return answer
