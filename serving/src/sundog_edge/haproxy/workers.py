"""The running workers of HAProxy."""

from dataclasses import dataclass

from sundog_edge.errors import HaproxyRefused
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.maps import Maps
from sundog_edge.security.certificates import Certificates


@dataclass(slots=True)
class Worker:
    """One worker process.

    `maps` and `certificates` are the known content of the worker; None while it is unknown. `relays`: the worker hands further requests to
    its successor.
    """

    pid: int
    boot: str
    started_at: float
    old: bool = False
    relays: bool = False
    maps: Maps | None = None
    certificates: Certificates | None = None


class Workers:
    """Follows the master's list of workers."""

    def __init__(self, haproxy: HaproxyClient) -> None:
        self._haproxy = haproxy
        self._known: dict[str, Worker] = {}

    @property
    def all(self) -> list[Worker]:
        """All running workers, current first."""
        return sorted(self._known.values(), key=lambda worker: worker.old)

    @property
    def current(self) -> Worker | None:
        """The worker that takes new connections."""
        return next((worker for worker in self._known.values() if not worker.old), None)

    async def refresh(self) -> None:
        """Read the list again. Raises HaproxyUnavailable."""
        running: dict[str, Worker] = {}
        for process in await self._haproxy.processes():
            try:
                boot = await self._haproxy.boot_id(process.pid)
                worker = self._known.get(boot) or await self._add(process.pid, boot)
            except HaproxyRefused:
                # The worker ended after the list was read.
                continue
            worker.old = process.old
            running[boot] = worker
        self._known = running

    async def _add(self, pid: int, boot: str) -> Worker:
        info = await self._haproxy.info(pid)
        return Worker(pid, boot, float(info.get("Start_time_sec", "0")))
