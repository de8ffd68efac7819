"""Feed a view with the objects and events of an API server."""

import asyncio

from sundog_operator.ports import EVENT, MODEL_DEPLOYMENT, Kubernetes, Object
from sundog_operator.shell.local.views import InstanceView


async def update_view(kube: Kubernetes, view: InstanceView) -> None:
    """Update the view until the API server closes or the task is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_watch_deployments(kube, view))
        group.create_task(_watch_events(kube, view))


async def _watch_deployments(kube: Kubernetes, view: InstanceView) -> None:
    known: dict[tuple[str, str], Object] = {}
    synced = False
    async for event in kube.watch(MODEL_DEPLOYMENT):
        if event.type == "SYNCED":
            synced = True
        else:
            meta = event.object["metadata"]
            key = (meta["namespace"], meta["name"])
            known[key] = event.object
            if event.type == "DELETED":
                del known[key]
        if synced:
            view.deployments([known[key] for key in sorted(known)])


async def _watch_events(kube: Kubernetes, view: InstanceView) -> None:
    synced = False
    async for event in kube.watch(EVENT):
        if event.type == "SYNCED":
            synced = True
        elif synced and event.type != "DELETED":
            view.event(event.object)
