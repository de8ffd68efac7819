"""What a replica tells of its start, read through Serve's list of its address; what it tells is a tenant's, and may be anything."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sundog_operator.adapters.ray_serve import RayServe, one_token
from sundog_operator.core.observed import ReplicaStart

NOTHING = ReplicaStart()


class Cluster:
    """A dashboard, and the one replica that it lists."""

    def __init__(self) -> None:
        self.told: Any = None
        self.protocol = "HTTP"
        app = web.Application()
        app.router.add_get("/api/serve/applications/", self._list)
        app.router.add_get("/digits-r1.app/-/startup", self._startup)
        self.server = TestServer(app)

    async def _list(self, _: web.Request) -> web.Response:
        targets = [{"ip": self.server.host, "port": self.server.port}]
        group = {
            "app_name": "digits-r1",
            "protocol": self.protocol,
            "route_prefix": "/digits-r1.app",
            "targets": targets,
        }
        return web.json_response({"target_groups": [group]})

    async def _startup(self, _: web.Request) -> web.Response:
        return web.json_response(self.told)

    async def start(self, application: str = "digits-r1") -> ReplicaStart:
        async with aiohttp.ClientSession() as session:
            serve = RayServe(session, one_token(""))
            return await serve.start(str(self.server.make_url("")).rstrip("/"), "vision", application)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    async with cluster.server:
        yield cluster


async def test_phases_and_the_time_at_which_it_began_are_read(cluster: Cluster) -> None:
    cluster.told = {"version": 1, "beganAt": 1767225600.25, "phases": {"load": 2, "warmup": 0.5}}
    began = datetime(2026, 1, 1, microsecond=250_000, tzinfo=UTC)
    assert await cluster.start() == ReplicaStart({"load": 2.0, "warmup": 0.5}, began)


async def test_a_model_server_of_an_earlier_version_tells_no_time(cluster: Cluster) -> None:
    cluster.told = {"version": 1, "phases": {"load": 2}}
    assert await cluster.start() == ReplicaStart({"load": 2.0}, None)


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        {"phases": None},
        {"phases": {"load": "soon"}},
        {"phases": {}, "beganAt": "noon"},
        {"phases": {}, "beganAt": 1e300},
        {"phases": {}, "beganAt": -1e18},
        {"phases": {}, "beganAt": {"a": 1}},
        {"phases": {"load": 1.0}, "padding": "x" * 70_000},
    ],
)
async def test_whatever_else_it_tells_is_nothing(cluster: Cluster, told: Any) -> None:
    cluster.told = told
    assert await cluster.start() == NOTHING


async def test_who_is_not_listed_is_not_asked(cluster: Cluster) -> None:
    cluster.told = {"phases": {"load": 1.0}}
    assert await cluster.start("digits-r2") == NOTHING
    cluster.protocol = "gRPC"
    assert await cluster.start() == NOTHING
