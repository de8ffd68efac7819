"""The operator's loop: watches wake keys, workers reconcile them."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sundog_operator.app.keys import Key, Kind, keys_for
from sundog_operator.app.observe import secrets_of
from sundog_operator.app.reconcile_edge import reconcile_edge
from sundog_operator.app.reconcile_experiment import reconcile_experiment
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.app.reconcile_ray_cluster import reconcile_ray_cluster
from sundog_operator.app.work_queue import WorkQueue
from sundog_operator.app.world import World
from sundog_operator.errors import Conflict, DependencyError, NotFound
from sundog_operator.ports import (
    CONFIG_MAP,
    DEPLOYMENT,
    EXPERIMENT,
    MODEL_DEPLOYMENT,
    POD,
    RAY_CLUSTER,
    SECRET,
    Object,
)
from sundog_operator.ports import Kind as ObjectKind

log = logging.getLogger("sundog.operator")

Reconcile = Callable[[World, Key], Awaitable[float | None]]

RECONCILERS: Final[Mapping[Kind, Reconcile]] = {
    "modeldeployment": reconcile_model_deployment,
    "experiment": reconcile_experiment,
    "raycluster": reconcile_ray_cluster,
    "edge": reconcile_edge,
}
WATCHED: Final = (MODEL_DEPLOYMENT, EXPERIMENT, RAY_CLUSTER, CONFIG_MAP, SECRET, DEPLOYMENT, POD)
WATCH_RETRY_S: Final = 1.0


class Operator:
    """Reconciles all keys of a world until cancelled."""

    def __init__(self, world: World, namespace: str | None = None) -> None:
        self._world = world
        self._namespace = namespace
        self.queue: WorkQueue[Key] = WorkQueue(world.clock, random.random)

    async def run(self) -> None:
        """Watch and work. Ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for kind in WATCHED:
                group.create_task(self._watch(kind))
            for _ in range(self._world.settings.workers):
                group.create_task(self._work())

    async def _watch(self, kind: ObjectKind) -> None:
        while True:
            try:
                async for event in self._world.kube.watch(kind, self._namespace):
                    if event.type != "SYNCED":
                        for key in (*keys_for(event.object), *await self._users(kind, event.object)):
                            self.queue.add(key)
            except DependencyError as err:
                log.warning("watch of %s broke, it starts anew: %s", kind.plural, err)
            await self._world.clock.sleep(WATCH_RETRY_S)

    async def _users(self, kind: ObjectKind, obj: Object) -> list[Key]:
        """The ModelDeployments that name a Secret."""
        if kind != SECRET:
            return []
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        deployments = await self._world.kube.list(MODEL_DEPLOYMENT, namespace)
        return [
            Key("modeldeployment", namespace, each["metadata"]["name"])
            for each in deployments
            if any(use.secret == name for use in secrets_of(each))
        ]

    async def _work(self) -> None:
        while True:
            await self.step(await self.queue.take())

    async def step(self, key: Key) -> None:
        """Reconcile one taken key. No error of one key reaches another."""
        try:
            again_s = await RECONCILERS[key.kind](self._world, key)
        except (Conflict, NotFound) as err:
            log.debug("%s: %s; read again in %.1f s", key, err, self.queue.failed(key))
        except DependencyError as err:
            delay_s = self.queue.failed(key)
            log.warning("%s: %s; again in %.1f s", key, err, delay_s)
        except Exception:
            # A bug in one key's pass must not take the others with it.
            delay_s = self.queue.failed(key)
            log.exception("%s: unexpected error; again in %.1f s", key, delay_s)
        else:
            self.queue.done(key)
            if again_s is not None:
                self.queue.add(key, again_s)
