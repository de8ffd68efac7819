"""Fake Ray heads: every RayCluster gets the same head, whose replicas answer over HTTP."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from fake_ray_head import FakeRayHead, end, listen
from ports import free_port
from sundog_operator.errors import Conflict
from sundog_operator.ports import RAY_CLUSTER, Kubernetes, Ref


@dataclass
class Head:
    """The fake head, with its port."""

    port: int
    serve: FakeRayHead


@contextlib.asynccontextmanager
async def running_head() -> AsyncIterator[Head]:
    """Run a head in this process."""
    head = Head(free_port(), FakeRayHead("127.0.0.1", iter(free_port, None)))
    dashboard = web.Application(client_max_size=1 << 26)
    dashboard.router.add_get("/api/serve/applications/", head.serve.get)
    dashboard.router.add_put("/api/serve/applications/", head.serve.put)
    runner = await listen(dashboard, head.port)
    try:
        yield head
    finally:
        await head.serve.lose_all()
        await end(runner)


async def lead(kube: Kubernetes, port: int) -> None:
    """Stands in for what runs Ray: the head of each cluster is at this port."""
    async for event in kube.watch(RAY_CLUSTER):
        if event.type in ("ADDED", "MODIFIED") and not event.object.get("status"):
            meta = event.object["metadata"]
            status = {
                "conditions": [{"type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady"}],
                "head": {"podIP": "127.0.0.1", "serviceIP": "127.0.0.1"},
                "endpoints": {"dashboard": str(port), "serve": str(port)},
            }
            ref = Ref(RAY_CLUSTER, meta["namespace"], meta["name"])
            # Who was faster has changed it, which comes here again.
            with contextlib.suppress(Conflict):
                await kube.patch_status(ref, status, resource_version=meta["resourceVersion"])
