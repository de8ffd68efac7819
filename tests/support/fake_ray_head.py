"""A process that answers like the head of a Ray cluster: Serve's REST API, and each replica on a port of its own.

In a pod (`python fake_ray_head.py ADDRESS`) it tests everything around Ray on a real cluster in seconds. Its replicas are reached at
ADDRESS. A replica answers with its application and waits as long as the query's `sleep` says.
"""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DASHBOARD_PORT = 8265
SERVE_PORT = 8000
FIRST_PORT = 30000


@dataclass
class Application:
    """An application: its document, and its running replicas by port."""

    config: dict[str, Any]
    replicas: dict[int, web.AppRunner] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        return int(self.config["deployments"][0].get("num_replicas", 1))


class FakeRayHead:
    """The fake head of one cluster, with its applications."""

    def __init__(self, address: str, ports: Iterator[int] | None = None) -> None:
        self.address = address
        self.applications: dict[str, Application] = {}
        self._ports = ports or itertools.count(FIRST_PORT)
        self._changing = asyncio.Lock()

    async def get(self, _: web.Request) -> web.Response:
        groups = [self._group(name, application) for name, application in self.applications.items()]
        states = {name: self._state(application) for name, application in self.applications.items()}
        return web.json_response(
            {"controller_info": {"node_id": "n"}, "applications": states, "target_groups": groups, "proxies": {}}
        )

    async def put(self, request: web.Request) -> web.Response:
        wanted = {config["name"]: config for config in (await request.json())["applications"]}
        async with self._changing:
            for name in self.applications.keys() - wanted.keys():
                await self._scale(name, self.applications.pop(name), 0)
            for name, config in wanted.items():
                application = self.applications.setdefault(name, Application(config))
                application.config = config
                await self._scale(name, application, application.wanted)
        return web.Response()

    async def lose(self, name: str) -> None:
        """End all replicas of an application, as if their nodes were lost."""
        await self._scale(name, self.applications[name], 0)

    async def lose_all(self) -> None:
        """End all replicas of all applications, once what was PUT is done."""
        async with self._changing:
            for name in self.applications:
                await self.lose(name)

    async def _scale(self, name: str, application: Application, count: int) -> None:
        while len(application.replicas) > count:
            await end(application.replicas.popitem()[1])
        while len(application.replicas) < count:
            port = next(self._ports)
            application.replicas[port] = await listen(replica(name, application.config["route_prefix"]), port)

    def _group(self, name: str, application: Application) -> dict[str, Any]:
        targets = [{"ip": self.address, "port": port, "name": f"{name}#{port}"} for port in application.replicas]
        return {
            "app_name": name,
            "route_prefix": application.config["route_prefix"],
            "protocol": "HTTP",
            "targets": targets or [{"ip": self.address, "port": SERVE_PORT, "name": "proxy"}],
        }

    def _state(self, application: Application) -> dict[str, Any]:
        running = [{"replica_id": str(port), "state": "RUNNING"} for port in application.replicas]
        deployment = {
            "status": "HEALTHY",
            "message": "",
            "target_num_replicas": application.wanted,
            "replicas": running,
        }
        return {
            "status": "RUNNING",
            "message": "",
            "deployed_app_config": application.config,
            "deployments": {"Model": deployment},
        }


def replica(name: str, prefix: str) -> web.Application:
    """Return the web application of a replica, below its prefix."""

    async def routes(_: web.Request) -> web.Response:
        return web.json_response({prefix: name})

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(float(request.query.get("sleep", 0)))
        return web.json_response({"application": name})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/-/routes", routes)
    app.router.add_route("*", prefix + "{tail:.*}", answer)
    return app


async def listen(app: web.Application, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner


_TURNS_TO_MAKE = 4


async def end(runner: web.AppRunner) -> None:
    """Ends a server with all its connections.

    One that has something left to send to whoever does not read would outlive the loop, and the garbage collector would
    tell of it in a later test. So would one that was accepted and not yet made when the listener is closed: Python forgets it.
    """
    assert runner.server is not None
    _accept_no_more(runner)
    for _ in range(_TURNS_TO_MAKE):
        await asyncio.sleep(0)
    transports = [each.transport for each in runner.server.connections if each.transport is not None]
    await runner.cleanup()
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)


def _accept_no_more(runner: web.AppRunner) -> None:
    loop = asyncio.get_running_loop()
    for site in runner.sites:
        server = getattr(site, "_server", None)
        for listener in server.sockets if server is not None else ():
            loop.remove_reader(listener.fileno())


async def main(address: str) -> None:
    head = FakeRayHead(address)
    dashboard = web.Application(client_max_size=1 << 26)
    dashboard.router.add_get("/api/serve/applications/", head.get)
    dashboard.router.add_put("/api/serve/applications/", head.put)
    await listen(dashboard, DASHBOARD_PORT)
    proxy = web.Application()
    await listen(proxy, SERVE_PORT)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
