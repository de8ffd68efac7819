"""Runs each RayCluster as a Ray head on this machine, in the place of KubeRay."""

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp

from sundog_operator.adapters.local import ports_allocation
from sundog_operator.adapters.local.object_directories import ObjectDirectory, RestartBackoff
from sundog_operator.adapters.local.object_reconciler import POLL_S
from sundog_operator.adapters.local.ports_allocation import LOOPBACK, RayPorts
from sundog_operator.adapters.local.process_controller import STOPPED, ProcessController
from sundog_operator.adapters.local.process_table import ProcessCommand, ProcessTable
from sundog_operator.adapters.local.processes import ProcessRecord
from sundog_operator.adapters.local.ray_command import make_argv, make_environment
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.local.status import Problem, ray_cluster_status
from sundog_operator.errors import DependencyError
from sundog_operator.ports import RAY_CLUSTER, Clock, Kubernetes, Object, Ref

logger = logging.getLogger(__name__)

PROBE_INTERVAL_S: Final = 5.0
START_TIMEOUT_S: Final = 180.0
TERMINATION_GRACE_S: Final = 6.0
MAX_FAILED_PROBES: Final = 3
_SESSIONS_KEPT: Final = 2
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=1)


@dataclass(slots=True)
class _Head:
    """State of a head in this run.

    Attributes:
        entry: its directory and remembered ports.
        ports: its ports; None before it has some.
        restarts: its back-off.
        claim: the socket that claims its block of ports.
        ran: whether it was seen running.
        ready: whether Serve answered.
        failed_probes: failed probes in a row.
        exit_message: how the last process ended.
        probed_at: time of the last probe.
        first_probed_at: time of the first probe. The start timeout counts from it, because an adopted head may be old.
    """

    entry: ObjectDirectory
    ports: RayPorts | None
    restarts: RestartBackoff = field(default_factory=RestartBackoff)
    claim: socket.socket | None = None
    ran: bool = False
    ready: bool = False
    failed_probes: int = 0
    exit_message: str = ""
    probed_at: datetime | None = None
    first_probed_at: datetime | None = None

    def forget_process(self) -> None:
        self.ran, self.ready, self.failed_probes, self.first_probed_at = False, False, 0, None

    def release(self) -> None:
        if self.claim is not None:
            self.claim.close()
            self.claim = None


