"""Runs one task per object of a kind, as a node agent does for its pods."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import psutil

from sundog_operator.errors import SundogError
from sundog_operator.ports import Clock, Kind, Kubernetes, Object, Ref, ref_of

logger = logging.getLogger(__name__)

ReconcileStep = Callable[[Ref, Object | None], Awaitable[float]]
"""Reconciles an object; None: removes what a deleted object left. Returns the seconds until the next pass."""

POLL_S: Final = 0.25
"""Seconds until the next pass of an object that runs."""
_RETRY_S: Final = 1.0


class ObjectReconciler:
    """Runs `step` for each object of a kind: at every change, after the time that `step` returned, and after a deletion."""

    def __init__(
        self,
        kube: Kubernetes,
        kind: Kind,
        step: ReconcileStep,
        clock: Clock,
        *,
        should_reconcile: Callable[[Object], bool] = lambda _: True,
        remembered: Callable[[], Iterable[Ref]] = tuple,
    ) -> None:
        """Args:
        kube: the API server.
        kind: of the objects.
        step: reconciles one object.
        clock: the time.
        should_reconcile: returns whether to reconcile an object of the kind.
        remembered: returns the objects of earlier runs, which may not exist any more.
        """
        self._kube = kube
        self._kind = kind
        self._step = step
        self._clock = clock
        self._should_reconcile = should_reconcile
        self._remembered = remembered
        self._tasks: dict[Ref, asyncio.Task[None]] = {}
        self._wakes: dict[Ref, asyncio.Event] = {}

    async def run(self, *also: tuple[Kind, Callable[[Object], Ref | None]]) -> None:
        """Run until cancelled.

        Args:
            also: other kinds, each with a function from its object to the object to wake; None for no object.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(group, self._kind, self._own_ref, remembered=True))
            for kind, belongs_to in also:
                group.create_task(self._watch(group, kind, belongs_to, remembered=False))

    def _own_ref(self, obj: Object) -> Ref | None:
        return ref_of(obj) if self._should_reconcile(obj) else None

    async def _watch(
        self, group: asyncio.TaskGroup, kind: Kind, belongs_to: Callable[[Object], Ref | None], *, remembered: bool
    ) -> None:
        while True:
            try:
                async for event in self._kube.watch(kind):
                    if event.type == "SYNCED":
                        for ref in self._remembered() if remembered else ():
                            self._wake(group, ref)
                    elif (owner := belongs_to(event.object)) is not None:
                        self._wake(group, owner)
            except SundogError as err:
                logger.warning("watch of %s broke and restarts: %s", kind.plural, err)
            await self._clock.sleep(_RETRY_S)

    def _wake(self, group: asyncio.TaskGroup, ref: Ref) -> None:
        self._wakes.setdefault(ref, asyncio.Event()).set()
        if ref not in self._tasks:
            self._tasks[ref] = group.create_task(self._reconcile(ref))

    async def _reconcile(self, ref: Ref) -> None:
        wake = self._wakes[ref]
        while True:
            wake.clear()
            obj, pause = await self._run_step(ref)
            if obj is None and pause <= 0 and not wake.is_set():
                del self._tasks[ref], self._wakes[ref]
                return
            await self._wait(wake, pause)

    async def _run_step(self, ref: Ref) -> tuple[Object | None, float]:
        obj: Object | None = None
        try:
            obj = await self._kube.get(ref)
            if obj is not None and not self._should_reconcile(obj):
                obj = None
            return obj, await self._step(ref, obj)
        except (SundogError, OSError, psutil.Error) as err:
            logger.warning("%s: %s; retry in %s s", ref, err, _RETRY_S)
            return obj, _RETRY_S

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(wake.wait()), asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
