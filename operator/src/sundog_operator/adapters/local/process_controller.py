"""The shared part of the controllers of local mode: it runs processes for objects, and reports their statuses."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import aiohttp

from sundog_operator.adapters.http_body import read_body
from sundog_operator.adapters.local.object_directories import ObjectDirectories, ObjectDirectory
from sundog_operator.adapters.local.object_reconciler import ObjectReconciler
from sundog_operator.adapters.local.process_table import ProcessTable, SystemProcessTable
from sundog_operator.adapters.local.processes import Processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.local.status import Problem
from sundog_operator.errors import Conflict, NotFound, SundogError
from sundog_operator.ports import Clock, Kind, Kubernetes, Object, Ref, ref_of

logger = logging.getLogger(__name__)

STOPPED: Problem = ("Stopped", "local mode was stopped")
_PROBE_BYTES = 200


class ProcessController(ABC):
    """Runs processes for each object of a kind. They outlive this one, and the next controller of the state directory adopts them."""

    termination_grace_s: ClassVar[float]

    def __init__(
        self, kube: Kubernetes, state: StateDirectory, base: Path, kind: Kind, clock: Clock, table: ProcessTable | None
    ) -> None:
        """`base`: the directory with one directory per object of the kind."""
        self._kube = kube
        self._kind = kind
        self._clock = clock
        self._state = state
        self._base = base
        self._processes = Processes(state, table or SystemProcessTable(), clock)
        self._directories = ObjectDirectories(base, kind)
        self._session: aiohttp.ClientSession | None = None

    @abstractmethod
    async def _step(self, ref: Ref, obj: Object | None) -> float:
        """Reconcile an object; None removes what a deleted one left. Return the seconds until the next pass."""

    @abstractmethod
    def _process_names(self, entry: ObjectDirectory) -> tuple[str, ...]:
        """Return the names of an object's processes, in the order of their termination."""

    @abstractmethod
    async def _report_stopped(self, ref: Ref) -> None:
        """Write to the status that the processes of an object were stopped."""

    async def _run_steps(
        self,
        *also: tuple[Kind, Callable[[Object], Ref | None]],
        headers: Mapping[str, str] | None = None,
        should_reconcile: Callable[[Object], bool] = lambda _: True,
    ) -> None:
        """Run until cancelled; `headers` are those of probes. Raises StateDirectoryError when the state directory is unusable."""
        await asyncio.to_thread(self._state.prepare)
        await self._clear_unowned()
        reconciler = ObjectReconciler(
            self._kube,
            self._kind,
            self._step,
            self._clock,
            should_reconcile=should_reconcile,
            remembered=lambda: [entry.ref for entry in self._directories.all()],
        )
        try:
            async with aiohttp.ClientSession(headers=headers) as self._session:
                await reconciler.run(*also)
        finally:
            self._session = None

    async def stop_all(self) -> None:
        """End every process, after `run` was cancelled. Raises DependencyError when one survives."""
        await asyncio.to_thread(self._state.prepare)
        entries = await asyncio.to_thread(self._directories.all)
        await asyncio.gather(*(self._stop(entry) for entry in entries))
        for entry in entries:
            try:
                await self._report_stopped(entry.ref)
            except SundogError as err:
                logger.warning("%s: cannot report its stop: %s", entry.ref, err)

    async def _stop(self, entry: ObjectDirectory) -> None:
        for name in self._process_names(entry):
            await self._processes.stop(name, self.termination_grace_s)

    async def _remove_files(self, entry: ObjectDirectory) -> None:
        """Remove the directory and the logs of an object whose processes have ended."""
        await asyncio.to_thread(self._directories.remove, entry)
        for name in self._process_names(entry):
            await asyncio.to_thread(self._log(name).unlink, missing_ok=True)

    async def _clear_unowned(self) -> None:
        entries = await asyncio.to_thread(self._directories.all)
        owned = {name for entry in entries for name in self._process_names(entry)}
        for name in self._processes.recorded():
            if name.startswith(f"{self._base.name}-") and name not in owned:
                await self._processes.clear(name)

    async def _probe_url(self, url: str, timeout: aiohttp.ClientTimeout) -> tuple[int, str]:
        """Return the status of a GET and the start of its body as one line; 0 and the error's name without an answer."""
        assert self._session is not None
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
                text = (await read_body(response, _PROBE_BYTES))[:_PROBE_BYTES]
                return response.status, " ".join(text.decode("utf-8", "replace").split())
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            return 0, type(err).__name__

    async def _publish(self, obj: Object, status: Mapping[str, Any]) -> None:
        """Write a status if it changed."""
        if status == obj.get("status"):
            return
        try:
            await self._kube.patch_status(ref_of(obj), status, resource_version=obj["metadata"]["resourceVersion"])
        except (Conflict, NotFound):
            logger.debug("%s: changed meanwhile; the next pass writes its status", ref_of(obj))

    def _log(self, process_name: str) -> Path:
        return self._state.logs / f"{process_name}.log"
