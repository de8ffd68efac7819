"""The agent's HTTP server."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from sundog_edge import headers
from sundog_edge.agent.agent import Agent
from sundog_edge.counting.evidence import DETAILS, EvidenceQuery
from sundog_edge.feedback import export
from sundog_edge.feedback.join import render_feedback_section
from sundog_edge.http_body import encode_json


def make_agent_app(agent: Agent) -> web.Application:
    """Return the application of the agent.

    Paths: `/evidence`, `/metrics`, `/livez` (the agent runs), `/healthz` (and HAProxy answers), `/readyz` (and the edge can serve), and
    the export of feedback.
    """

    async def evidence(request: web.Request) -> web.Response:
        try:
            query = parse_query(request.query.getall)
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        try:
            document = await agent.evidence(query)
        except OSError as error:
            # Unwritten counters are not shown: the next agent would not have them.
            return web.Response(status=503, text=f"the counters cannot be written: {error}\n")
        return web.Response(body=encode_json(document), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await agent.metrics(), headers={headers.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        return _render_health(agent.alive, "the agent's loop is stuck")

    async def healthz(_: web.Request) -> web.Response:
        return _render_health(agent.healthy, "HAProxy does not answer, or the agent's loop is stuck")

    async def readyz(_: web.Request) -> web.Response:
        return _render_health(agent.ready, "no split document is in force, or its replicas are not known yet")

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


def parse_query(values_of: Callable[[str, list[str]], list[str]]) -> EvidenceQuery:
    """Parse a query. `values_of` returns all values of a parameter, or a default. Raises ValueError, which names the parameter."""
    since = values_of("since", ["0"])[-1]
    details = frozenset(word for value in values_of("detail", []) for word in value.split(",") if word)
    if details - DETAILS:
        raise ValueError(f"detail: found {min(details - DETAILS)[:40]!r}; expected {', '.join(sorted(DETAILS))}")
    try:
        changed_since = float(since)
    except ValueError:
        raise ValueError(f"since: found {since[:40]!r}; expected Unix seconds") from None
    return EvidenceQuery(frozenset(values_of("service", [])), changed_since, details)


def _render_health(is_good: bool, problem: str) -> web.Response:
    return web.Response(text="ok\n") if is_good else web.Response(status=503, text=f"{problem}\n")
