"""The operator's loop: watches wake keys, workers reconcile them."""

import asyncio
import logging
import math
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Final, Literal, Protocol

from sundog_operator.app.dependencies import Dependencies
from sundog_operator.app.queue.idle_check import CHECK_INTERVAL_S, find_changed_keys
from sundog_operator.app.queue.keys import Key, KeyKind, edge_key, idle_check_key, keys_for
from sundog_operator.app.queue.work_queue import QueueObserver, WorkQueue
from sundog_operator.app.reconcile_edge import reconcile_edge
from sundog_operator.app.reconcile_experiment import reconcile_experiment
from sundog_operator.app.reconcile_model_deployment import reconcile_model_deployment
from sundog_operator.app.reconcile_ray_cluster import reconcile_ray_cluster
from sundog_operator.app.secrets import referenced_secrets
from sundog_operator.errors import Conflict, DependencyError, NotFound, SundogError
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

Result = Literal["success", "requeue_after", "requeue", "error", "panic"]
"""How a pass ended, in controller-runtime's words; `panic` is an error in our own code."""

Reconcile = Callable[[Dependencies, Key], Awaitable[float | None]]

RECONCILERS: Final[Mapping[KeyKind, Reconcile]] = {
    "modeldeployment": reconcile_model_deployment,
    "experiment": reconcile_experiment,
    "raycluster": reconcile_ray_cluster,
    "edge": reconcile_edge,
}
WATCHED: Final = (MODEL_DEPLOYMENT, EXPERIMENT, RAY_CLUSTER, CONFIG_MAP, SECRET, DEPLOYMENT, POD)
WATCH_RETRY_S: Final = 1.0
ALIGN_ABOVE_S: Final = 5.0
OWN_WRITE_DELAY_S: Final = 0.2
"""After how many seconds a key looks at what its own pass wrote: with what others have made of it until then."""
_AT_WORK: Final[ContextVar[Key | None]] = ContextVar("at_work", default=None)


class ControllerObserver(QueueObserver, Protocol):
    """Hears of every pass too."""

    def began(self, key: Key) -> None:
        """A worker took a key."""

    def ended(self, key: Key, result: Result, seconds: float) -> None:
        """Its pass is over."""


class Controller:
    """Reconciles all keys of a world until cancelled."""

    def __init__(
        self, world: Dependencies, namespace: str | None = None, observer: ControllerObserver | None = None
    ) -> None:
        self._world = world
        self._namespace = namespace
        self._observer = observer
        self.queue: WorkQueue[Key] = WorkQueue(world.clock, random.random, observer)

    async def run(self) -> None:
        """Watch and work. Ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for kind in WATCHED:
                group.create_task(self._watch(kind))
            group.create_task(self.work())

    async def work(self) -> None:
        """Work on what `wake` and `wake_users` asked for. Ends only by cancellation."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._world.settings.workers):
                group.create_task(self._work())

    def wake(self, obj: Object) -> None:
        """An object changed: ask for work on all keys that it bears on."""
        for key in keys_for(obj):
            self.queue.add(key)

    def handle_own_write(self, obj: Object) -> None:
        """Like `wake`, of what this process wrote: the key whose pass it was knows of it, and looks again a moment later."""
        for key in keys_for(obj):
            self.queue.add(key, OWN_WRITE_DELAY_S if key == _AT_WORK.get() else 0.0)

    async def enqueue_secret_users(self, namespace: str, secret: str) -> None:
        """A Secret changed: ask for work on the ModelDeployments that name it, and on the edge that has a copy. Raises DependencyError."""
        for each in await self._world.kube.list(MODEL_DEPLOYMENT, namespace):
            # Most Secrets of a cluster are nobody's here: a look at the text spares a look at the meaning.
            if _mentions(each.get("spec"), secret) and secret in referenced_secrets(self._world, each):
                self.queue.add(Key("modeldeployment", namespace, each["metadata"]["name"]))
                if self._world.settings.installation is not None:
                    self.queue.add(edge_key(namespace))

    async def _watch(self, kind: ObjectKind) -> None:
        while True:
            try:
                async for event in self._world.kube.watch(kind, self._namespace):
                    if event.type == "SYNCED":
                        continue
                    if kind == SECRET:
                        meta = event.object["metadata"]
                        await self.enqueue_secret_users(meta["namespace"], meta["name"])
                    else:
                        self.wake(event.object)
            except DependencyError as err:
                log.warning("watch of %s broke, it starts anew: %s", kind.plural, err)
            await self._world.clock.sleep(WATCH_RETRY_S)

    async def _work(self) -> None:
        while True:
            await self.step(await self.queue.take())

    async def step(self, key: Key) -> None:
        """Reconcile one taken key. No error of one key reaches another."""
        _AT_WORK.set(key)
        began = self._world.clock.monotonic()
        if self._observer:
            self._observer.began(key)
        result = await self._pass(key)
        if self._observer:
            self._observer.ended(key, result, self._world.clock.monotonic() - began)

    async def _pass(self, key: Key) -> Result:
        try:
            again_s = await (self._look(key) if key.kind == "resting" else RECONCILERS[key.kind](self._world, key))
        except (Conflict, NotFound) as err:
            delay_s = self.queue.failed(key)
            log.debug("%s: %s; read again in %.1f s", key, err, delay_s, extra=_fields(key, err))
            return "requeue"
        except SundogError as err:
            # Also what the API server finds wrong with an object of ours: a template, a policy, an older CRD is mended by its words.
            delay_s = self.queue.failed(key)
            log.warning("%s: %s; again in %.1f s", key, err, delay_s, extra=_fields(key, err))
            return "error"
        except Exception as err:
            # A bug in one key's pass must not take the others with it.
            delay_s = self.queue.failed(key)
            log.exception("%s: unexpected error; again in %.1f s", key, delay_s, extra=_fields(key, err))
            return "panic"
        self.queue.done(key)
        if self._world.rests.of(key.namespace):
            self._add_later(idle_check_key(key.namespace), CHECK_INTERVAL_S)
        if again_s is None:
            return "success"
        self._add_later(key, again_s)
        return "requeue_after"

    def _add_later(self, key: Key, after_s: float) -> None:
        self.queue.add(key, aligned_delay_s(key, after_s, self._world.clock.monotonic()))

    async def _look(self, key: Key) -> None:
        """Ask for work on what rests in a namespace and would see something else now. Raises DependencyError."""
        for each in await find_changed_keys(self._world, key.namespace):
            self.queue.add(each)


def aligned_delay_s(key: Key, again_s: float, now: float) -> float:
    """After how many seconds to look again at the latest: those of a namespace that have nothing to do look at the same time.

    So they share one answer of Serve and of the edges; namespaces are spread over the period.
    """
    if again_s < ALIGN_ABOVE_S:
        return again_s
    phase = zlib.crc32(key.namespace.encode()) / 2**32 * again_s
    return math.floor((now + again_s - phase) / again_s) * again_s + phase - now


def _fields(key: Key, err: Exception) -> dict[str, str]:
    """What a log line says besides its text."""
    return {"key": str(key), "reason": type(err).__name__}


def _mentions(value: object, text: str) -> bool:
    """Whether a text is a string anywhere inside."""
    if isinstance(value, dict):
        return any(_mentions(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item, text) for item in value)
    return value == text
