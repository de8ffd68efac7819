"""Fake RayClusters and edges until the process is ended: `python -m fake_cluster.workloads KUBECONFIG`.

RayClusters get a status with a ready head. The head's Serve REST API accepts documents and reports at once that all replicas run. Pods
of edges get an address and are ready. Their agents report that the split of the ConfigMap is in force.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from fake_cluster.addresses import address_of, head_of
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.errors import Conflict, NotFound
from sundog_operator.ports import CONFIG_MAP, POD, RAY_CLUSTER, Kind, Object, ref_of

Json = dict[str, Any]
EDGE = "sundog-edge"
NAME = "app.kubernetes.io/name"
BEGAN_AT = time.time()
"""Start of each replica's download, in Unix seconds. It is constant, or the operator would plan again at each pass."""


class FakeWorkloads:
    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._runners: dict[tuple[str, int], web.AppRunner] = {}
        self._documents: dict[str, list[Json]] = {}
        self._splits: dict[str, Json] = {}
        self.puts = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(RAY_CLUSTER, self._ray_cluster))
            group.create_task(self._follow(POD, self._pod))
            group.create_task(self._follow(CONFIG_MAP, self._config_map))

    async def _follow(self, kind: Kind, seen: Callable[[Object], Awaitable[None]]) -> None:
        async for event in self._client.watch(kind):
            if event.type in {"ADDED", "MODIFIED"}:
                with contextlib.suppress(Conflict, NotFound):
                    await seen(event.object)

    async def _ray_cluster(self, obj: Object) -> None:
        if (obj.get("status") or {}).get("conditions"):
            return
        meta = obj["metadata"]
        host = head_of(meta["namespace"], meta["name"])
        await self._listen(address_of(host), 8265, self._serve(host))
        await self._status(
            obj,
            {
                "conditions": [
                    condition("HeadPodReady", "HeadPodRunningAndReady"),
                    condition("RayClusterProvisioned", "AllPodRunningAndReadyFirstTime"),
                ],
                "state": "ready",
                "head": {
                    "podIP": address_of(host),
                    "serviceIP": address_of(host),
                    "serviceName": host.partition(".")[0],
                },
                "endpoints": {"dashboard": "8265", "serve": "8000"},
                "observedGeneration": meta["generation"],
            },
        )

    async def _pod(self, obj: Object) -> None:
        meta = obj["metadata"]
        if (meta.get("labels") or {}).get(NAME) != EDGE or (obj.get("status") or {}).get("podIP"):
            return
        address = address_of(f"{meta['namespace']}/{meta['name']}")
        ports = [p for c in obj["spec"]["containers"] for p in c.get("ports", ()) if p.get("name") == "agent"]
        await self._listen(address, int(ports[0]["containerPort"]), self._edge(meta["namespace"]))
        now = meta["creationTimestamp"]
        conditions = [condition(kind, "") for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
        await self._status(
            obj,
            {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "startTime": now,
                "conditions": conditions,
            },
        )

    async def _config_map(self, obj: Object) -> None:
        if obj["metadata"]["name"] == EDGE:
            self._splits[obj["metadata"]["namespace"]] = json.loads(obj["data"]["split.json"])

    async def _status(self, obj: Object, status: Json) -> None:
        await self._client.patch_status(ref_of(obj), status, resource_version=obj["metadata"]["resourceVersion"])

    async def _listen(self, address: str, port: int, app: web.Application) -> None:
        if (address, port) in self._runners:
            return
        runner = self._runners[address, port] = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()

    def _serve(self, host: str) -> web.Application:
        async def get(_: web.Request) -> web.Response:
            documents = self._documents.get(host)
            info = {"controller_info": {"actor_id": "a"} if documents is not None else {}}
            applications = {app["name"]: running(app) for app in documents or ()}
            targets = [_target(app, address_of(host)) for app in documents or ()]
            return web.json_response(info | {"applications": applications, "target_groups": targets})

        async def put(request: web.Request) -> web.Response:
            self._documents[host] = (await request.json())["applications"]
            self.puts += 1
            return web.Response()

        app = web.Application(client_max_size=2**26)
        app.router.add_get("/api/serve/applications/", get)
        app.router.add_put("/api/serve/applications/", put)
        return app

    def _edge(self, namespace: str) -> web.Application:
        async def get(_: web.Request) -> web.Response:
            split = self._splits.get(namespace) or {}
            services = {service["name"]: _in_force(service) for service in split.get("services", ())}
            return web.json_response({"version": 1, "services": services, "counters": []})

        app = web.Application()
        app.router.add_get("/evidence", get)
        return app


def condition(kind: str, reason: str) -> Json:
    made = {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""}
    return made | ({"reason": reason} if reason else {})


def running(app: Json) -> Json:
    deployments = {}
    for deployment in app["deployments"]:
        count = deployment.get("num_replicas")
        target = (
            count if isinstance(count, int) else (deployment.get("autoscaling_config") or {}).get("min_replicas", 1)
        )
        replicas = [{"replica_id": f"{app['name']}#{index}", "state": "RUNNING"} for index in range(target)]
        state = {"name": deployment["name"], "status": "HEALTHY", "message": "", "target_num_replicas": target}
        deployments[deployment["name"]] = state | {"replicas": replicas}
    return {
        "name": app["name"],
        "status": "RUNNING",
        "message": "",
        "deployed_app_config": app,
        "deployments": deployments,
    }


def _target(app: Json, address: str) -> Json:
    """Return the reported address of an application's only replica."""
    targets = [{"ip": address, "port": 8265, "instance_id": "", "name": f"{app['name']}#0"}]
    return {"app_name": app["name"], "protocol": "HTTP", "route_prefix": app["route_prefix"], "targets": targets}


def _in_force(service: Json) -> Json:
    arms = {
        arm["name"]: {
            "application": arm["application"],
            "weight": arm["weight"],
            **{name: told for name, told in arm.items() if name.startswith("slowMicroseconds")},
            "servers": {"up": 1, "down": 0, "draining": 0},
            "startup": {"phases": {"download": 0.0, "load": 0.0, "warmup": 0.0}, "beganAt": BEGAN_AT},
        }
        for arm in service["arms"]
    }
    return {"attempt": service["attempt"], "epoch": service["epoch"], "arms": arms, "inFlight": {}, "problems": []}


async def main(kubeconfig: Path) -> None:
    client = await KubernetesClient.connect(kubeconfig)
    try:
        await FakeWorkloads(client).run()
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
