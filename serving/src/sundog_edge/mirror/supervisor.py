"""The agent's part in mirroring: it keeps the mirror's process running, tells it where candidates are, and keeps its counts."""

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
from sundog_edge.mirror.send import MAX_LAG_US, CountsKey, MirrorTarget
from sundog_edge.split.document import SplitDocument
from sundog_edge.state_dir import StateDir, read_json, write_atomically

LOG = logging.getLogger(__name__)
_SILENCE_S = 30.0
"""A mirror that has told nothing for so long hangs. It is nice: on a busy machine it may get no CPU for a while."""

_START_S = 120.0
"""The same for one that has told nothing at all yet."""

_AGAIN_S = 1.0
_SETTLED_S = MAX_LAG_US / 1e6 + 1
"""What ended longer ago and was not told of by then never will be: the mirror itself would drop it."""

_MOST_LINE_BYTES = 16 << 20
_FORMAT = 1


class MirrorSupervisor:
    """Counts by (boot, `service/attempt/epoch`), cumulative over mirrors and agents; and the mirror's process, while one is needed."""

    def __init__(self, haproxy: HaproxyClient, workers: Workers, state: StateDir) -> None:
        self.sampled: dict[CountsKey, MirrorSampling] = {}
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._past: dict[CountsKey, MirrorCounts] = {}
        self._now: dict[CountsKey, MirrorCounts] = {}
        self._gone: dict[str, tuple[int, MirrorCounts]] = {}
        self._unheard: dict[CountsKey, int] = {}
        self._expected: list[tuple[float, dict[CountsKey, int]]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._told: bytes = b""
        self._heard = False
        self._heard_at = 0.0
        self._again_at = 0.0
        self._saved: bytes = b""
        self._read()

    @property
    def counts(self) -> dict[CountsKey, MirrorCounts]:
        """Everything that is known; what HAProxy counted and no mirror was told of is dropped."""
        found = self._lasting()
        for key, own in found.items():
            sampled = self.sampled.get(key, MirrorSampling())
            if sampled.all > sampled.taken:
                own.skipped["rate"] = sampled.all - sampled.taken
        return found

    @property
    def ready(self) -> bool:
        """Whether a mirror runs and has told that it does."""
        return self._process is not None and self._process.returncode is None and self._heard

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The counts as they are in the evidence: sampled = sent + dropped + Σ skipped + waiting, sent = paired + errors + timeouts +
        in flight + lost, and of each comparator paired = agree + disagree + incomparable.
        """
        found = []
        for (boot, key), own in sorted(self.counts.items()):
            service, attempt, epoch = key.split("/")
            sampled = self._sampled_of((boot, key), own)
            named = {"boot": boot, "service": service, "attempt": attempt, "epoch": int(epoch)}
            found.append({**named, "sampled": sampled, "waiting": sampled - own.received, **own.as_json()})
        return found

    async def tick(self, document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> None:
        """Keep a mirror for what the document asks for; `addresses` has the healthy replicas of each application.

        Raises HaproxyUnavailable.
        """
        targets = _targets(document, addresses)
        if not targets:
            await self._end()
        elif self._process is None or self._process.returncode is not None or self._is_silent:
            await self._begin_anew()
        if self._process is not None and self._process.returncode is None:
            self._tell(targets)
        await self.settle()
        self.save()

    async def stop(self) -> None:
        """End the mirror, and write down what it counted."""
        await self._end()
        self.save()

    @property
    def by_service(self) -> dict[str, tuple[int, MirrorCounts]]:
        """(sampled, counts) of each service since the edge's first start, what was let go of included."""
        found = dict(self._gone)
        for (boot, key), own in self.counts.items():
            service = key.partition("/")[0]
            sampled, before = found.get(service, (0, MirrorCounts()))
            found[service] = sampled + self._sampled_of((boot, key), own), _sum((before, own))
        return found

    def forget(self, boots: Collection[str], attempts: Collection[tuple[str, str]]) -> None:
        """Let go of what was counted by boots that are not remembered any more, but for the (service, attempt)s in force."""
        counts = self.counts
        gone = {
            (boot, key) for boot, key in counts if boot not in boots and tuple(key.split("/")[:2]) not in attempts
        } - {*self._now}
        for boot, key in gone:
            service = key.partition("/")[0]
            sampled, before = self._gone.get(service, (0, MirrorCounts()))
            own = counts[boot, key]
            self._gone[service] = sampled + self._sampled_of((boot, key), own), _sum((before, own))
            for known in (self._past, self._unheard, self.sampled):
                known.pop((boot, key), None)

    def _sampled_of(self, key: CountsKey, own: MirrorCounts) -> int:
        # The mirror may have told of some that came after the last look at HAProxy.
        return max(self.sampled.get(key, MirrorSampling()).all, own.received)

    def save(self) -> None:
        """Write a snapshot where anything has changed."""
        rows = [
            {
                "boot": boot,
                "key": key,
                **self.sampled.get((boot, key), MirrorSampling()).as_json(),
                **own.ended().as_json(),
            }
            for (boot, key), own in self._lasting().items()
        ]
        gone = {name: {"sampled": sampled, **own.as_json()} for name, (sampled, own) in self._gone.items()}
        content = orjson.dumps({"format": _FORMAT, "rows": rows, "gone": gone})
        if content != self._saved and (rows or self._saved):
            write_atomically(self._state.mirrored, content)
            self._saved = content

    def _lasting(self) -> dict[CountsKey, MirrorCounts]:
        found: dict[CountsKey, MirrorCounts] = {}
        for key in {*self._past, *self._now, *self.sampled}:
            own = _sum(each[key] for each in (self._past, self._now) if key in each)
            own.in_flight = self._now[key].in_flight if key in self._now else 0
            own.dropped += self._unheard.get(key, 0)
            found[key] = own
        return found

    def _read(self) -> None:
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
        return time.monotonic() - self._heard_at > (_SILENCE_S if self._heard else _START_S)

    async def _begin_anew(self) -> None:
        if time.monotonic() < self._again_at:
            return
        if self._process is not None:
            LOG.warning("the mirror %s; starting another", "hangs" if self._process.returncode is None else "has ended")
        await self._end()
        self._again_at = time.monotonic() + _AGAIN_S
        self._heard, self._heard_at = False, time.monotonic()
        self._told = b""
        self._process = await asyncio.create_subprocess_exec(
            # `-P`: what lies in the working directory is no module.
            *(sys.executable, "-P", "-m", "sundog_edge.mirror", str(self._state.mirror_socket)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MOST_LINE_BYTES,
        )
        self._reading = asyncio.create_task(self._listen(self._process))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with contextlib.suppress(orjson.JSONDecodeError):
                told = orjson.loads(line)
                self._now = {(row["boot"], row["key"]): MirrorCounts.from_json(row) for row in told["counts"]}
                self._heard, self._heard_at = True, time.monotonic()

    async def _end(self) -> None:
        """End the process, a hanging one too. What it had under way is lost."""
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
            self._past.setdefault(key, MirrorCounts()).add(counts.ended())
        self._now = {}

    def _tell(self, targets: Mapping[str, MirrorTarget]) -> None:
        line = orjson.dumps({"services": {name: target.as_json() for name, target in targets.items()}}) + b"\n"
        pipe = self._process.stdin if self._process is not None else None
        # One that does not read gets no more; it hangs, and is replaced.
        if line != self._told and pipe is not None and not pipe.transport.get_write_buffer_size():
            with contextlib.suppress(ConnectionError):
                pipe.write(line)
                self._told = line

    async def settle(self) -> None:
        """Take over what HAProxy has counted by now, and find out what of it no mirror was told of. Raises HaproxyUnavailable."""
        if self._process is None and not self.sampled:
            return
        now = time.monotonic()
        expected: dict[CountsKey, int] = {}
        for worker in self._workers.all:
            try:
                table = await self._haproxy.mirrored(worker.pid)
            except HaproxyRefused:
                # Its configuration is from before the first service that is mirrored.
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
                self._unheard[key] = max(self._unheard.get(key, 0), count - received)


def _sum(parts: Iterable[MirrorCounts]) -> MirrorCounts:
    """A new one; what is in flight is left out."""
    made = MirrorCounts()
    for each in parts:
        made.add(each)
    return made


def _targets(document: SplitDocument | None, addresses: Mapping[str, Collection[str]]) -> dict[str, MirrorTarget]:
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
