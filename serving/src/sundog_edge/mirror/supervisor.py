"""The agent's part of mirroring: run the mirror's process, send it the targets, and store its counts."""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

from sundog_edge.errors import HaproxyRefused
from sundog_edge.haproxy.client import HaproxyClient, MirrorSampling
from sundog_edge.haproxy.workers import Workers
from sundog_edge.mirror.counts import MirrorCounts
from sundog_edge.mirror.send import MAX_LAG_US, TARGETS, CountsKey, MirrorTarget
from sundog_edge.split.document import SplitDocument
from sundog_edge.state_dir import StateDir, read_json, write_atomically

LOG = logging.getLogger(__name__)
_SILENCE_S = 30.0
"""A mirror without a report for this long hangs. Its priority is low: on a busy machine it may get no CPU for a while."""

_START_S = 120.0
"""The same before the first report."""

_RESTART_S = 1.0
_SETTLED_S = MAX_LAG_US / 1e6 + 1
"""A request that ended longer ago and was not reported never will be: the mirror would drop it."""

_MAX_LINE_BYTES = 16 << 20
_FORMAT = 1


class MirrorSupervisor:
    """The mirror's process, while one is needed; and counts by (boot, `service/attempt/epoch`), cumulative over mirrors and agents."""

    def __init__(self, haproxy: HaproxyClient, workers: Workers, state: StateDir) -> None:
        self.sampled: dict[CountsKey, MirrorSampling] = {}
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._past: dict[CountsKey, MirrorCounts] = {}
        self._now: dict[CountsKey, MirrorCounts] = {}
        self._gone: dict[str, tuple[int, MirrorCounts]] = {}
        self._unreported: dict[CountsKey, int] = {}
        self._expected: list[tuple[float, dict[CountsKey, int]]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._sent_targets: bytes = b""
        self._has_reported = False
        self._reported_at = 0.0
        self._restart_at = 0.0
        self._saved: bytes = b""
        self._read_snapshot()

    @property
    def counts(self) -> dict[CountsKey, MirrorCounts]:
        """All known counts. Requests above the rate count as skipped; copies that no mirror reported count as dropped."""
        found = self._merge_counts()
        for key, own in found.items():
            sampled = self.sampled.get(key, MirrorSampling())
            if sampled.all > sampled.taken:
                own.skipped["rate"] = sampled.all - sampled.taken
        return found

    @property
    def ready(self) -> bool:
        """Whether a mirror runs and has reported."""
        return self._process is not None and self._process.returncode is None and self._has_reported

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the evidence.

        sampled = sent + dropped + Σ skipped + waiting; sent = paired + errors + timeouts + in flight + lost; for each comparator,
        paired = agree + disagree + incomparable.
        """
        found = []
        for (boot, key), own in sorted(self.counts.items()):
            service, attempt, epoch = key.split("/")
            sampled = self._sampled_of((boot, key), own)
            named = {"boot": boot, "service": service, "attempt": attempt, "epoch": int(epoch)}
            found.append({**named, "sampled": sampled, "waiting": sampled - own.received, **own.as_json()})
        return found

    async def tick(self, document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> None:
        """Run a mirror while the document needs one. `addresses`: healthy replicas of each application.

        Raises HaproxyUnavailable.
        """
        targets = _find_targets(document, addresses)
        if not targets:
            await self._end_process()
        elif self._process is None or self._process.returncode is not None or self._is_silent:
            await self._restart_process()
        if self._process is not None and self._process.returncode is None:
            self._send_targets(targets)
        await self.settle()
        self.save()

    async def stop(self) -> None:
        """End the mirror, and write a snapshot of its counts."""
        await self._end_process()
        self.save()

    @property
    def by_service(self) -> dict[str, tuple[int, MirrorCounts]]:
        """(sampled, counts) of each service since the edge's first start, including dropped keys."""
        found = dict(self._gone)
        self._add_to(found, self.counts)
        return found

    def _add_to(self, sums: dict[str, tuple[int, MirrorCounts]], counts: Mapping[CountsKey, MirrorCounts]) -> None:
        """Add counts to the (sampled, counts) of their services."""
        for (boot, key), own in counts.items():
            service = key.partition("/")[0]
            sampled, before = sums.get(service, (0, MirrorCounts()))
            sums[service] = sampled + self._sampled_of((boot, key), own), _sum((before, own))

    def forget(self, boots: Collection[str], attempts: Collection[tuple[str, str]], services: Collection[str]) -> None:
        """Drop counts of boots that the ledger has dropped, except those of the (service, attempt)s in force.

        Their sums stay while the service is one of `services` or has counts.
        """
        counts = self.counts
        gone = {
            (boot, key) for boot, key in counts if boot not in boots and tuple(key.split("/")[:2]) not in attempts
        } - {*self._now}
        self._add_to(self._gone, {key: counts[key] for key in gone})
        for by_key in (self._past, self._unreported, self.sampled):
            for key in gone:
                by_key.pop(key, None)
        stay = {*services, *(key.partition("/")[0] for _, key in counts.keys() - gone)}
        self._gone = {service: sums for service, sums in self._gone.items() if service in stay}

    def _sampled_of(self, key: CountsKey, own: MirrorCounts) -> int:
        # The mirror may have reported requests that came after the last reading of HAProxy.
        return max(self.sampled.get(key, MirrorSampling()).all, own.received)

    def save(self) -> None:
        """Write a snapshot if anything has changed."""
        rows = [
            {
                "boot": boot,
                "key": key,
                **self.sampled.get((boot, key), MirrorSampling()).as_json(),
                **own.as_ended().as_json(),
            }
            for (boot, key), own in self._merge_counts().items()
        ]
        gone = {name: {"sampled": sampled, **own.as_json()} for name, (sampled, own) in self._gone.items()}
        content = orjson.dumps({"format": _FORMAT, "rows": rows, "gone": gone})
        if content != self._saved and (rows or self._saved):
            write_atomically(self._state.mirrored, content)
            self._saved = content

    def _merge_counts(self) -> dict[CountsKey, MirrorCounts]:
        found: dict[CountsKey, MirrorCounts] = {}
        for key in {*self._past, *self._now, *self.sampled}:
            own = _sum(each[key] for each in (self._past, self._now) if key in each)
            own.in_flight = self._now[key].in_flight if key in self._now else 0
            own.dropped += self._unreported.get(key, 0)
            found[key] = own
        return found

    def _read_snapshot(self) -> None:
        stored = read_json(self._state.mirrored)
        if stored is None or stored.get("format") != _FORMAT:
            return
        for row in stored["rows"]:
            key = row["boot"], row["key"]
            self._past[key] = MirrorCounts.from_json(row)
            self.sampled[key] = MirrorSampling(row["sampled"], row["taken"])
        self._gone = {name: (row["sampled"], MirrorCounts.from_json(row)) for name, row in stored["gone"].items()}

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() - self._reported_at > (_SILENCE_S if self._has_reported else _START_S)

    async def _restart_process(self) -> None:
        if time.monotonic() < self._restart_at:
            return
        if self._process is not None:
            LOG.warning("the mirror %s; starting another", "hangs" if self._process.returncode is None else "has ended")
        await self._end_process()
        self._restart_at = time.monotonic() + _RESTART_S
        self._has_reported, self._reported_at = False, time.monotonic()
        self._sent_targets = b""
        self._process = await asyncio.create_subprocess_exec(
            # `-P`: no modules from the working directory.
            *(sys.executable, "-P", "-m", "sundog_edge.mirror", str(self._state.mirror_socket)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
        )
        self._reading = asyncio.create_task(self._read_reports(self._process))

    async def _read_reports(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with contextlib.suppress(orjson.JSONDecodeError):
                report = orjson.loads(line)
                self._now = {(row["boot"], row["key"]): MirrorCounts.from_json(row) for row in report["counts"]}
                self._has_reported, self._reported_at = True, time.monotonic()

    async def _end_process(self) -> None:
        """End the process, even if it hangs. Its running copies are lost."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._reading is not None:
            await self._reading
            self._reading = None
        for key, counts in self._now.items():
            self._past.setdefault(key, MirrorCounts()).add(counts.as_ended())
        self._now = {}

    def _send_targets(self, targets: dict[str, MirrorTarget]) -> None:
        line = orjson.dumps({"services": TARGETS.dump_python(targets, by_alias=True)}) + b"\n"
        pipe = self._process.stdin if self._process is not None else None
        # A mirror that does not read gets no more lines; it hangs and will be replaced.
        if line != self._sent_targets and pipe is not None and not pipe.transport.get_write_buffer_size():
            with contextlib.suppress(ConnectionError):
                pipe.write(line)
                self._sent_targets = line

    async def settle(self) -> None:
        """Read HAProxy's counts, and find copies that no mirror has reported. Raises HaproxyUnavailable."""
        if self._process is None and not self.sampled:
            return
        now = time.monotonic()
        expected: dict[CountsKey, int] = {}
        for worker in self._workers.all:
            try:
                table = await self._haproxy.mirrored(worker.pid)
            except HaproxyRefused:
                # The worker's configuration is older than the first mirrored service.
                continue
            for name, sampled in table.items():
                self.sampled[worker.boot, name] = sampled
                expected[worker.boot, name] = sampled.taken - sampled.running
        self._expected.append((now, expected))
        while len(self._expected) > 1 and self._expected[1][0] <= now - _SETTLED_S:
            self._expected.pop(0)
        since, due = self._expected[0]
        if since <= now - _SETTLED_S:
            for key, count in due.items():
                received = sum(each[key].received for each in (self._past, self._now) if key in each)
                self._unreported[key] = max(self._unreported.get(key, 0), count - received)


def _sum(parts: Iterable[MirrorCounts]) -> MirrorCounts:
    """Return the sum of counts, without requests in flight."""
    total = MirrorCounts()
    for part in parts:
        total.add(part)
    return total


def _find_targets(document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> dict[str, MirrorTarget]:
    found: dict[str, MirrorTarget] = {}
    for service in document.services if document else ():
        shadow = service.shadow
        arm = next((arm for arm in service.arms if shadow is not None and arm.name == shadow.arm), None)
        if shadow is not None and arm is not None:
            found[service.name] = MirrorTarget(
                key=f"{service.name}/{service.attempt}/{service.epoch}",
                prefix=arm.routePrefix.rstrip("/"),
                addresses=tuple(sorted(addresses.get(arm.application, ()))),
                timeout_s=service.requestTimeoutSeconds,
                comparator=shadow.comparator,
            )
    return found
