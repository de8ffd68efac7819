"""Pods of RayClusters for a real KubeRay without a node: `python -m fake_cluster.ray_pods KUBECONFIG PORT`, until it is ended.

They get an address and are ready. This process is KubeRay's HTTP proxy and answers for their heads: it accepts documents, and all
replicas run at once.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

from aiohttp import web

from fake_cluster.workloads import FakeWorkloads, Json, condition, running
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.ports import POD, Object

NODE_TYPE = "ray.io/node-type"


class RayPods(FakeWorkloads):
    async def run_at(self, port: int) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/api/serve/applications/", self._get)
        app.router.add_put("/api/serve/applications/", self._put)
        app.router.add_get("/-/healthz", _well)
        await self._listen("127.0.0.1", port, app)
        await self._follow(POD, self._ray_pod)

    async def _ray_pod(self, obj: Object) -> None:
        if NODE_TYPE not in (obj["metadata"].get("labels") or {}) or (obj.get("status") or {}).get("podIP"):
            return
        address = address_of_pod(obj["metadata"]["uid"])
        conditions = [condition(kind, "") for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]
        started = {"running": {"startedAt": obj["metadata"]["creationTimestamp"]}}
        containers = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": started,
            }
            for each in obj["spec"]["containers"]
        ]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
        await self._status(obj, status | {"containerStatuses": containers})

    async def _get(self, request: web.Request) -> web.Response:
        documents = self._documents.get(request.host)
        info = {"controller_info": {"actor_id": "a"}, "proxies": {}, "deploy_mode": "MULTI_APP"}
        return web.json_response(info | {"applications": {app["name"]: running(app) for app in documents or ()}})

    async def _put(self, request: web.Request) -> web.Response:
        self._documents[request.host] = (await request.json())["applications"]
        return web.Response()


async def _well(_: web.Request) -> web.Response:
    return web.Response(text="success")


def address_of_pod(uid: str) -> str:
    """Return an address on which nothing listens. KubeRay uses the proxy for it, unlike for a loopback address."""
    digest = hashlib.sha256(uid.encode()).digest()
    return f"10.{digest[0]}.{digest[1]}.{1 + digest[2] % 254}"


def serve_config(name: str) -> Json:
    """Return a document of one application, as in KubeRay's examples."""
    deployment = {"name": "Model", "num_replicas": 1, "ray_actor_options": {"num_cpus": 1}}
    return {
        "applications": [{"name": name, "import_path": "net:app", "route_prefix": "/", "deployments": [deployment]}]
    }


async def main(kubeconfig: Path, port: int) -> None:
    client = await KubernetesClient.connect(kubeconfig)
    try:
        await RayPods(client).run_at(port)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
