"""The operator's control loop: watches enqueue keys, and workers reconcile them."""

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
from sundog_operator.app.reconcile_model_deployment import STALL_RETRY_S, reconcile_model_deployment
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
"""How a pass ended, in controller-runtime's words. `panic` is an unexpected error in Sundog's own code."""

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
"""Delay before a key is reconciled because of its own write, so that one pass also covers the reactions of others."""
_ACTIVE_KEY: Final[ContextVar[Key | None]] = ContextVar("active_key", default=None)


class ControllerObserver(QueueObserver, Protocol):
    """Observes the queue and every pass, for metrics."""

    def began(self, key: Key) -> None:
        """A pass on a key began."""

    def ended(self, key: Key, result: Result, seconds: float) -> None:
        """The pass ended after that many seconds."""


class Controller:
    """Reconciles all keys until cancelled."""

    def __init__(self, deps: Dependencies, observer: ControllerObserver | None = None) -> None:
        self._deps = deps
        self._observer = observer
        # All passes of a namespace may wait for a Serve that does not answer, for seconds each. One worker is left to the others, if any.
        installation = deps.settings.installation
        has_others = installation is None or len(installation.watch_namespaces) != 1
        self.queue: WorkQueue[Key] = WorkQueue(
            deps.clock,
            random.random,
            observer,
            group_of=lambda key: key.namespace,
            group_limit=deps.settings.workers - has_others,
        )

    async def run(self) -> None:
        """Run the watches and the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in WATCHED:
                group.create_task(self._watch(kind))
            group.create_task(self.work())

    async def work(self) -> None:
        """Run the workers on the queue until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._deps.settings.workers):
                group.create_task(self._work())

    def wake(self, obj: Object) -> None:
        """Enqueue all keys that a changed object affects."""
        for key in keys_for(obj):
            self.queue.add(key)

    def handle_own_write(self, obj: Object) -> None:
        """Enqueue the keys of an object that this process wrote. The key whose pass wrote it waits `OWN_WRITE_DELAY_S`."""
        for key in keys_for(obj):
            self.queue.add(key, OWN_WRITE_DELAY_S if key == _ACTIVE_KEY.get() else 0.0)

    async def enqueue_secret_users(self, namespace: str, secret: str) -> None:
        """Enqueue the ModelDeployments that name a changed Secret, and the edge that has a copy. Raises DependencyError."""
        for each in await self._deps.kube.list(MODEL_DEPLOYMENT, namespace):
            # No ModelDeployment names most Secrets of a cluster. The text search avoids parsing the spec for those.
            if _contains_text(each.get("spec"), secret) and secret in referenced_secrets(self._deps, each):
                self.queue.add(Key("modeldeployment", namespace, each["metadata"]["name"]))
                if self._deps.settings.installation is not None:
                    self.queue.add(edge_key(namespace))

    async def _watch(self, kind: ObjectKind) -> None:
        while True:
            try:
                async for event in self._deps.kube.watch(kind):
                    if event.type == "SYNCED":
                        continue
                    if kind == SECRET:
                        meta = event.object["metadata"]
                        await self.enqueue_secret_users(meta["namespace"], meta["name"])
                    else:
                        self.wake(event.object)
            except DependencyError as err:
                log.warning("the watch of %s failed, it restarts: %s", kind.plural, err)
            await self._deps.clock.sleep(WATCH_RETRY_S)

    async def _work(self) -> None:
        while True:
            await self.step(await self.queue.take())

    async def step(self, key: Key) -> None:
        """Reconcile one key from the queue. An error of one key never affects another."""
        _ACTIVE_KEY.set(key)
        began = self._deps.clock.monotonic()
        if self._observer:
            self._observer.began(key)
        result = await self._reconcile(key)
        if self._observer:
            self._observer.ended(key, result, self._deps.clock.monotonic() - began)

    async def _reconcile(self, key: Key) -> Result:
        if key.kind in ("raycluster", "edge", "experiment") and self._deps.find_excess(key.namespace):
            # Some of the objects are not in memory: what is missing must not be deleted. The ModelDeployments report it.
            self.queue.done(key)
            self._add_later(key, STALL_RETRY_S)
            return "requeue_after"
        try:
            again_s = await (
                self._check_idle_keys(key) if key.kind == "resting" else RECONCILERS[key.kind](self._deps, key)
            )
        except (Conflict, NotFound) as err:
            delay_s = self.queue.failed(key)
            log.debug("%s: %s; retry in %.1f s", key, err, delay_s, extra=_log_fields(key, err))
            return "requeue"
        except SundogError as err:
            # This includes objects of ours that the API server rejects: its message helps to fix a template, a policy or an old CRD.
            delay_s = self.queue.failed(key)
            log.warning("%s: %s; retry in %.1f s", key, err, delay_s, extra=_log_fields(key, err))
            return "error"
        except Exception as err:
            # A bug in one key's pass must not stop the others.
            delay_s = self.queue.failed(key)
            log.exception("%s: unexpected error; retry in %.1f s", key, delay_s, extra=_log_fields(key, err))
            return "panic"
        self.queue.done(key)
        if self._deps.idle_keys.states(key.namespace):
            self._add_later(idle_check_key(key.namespace), CHECK_INTERVAL_S)
        if again_s is None:
            return "success"
        self._add_later(key, again_s)
        return "requeue_after"

    def _add_later(self, key: Key, after_s: float) -> None:
        self.queue.add(key, aligned_delay_s(key, after_s, self._deps.clock.monotonic()))

    async def _check_idle_keys(self, key: Key) -> None:
        """Enqueue the idle keys of a namespace whose observed state has changed. Raises DependencyError."""
        for each in await find_changed_keys(self._deps, key.namespace):
            self.queue.add(each)


def aligned_delay_s(key: Key, again_s: float, now: float) -> float:
    """Return the delay of a resync, in seconds, aligned so that the keys of a namespace come at the same time.

    They then share one answer of Serve and of the edges. Namespaces are spread over the period. Delays under `ALIGN_ABOVE_S` stay as they
    are.
    """
    if again_s < ALIGN_ABOVE_S:
        return again_s
    phase = zlib.crc32(key.namespace.encode()) / 2**32 * again_s
    return math.floor((now + again_s - phase) / again_s) * again_s + phase - now


def _log_fields(key: Key, err: Exception) -> dict[str, str]:
    """Return the structured fields of a log line."""
    return {"key": str(key), "reason": type(err).__name__}


def _contains_text(value: object, text: str) -> bool:
    """Return whether JSON contains a string."""
    if isinstance(value, dict):
        return any(_contains_text(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_contains_text(item, text) for item in value)
    return value == text
