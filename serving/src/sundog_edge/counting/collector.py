"""Keeps the ledger: HAProxy's tables and lines in, snapshots out."""

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
"""Before 5 nothing was counted by a further threshold, which what is read from then on says as well."""


class CounterCollector:
    """The counters of this edge.

    An agent that is killed loses the lines that it read after its last snapshot (at most a second's); lines that it did not read wait in
    the pipe. HAProxy's own counts survive, so what is lost shows as `lost` as soon as the next agent has settled. When HAProxy
    itself is killed, the requests that were running and what it counted after the agent's last look are lost as well; the latter, having
    neither a count nor a line, are the only ones that nothing can show. Without an agent the pipe, too, is HAProxy's alone: if that is
    killed then, they are all since the last snapshot.
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
        """Count the lines that have come."""
        self.drain_lines()

    def drain_lines(self) -> None:
        """The same, for who has to know of all that has been answered."""
        self._reader.drain(time.time())

    async def tick(self) -> None:
        """Settle every worker, close the books of workers that are gone, write a snapshot. Raises HaproxyUnavailable."""
        await self.settle()
        if time.monotonic() >= self._save_at:
            self.save()
        if time.monotonic() >= self._save_details_at:
            self.save_details()

    async def forget(self, attempts: Collection[tuple[str, str]]) -> None:
        """Let go of what ended or was last counted an hour ago, but for the (service, attempt)s in force. Raises HaproxyUnavailable.

        HAProxy lets go of a row first: one that it still had would come back from there, with all of its requests lost.
        """
        before = time.time() - RETAIN_ENDED_S
        self.ledger.forget(before, attempts)
        for worker in self._workers.all:
            rows = self.ledger.idle_rows(worker.boot, before, attempts)
            if rows:
                cleared = await self._clear(worker, rows)
                # Lines of what was cleared are in the pipe by now, and belong to what goes.
                self._reader.drain(time.time())
                self.ledger.forget_rows(worker.boot, cleared)
                self._forgotten += 1

    async def _clear(self, worker: Worker, rows: Sequence[str]) -> Sequence[str]:
        """Take rows out of a worker's table. Gives those that are out of it: a row that is in use again stays."""
        try:
            await self._haproxy.forget_rows(worker.pid, rows)
        except HaproxyRefused as error:
            LOG.warning("%s", error)
            table = await self._haproxy.table(worker.pid)
            known = self.ledger.boots[worker.boot].rows
            # A count only ever goes back by being cleared.
            return [key for key in rows if key not in table or table[key].assigned < known[key].highest]
        return rows

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
        table = await self._table(worker)
        now = time.time()
        self._reader.drain(now)
        boot = self.ledger.boot(worker.boot, worker.started_at)
        if boot.ended_at:
            boot.resume(now)
        boot.pid, boot.started_at = worker.pid, worker.started_at
        boot.settle(table, ALL_REQUESTS, now)
        boot.running = await self._haproxy.in_flight_by_block(worker.pid)
        boot.dropped = max(boot.dropped, await self._haproxy.dropped_lines(worker.pid))

    async def _table(self, worker: Worker) -> StickTable:
        """A worker's counts as they are now, without what was let go of."""
        while True:
            forgotten = self._forgotten
            table = await self._haproxy.table(worker.pid)
            # An answer from before a row was let go of would bring it back.
            if forgotten == self._forgotten:
                return table

    def stop(self) -> None:
        """Count what has come, write it down, and let go of the pipe."""
        self._reader.drain(time.time())
        self.save()
        self.save_details()
        self._reader.close()

    def save(self) -> None:
        """Write a snapshot of the counters if any line has come since the last. What it costs is kept to a small part of the time."""
        if self.ledger.dirty:
            began = time.monotonic()
            write_atomically(self._state.counters, orjson.dumps({"format": _FORMAT, **self.ledger.as_json()}))
            self.ledger.dirty = False
            self._save_at = time.monotonic() + _COST_FACTOR * (time.monotonic() - began)

    def save_details(self) -> None:
        """Write a snapshot of blocks, groups and samples; it is larger, and what is lost of it is no count of requests."""
        began = time.monotonic()
        # Sums of squares outgrow what orjson writes.
        write_atomically(self._state.details, json.dumps({"format": _FORMAT, **self.ledger.details_as_json()}).encode())
        now = time.monotonic()
        self._save_details_at = now + max(_DETAILS_EVERY_S, _COST_FACTOR * (now - began))

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


def _read(state: StateDir) -> Ledger:
    """The ledger of the last snapshot; an empty one where there is none of this format."""
    stored = read_json(state.counters)
    if stored is None or stored.get("format") not in _READABLE:
        return Ledger()
    try:
        details = json.loads(state.details.read_bytes())
    except (FileNotFoundError, ValueError):
        details = {}
    return Ledger.from_json(stored, details if details.get("format") in _READABLE else {})
