"""Endpoints of the operator for the kubelet and Prometheus: `/healthz`, `/readyz`, `/metrics`."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ProbeCheck = Callable[[], str]
"""Return the problem in one line; empty if healthy."""

STALE_AFTER_S: Final = 60.0


def make_heartbeat_check(last_heartbeat_s: Callable[[], float], what: str) -> ProbeCheck:
    """Return a check that a loop still runs. `last_heartbeat_s` returns the time.monotonic of its last turn."""

    def check() -> str:
        age_s = time.monotonic() - last_heartbeat_s()
        return f"{what} has not run for {age_s:.0f} s" if age_s > STALE_AFTER_S else ""

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
    """Serve the endpoints while the context is open. Yields the port, a free one if `port` is 0."""
    app = web.Application()
    app.router.add_get("/healthz", _make_check_handler(health))
    app.router.add_get("/readyz", _make_check_handler(readiness))
    app.router.add_get("/metrics", _make_metrics_handler(metrics))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _make_check_handler(checks: Mapping[str, ProbeCheck]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        problems = {name: problem for name, check in checks.items() if (problem := check())}
        lines = [f"{name}: {problems.get(name) or 'ok'}" for name in checks]
        return web.Response(text="\n".join(lines) + "\n", status=503 if problems else 200)

    return handle


def _make_metrics_handler(metrics: Callable[[], bytes]) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=metrics(), headers=headers)

    return handle
