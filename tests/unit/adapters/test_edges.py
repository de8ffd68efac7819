"""What edges are asked for."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from doubles.clock import FakeClock
from sundog_operator.adapters.cached.shared import SharedEdges
from sundog_operator.adapters.edges import HttpEdges
from sundog_operator.ports import Edges, Object


def pod(port: int | None) -> Object:
    ports = [{"name": "agent", "containerPort": port}]
    return {
        "metadata": {"name": "edge-0", "uid": "u", "resourceVersion": "1"},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"podIP": "127.0.0.1"},
    }


@pytest.mark.parametrize("shared", [False, True])
async def test_groups_and_units_are_asked_for_where_they_are_wanted_alone(*, shared: bool) -> None:
    asked: list[dict[str, str]] = []

    async def evidence(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({"version": 1})

    app = web.Application()
    app.router.add_get("/evidence", evidence)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        edges: Edges = HttpEdges(session)
        edges = SharedEdges(edges, FakeClock()) if shared else edges
        pods = [pod(server.port)]
        reports = [await edges.read(pods), await edges.count(pods, "a"), await edges.count(pods, "a", by_unit=True)]
    assert asked == [
        {},
        {"service": "a", "detail": "blocks"},
        {"service": "a", "detail": "blocks,groups,units"},
    ]
    assert [each.evidence for (each,) in reports] == [{"version": 1}] * 3
