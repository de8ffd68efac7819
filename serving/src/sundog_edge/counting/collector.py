"""Keep the ledger up to date from HAProxy's tables and lines, and write snapshots of it."""

import json
import logging
import time
from collections.abc import Collection, Sequence

import orjson

from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_pipe import LogReader
from sundog_edge.counting.rows import StickTable
from sundog_edge.errors import HaproxyRefused
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.names import ALL_REQUESTS
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.state_dir import StateDir, read_json, write_atomically

LOG = logging.getLogger(__name__)
RETAIN_ENDED_S = 3600.0
_GONE_AFTER_S = 1.0
_DETAILS_EVERY_S = 10.0
_COST_FACTOR = 50
_FORMAT = 5
_READABLE = frozenset({4, _FORMAT})
"""Format 4 has no counts of the second and third slow threshold; they are read as 0."""


class CounterCollector:
    """The counters of this edge.

    A killed agent loses the lines that it read after its last snapshot, at most those of a second. Unread lines wait in the pipe. HAProxy's
    own counts survive, so the next agent shows the lost requests as `lost` once it has settled.

    A killed HAProxy also loses its running requests, and the requests that it counted after the agent's last reading. The latter have
    neither a count nor a line, so nothing can show them. While no agent runs, only HAProxy holds the pipe open. If HAProxy is killed then,
    nothing can show the requests since the last snapshot.
    """

    def __init__(self, haproxy: HaproxyClient, workers: Workers, state: StateDir) -> None:
        self.ledger = _read(state)
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._reader = LogReader(state.log_pipe, self.ledger)
        self._absent_since: dict[str, float] = {}
        self._save_at = 0.0
        self._save_details_at = time.monotonic() + _DETAILS_EVERY_S
        self._forgotten = 0

    async def drain(self) -> None:
        """Count the lines in the pipe."""
        self.drain_lines()

    def drain_lines(self) -> None:
        """Count the lines in the pipe; for callers that need every answered request counted."""
        self._reader.drain(time.time())

    async def tick(self) -> None:
        """Settle every worker, finish workers that ended, and write a snapshot if it is due. Raises HaproxyUnavailable."""
        await self.settle()
        if time.monotonic() >= self._save_at:
            self.save()
        if time.monotonic() >= self._save_details_at:
            self.save_details()

    async def forget(self, attempts: Collection[tuple[str, str]]) -> None:
        """Drop boots that ended, and rows that last changed, an hour ago, except rows of the (service, attempt)s in force.

        HAProxy drops a row first. Otherwise the next reading would bring it back, with all of its requests lost. Raises HaproxyUnavailable.
        """
        before = time.time() - RETAIN_ENDED_S
        self.ledger.forget(before, attempts)
        for worker in self._workers.all:
            rows = self.ledger.idle_rows(worker.boot, before, attempts)
            if rows:
                cleared = await self._clear(worker, rows)
                # Lines of cleared rows are in the pipe by now, and must count in the dropped rows.
                self._reader.drain(time.time())
                self.ledger.forget_rows(worker.boot, cleared)
                self._forgotten += 1

    async def _clear(self, worker: Worker, rows: Sequence[str]) -> Sequence[str]:
        """Clear rows in a worker's table. Return the rows that are cleared: a row that is in use again stays."""
        try:
            await self._haproxy.forget_rows(worker.pid, rows)
        except HaproxyRefused as error:
            LOG.warning("%s", error)
            table = await self._haproxy.table(worker.pid)
            known = self.ledger.boots[worker.boot].rows
            # Only a clear lowers a count.
            return [key for key in rows if key not in table or table[key].assigned < known[key].highest]
        return rows

    async def settle(self) -> None:
        """Read the present counts of every worker. Raises HaproxyUnavailable."""
        for worker in self._workers.all:
            try:
                await self._settle_worker(worker)
            except HaproxyRefused as error:
                LOG.warning("%s", error)
        current = self._workers.current
        for boot in self.ledger.boots.values():
            boot.draining = not boot.ended_at and current is not None and boot.id != current.boot
        self._finish_gone()

    async def _settle_worker(self, worker: Worker) -> None:
        table = await self._read_table(worker)
        now = time.time()
        self._reader.drain(now)
        boot = self.ledger.boot(worker.boot, worker.started_at)
        if boot.ended_at:
            boot.resume(now)
        boot.pid, boot.started_at = worker.pid, worker.started_at
        boot.settle(table, ALL_REQUESTS, now)
        boot.running = await self._haproxy.in_flight_by_block(worker.pid)
        boot.dropped = max(boot.dropped, await self._haproxy.dropped_lines(worker.pid))

    async def _read_table(self, worker: Worker) -> StickTable:
        """Return a worker's present counts, without dropped rows."""
        while True:
            forgotten = self._forgotten
            table = await self._haproxy.table(worker.pid)
            # A table from before a row was dropped would bring the row back.
            if forgotten == self._forgotten:
                return table

    def stop(self) -> None:
        """Count the lines in the pipe, write snapshots, and close the pipe."""
        self._reader.drain(time.time())
        self.save()
        self.save_details()
        self._reader.close()

    def save(self) -> None:
        """Write a snapshot of the counters if they changed since the last one. Snapshots take at most a fiftieth of the time."""
        if self.ledger.dirty:
            started = time.monotonic()
            write_atomically(self._state.counters, orjson.dumps({"format": _FORMAT, **self.ledger.as_json()}))
            self.ledger.dirty = False
            self._save_at = time.monotonic() + _COST_FACTOR * (time.monotonic() - started)

    def save_details(self) -> None:
        """Write a snapshot of blocks, groups and samples. It is larger and rarer; if it is lost, no count of requests is lost."""
        started = time.monotonic()
        # Numbers here may exceed the 64 bits that orjson writes.
        write_atomically(self._state.details, json.dumps({"format": _FORMAT, **self.ledger.details_as_json()}).encode())
        now = time.monotonic()
        self._save_details_at = now + max(_DETAILS_EVERY_S, _COST_FACTOR * (now - started))

    def _finish_gone(self) -> None:
        now = time.time()
        present = {worker.boot for worker in self._workers.all}
        absent = {key for key, boot in self.ledger.boots.items() if not boot.ended_at and key not in present}
        self._absent_since = {key: self._absent_since.get(key, now) for key in absent}
        for key, since in self._absent_since.items():
            # The list of workers is read less often than lines: a boot that is new here needs time to appear in the list.
            if present and now - since >= _GONE_AFTER_S:
                self.ledger.boots[key].finish(now)
                self.ledger.dirty = True


def _read(state: StateDir) -> Ledger:
    """Read the ledger of the last snapshot; return an empty one if there is none in a readable format."""
    stored = read_json(state.counters)
    if stored is None or stored.get("format") not in _READABLE:
        return Ledger()
    try:
        details = json.loads(state.details.read_bytes())
    except (FileNotFoundError, ValueError):
        details = {}
    return Ledger.from_json(stored, details if details.get("format") in _READABLE else {})
