"""What the agent answers over HTTP."""

import json
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from sundog_edge.agent.agent import Agent
from sundog_edge.counting.evidence import DETAILS, EvidenceQuery
from sundog_edge.feedback import export
from sundog_edge.feedback.join import render_feedback_section


def make_agent_app(agent: Agent) -> web.Application:
    """`/evidence`, `/metrics`, `/livez` (the agent runs), `/healthz` (and HAProxy answers) and `/readyz` (and can serve); and an export of
    what was reported.
    """

    async def evidence(request: web.Request) -> web.Response:
        try:
            question = parse_query(request.query.getall)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        try:
            document = await agent.evidence(question)
        except OSError as error:
            # Counters that the next agent would not know are not shown.
            return web.Response(status=503, text=f"the counters cannot be written: {error}\n")
        return web.Response(body=_encode(document), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await agent.metrics(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        return _verdict(agent.alive, "the agent's loop stands still")

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(agent.healthy, "HAProxy does not answer, or the agent's loop stands still")

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(agent.ready, "no split document is in force, or its replicas are not known yet")

    app = web.Application(client_max_size=0)
    app.router.add_get("/evidence", evidence)
    app.router.add_get("/metrics", metrics)
    app.router.add_get(
        "/feedback/{service}/{attempt}/export",
        export.make_export_handler(lambda: agent.intake.store, render_feedback_section),
    )
    app.router.add_get("/livez", livez)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def parse_query(every: Callable[[str, list[str]], list[str]]) -> EvidenceQuery:
    """What a query asks for; `every` gives all values of a parameter. Raises ValueError that names the parameter and what was expected."""
    since = every("since", ["0"])[-1]
    details = frozenset(word for value in every("detail", []) for word in value.split(",") if word)
    if details - DETAILS:
        raise ValueError(f"detail {min(details - DETAILS)[:40]!r} is none of {', '.join(sorted(DETAILS))}")
    try:
        instant = float(since)
    except ValueError:
        raise ValueError(f"since {since[:40]!r} is no number of Unix seconds") from None
    return EvidenceQuery(frozenset(every("service", [])), instant, details)


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:
        # Sums of squares outgrow 64 bits, which orjson does not write.
        return json.dumps(document).encode()


def _verdict(good: bool, otherwise: str) -> web.Response:
    return web.Response(text="ok\n") if good else web.Response(status=503, text=f"{otherwise}\n")