class LocalRay(ProcessController):
    """Runs one Ray head per RayCluster, restarts it when it ends, and reports its status as KubeRay does.

    A head outlives this process unless `stop_all` ends it. The next LocalRay of the same state directory adopts it.
    """

    termination_grace_s = TERMINATION_GRACE_S

    def __init__(self, kube: Kubernetes, state_dir: Path, clock: Clock, *, table: ProcessTable | None = None) -> None:
        state = StateDirectory.at(state_dir)
        super().__init__(kube, state, state.ray, RAY_CLUSTER, clock, table)
        self._heads: dict[Ref, _Head] = {}
        self._environment: Mapping[str, str] = os.environ

    async def run(self) -> None:
        """Run until cancelled. Raises StateDirectoryError when the state directory is unusable."""
        await asyncio.to_thread(self._state.prepare)
        token = await asyncio.to_thread(self._state.ray_token.read_text)
        try:
            await self._run_steps(headers={"Authorization": f"Bearer {token.strip()}"})
        finally:
            for head in self._heads.values():
                head.release()

    def _process_names(self, entry: ObjectDirectory) -> tuple[str, ...]:
        return (entry.name,)

    async def _report_stopped(self, ref: Ref) -> None:
        if (obj := await self._kube.get(ref)) is not None:
            await self._report(obj, None, STOPPED)

    async def _step(self, ref: Ref, obj: Object | None) -> float:
        if obj is None:
            return await self._remove(ref)
        head = self._heads.get(ref)
        if head is None:
            head = self._heads[ref] = await asyncio.to_thread(self._load, ref)
        record = await self._processes.running(head.entry.name)
        if record is None:
            return await self._restart(head, obj)
        return await self._observe(head, obj, record)

    def _load(self, ref: Ref) -> _Head:
        entry = self._directories.get_or_create(ref)
        base = entry.number("base")
        return _Head(entry, None if base is None else RayPorts(base))

    async def _remove(self, ref: Ref) -> float:
        head = self._heads.pop(ref, None)
        if head is not None:
            head.release()
        entry = await asyncio.to_thread(self._directories.find, ref)
        if entry is not None:
            await self._stop(entry)
            await self._remove_files(entry)
        return 0.0

    async def _restart(self, head: _Head, obj: Object) -> float:
        """Start a head that does not run, after its back-off."""
        now = self._clock.now()
        if head.ran:
            head.restarts.record_exit(now)
            head.forget_process()
            head.exit_message = f"Ray {await self._processes.describe_end(head.entry.name, self._log(head.entry.name))}"
            logger.warning("%s: %s", head.entry.ref, head.exit_message)
        if pause := head.restarts.remaining_delay_s(now):
            await self._report(obj, head.ports, ("HeadExited", head.exit_message))
            return pause
        # Ray's agents survive a killed raylet for minutes. They hold ports and ignore SIGTERM.
        await self._processes.clear(head.entry.name)
        await asyncio.to_thread(self._reserve, head)
        await self._start(head)
        await self._report(obj, head.ports, _starting(head))
        return POLL_S

    def _reserve(self, head: _Head) -> None:
        """Claim the ports of the last run, or other ports if another process took one."""
        head.release()
        if head.ports is not None:
            head.claim = ports_allocation.claim_block(head.ports)
        if head.claim is None:
            if head.ports is not None:
                logger.warning("%s: %s; Ray gets other ports", head.entry.ref, _describe_taken_ports(head.ports))
            head.ports, head.claim = ports_allocation.allocate_block(str(self._state.path / head.entry.name))
            head.entry = self._directories.remember(head.entry, {"base": head.ports.base})

    async def _start(self, head: _Head) -> None:
        if head.ports is None or head.claim is None:
            raise DependencyError(f"{head.entry.ref}: has no ports")
        temporary, scratch = head.entry.directory, head.entry.directory / "tmp"
        await asyncio.to_thread(_clean_directories, temporary, scratch)
        command = ProcessCommand(
            name=head.entry.name,
            argv=make_argv(head.ports, temporary),
            env=make_environment(self._environment, head.ports, self._state.ray_token, scratch, self._state.cache),
            directory=temporary,
            log=self._log(head.entry.name),
            descriptors=(head.claim.fileno(),),
        )
        record = await self._processes.start(command)
        head.ran = True
        logger.info("%s: started Ray as pid %s, dashboard on port %s", head.entry.ref, record.pid, head.ports.dashboard)

    async def _observe(self, head: _Head, obj: Object, record: ProcessRecord) -> float:
        """Probe Serve of a running head, and report the result."""
        head.ran = True
        now = self._clock.now()
        age = now - datetime.fromtimestamp(record.created, UTC)
        if head.ready and head.probed_at is not None and now - head.probed_at < timedelta(seconds=PROBE_INTERVAL_S):
            if head.restarts.reset_if_steady(age):
                head.exit_message = ""
            return POLL_S
        head.probed_at = now
        head.first_probed_at = head.first_probed_at or now
        problem = await self._probe(head)
        head.failed_probes = 0 if problem is None else head.failed_probes + 1
        if problem is None and not head.ready:
            head.ready = True
            logger.info("%s: ready %.1f s after its start", head.entry.ref, age.total_seconds())
        if problem is None or not head.ready or head.failed_probes >= MAX_FAILED_PROBES:
            await self._report(obj, head.ports, problem)
        waited_s = (now - head.first_probed_at).total_seconds()
        if not head.ready and waited_s > START_TIMEOUT_S:
            logger.warning("%s: not ready after %.0f s; restarting", head.entry.ref, waited_s)
            await self._stop(head.entry)
        return POLL_S

    async def _probe(self, head: _Head) -> Problem | None:
        if head.ports is None or self._session is None:
            return "PortsUnknown", f"the ports of the running head are not recorded in {head.entry.directory}"
        url = f"http://{LOOPBACK}:{head.ports.dashboard}/api/serve/applications/"
        status, text = await self._probe_url(url, _PROBE_TIMEOUT)
        if status == HTTPStatus.OK:
            return None
        found = f"status {status}" if status else text
        return ("Unreachable", f"GET {url}: {found}, expected 200") if head.ready else _starting(head)

    async def _report(self, obj: Object, ports: RayPorts | None, problem: Problem | None) -> None:
        await self._publish(obj, ray_cluster_status(obj, ports, problem, self._clock.now()))


def _starting(head: _Head) -> Problem:
    return "Starting", f"Ray is starting again: {head.exit_message}" if head.exit_message else "Ray is starting"


def _describe_taken_ports(ports: RayPorts) -> str:
    port = next((port for port in (ports.base, *ports.singles) if not ports_allocation.is_port_free(port)), None)
    if port is None:
        return f"many of the ports {ports.base} to {ports.base + ports_allocation.BLOCK_SIZE - 1} are in use"
    return f"port {port} is held by {ports_allocation.describe_holder(port)}"


def _clean_directories(temporary: Path, scratch: Path) -> None:
    """Remove the files of earlier starts, except the newest logs."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    sessions = sorted(path for path in temporary.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for session in sessions[:-_SESSIONS_KEPT]:
        shutil.rmtree(session, ignore_errors=True)
