"""Keeps the ledger: HAProxy's tables and lines in, snapshots out."""

import logging
import time

import orjson

from sundog_edge.counters import Ledger
from sundog_edge.errors import HaproxyRefused
from sundog_edge.haproxy.names import ALL_REQUESTS
from sundog_edge.log_pipe import LogReader
from sundog_edge.runtime_api import Haproxy
from sundog_edge.state_dir import StateDir, read_json, write_atomically
from sundog_edge.workers import Worker, Workers

LOG = logging.getLogger(__name__)
KEEP_ENDED_S = 3600.0
_GONE_AFTER_S = 1.0


class Counting:
    """The counters of this edge.

    An agent that is killed loses the lines that it read after its last snapshot (at most a second's); lines that it did not read wait in
    the pipe. HAProxy's own counts survive, so what is lost shows as `lost` as soon as the next agent has settled. When HAProxy
    itself is killed, the requests that were running and what it counted after the agent's last look are lost as well; the latter, having
    neither a count nor a line, are the only ones that nothing can show.
    """

    def __init__(self, haproxy: Haproxy, workers: Workers, state: StateDir) -> None:
        stored = read_json(state.counters)
        self.ledger = Ledger() if stored is None else Ledger.from_json(stored)
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._reader = LogReader(state.log_pipe, self.ledger)
        self._absent_since: dict[str, float] = {}

    async def drain(self) -> None:
        """Count the lines that have come."""
        self._reader.drain(time.time())

    async def tick(self) -> None:
        """Settle every worker, close the books of workers that are gone, write a snapshot. Raises HaproxyUnavailable."""
        await self.settle()
        self.ledger.forget(time.time() - KEEP_ENDED_S)
        self.save()

    async def settle(self) -> None:
        """Take over every worker's counts as they are now. Raises HaproxyUnavailable."""
        for worker in self._workers.all:
            try:
                await self._settle(worker)
            except HaproxyRefused as error:
                LOG.warning("%s", error)
        current = self._workers.current
        for boot in self.ledger.boots.values():
            boot.draining = not boot.ended_at and current is not None and boot.id != current.boot
        self._finish_gone()

    async def _settle(self, worker: Worker) -> None:
        table = await self._haproxy.table(worker.pid)
        self._reader.drain(time.time())
        boot = self.ledger.boot(worker.boot, worker.started_at)
        boot.pid, boot.started_at = worker.pid, worker.started_at
        boot.settle(table, ALL_REQUESTS)
        boot.dropped = max(boot.dropped, await self._haproxy.dropped_lines(worker.pid))

    def stop(self) -> None:
        """Count what has come, write it down, and let go of the pipe."""
        self._reader.drain(time.time())
        self.save()
        self._reader.close()

    def save(self) -> None:
        """Write a snapshot if any line has come since the last."""
        if self.ledger.dirty:
            self.ledger.dirty = False
            write_atomically(self._state.counters, orjson.dumps(self.ledger.as_json()))

    def _finish_gone(self) -> None:
        now = time.time()
        present = {worker.boot for worker in self._workers.all}
        absent = {key for key, boot in self.ledger.boots.items() if not boot.ended_at and key not in present}
        self._absent_since = {key: self._absent_since.get(key, now) for key in absent}
        for key, since in self._absent_since.items():
            # The list of workers is read less often than lines: a boot that is new here must have had time to appear in it.
            if present and now - since >= _GONE_AFTER_S:
                self.ledger.boots[key].finish(now)
                self.ledger.dirty = True
