"""What the agent answers over HTTP."""

import orjson
from aiohttp import web

from sundog_edge.agent import Agent


def application(agent: Agent) -> web.Application:
    """`/evidence`, `/healthz` (the agent runs and HAProxy answers) and `/readyz` (a document is in force)."""

    async def evidence(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(await agent.evidence()), content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(agent.healthy, "HAProxy does not answer, or the agent's loop stands still")

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(agent.ready, "no split document is in force")

    app = web.Application(client_max_size=0)
    app.router.add_get("/evidence", evidence)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def _verdict(good: bool, otherwise: str) -> web.Response:
    return web.Response(text="ok\n") if good else web.Response(status=503, text=f"{otherwise}\n")
