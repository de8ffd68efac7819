"""What happened, per boot and row, accumulated from lines and from HAProxy's own counts. Pure: no I/O, no clock.

A row is `service/attempt/epoch/arm/origin/unit`. Three sources make its numbers:

- `assigned` is HAProxy's own count, taken when the arm is chosen, read from a stick table;
- an end is counted when its line arrives;
- `lost` is what must have ended although its line never came.

For `lost`, HAProxy also keeps how many requests of a row are running, and it writes a request's line into the pipe before it
takes the request out of that number. Read the table at an instant T, then read the pipe until it is empty. Now
`assigned(T) - running(T) - ends seen` cannot be above the number of lost lines, because ends after T can only lower it. So the
largest such value ever seen never blames a line that is only late, and it reaches the truth at the first reading without an end
between table and pipe.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sundog_edge import histogram
from sundog_edge.loglines import ABORTS, ENDS, REFUSALS, End, Refusal, parse

KINDS = ("ok", "failed", "aborted")
KIND_OF_END = {name: "ok" if name == "ok" else "aborted" if name in ABORTS else "failed" for name in ENDS}


class Seen(NamedTuple):
    """One entry of HAProxy's table: requests counted so far, and requests running."""

    assigned: int
    running: int


Table = Mapping[str, Seen]


@dataclass(slots=True)
class Row:
    """The counters of one row. Histograms as in `histogram`."""

    highest: int = 0
    lost: int = 0
    ended: int = 0
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    first_attempt_failed: int = 0
    retries: int = 0
    redispatched: int = 0
    rescued: int = 0
    served_elsewhere: int = 0
    ttfb: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    total: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def assigned(self) -> int:
        """Requests for which the row was chosen: HAProxy's count as last read, or what lines have proved since."""
        return max(self.highest, self.ended + self.lost)

    @property
    def in_flight(self) -> int:
        """Requests that have neither ended nor been lost."""
        return self.assigned - self.ended - self.lost

    def count(self, end: End) -> None:
        """Count one end."""
        self.ended += 1
        self.ends[end.end] += 1
        self.highest = max(self.highest, end.number)
        if end.retries:
            self.first_attempt_failed += 1
            self.retries += end.retries
            self.redispatched += end.redispatched
            self.rescued += end.end == "ok"
        if end.fallback:
            # Serve's own proxy holds requests while there is no replica: that wait says nothing about the arm's model.
            self.served_elsewhere += 1
            return
        kind = KIND_OF_END[end.end]
        histogram.add(self.ttfb[kind], end.ttfb_us)
        histogram.add(self.total[kind], end.total_us)

    def settle(self, seen: Seen) -> None:
        """Raise `lost` to what a table entry proves, all lines before it having come."""
        self.highest = max(self.highest, seen.assigned)
        self.lost = max(self.lost, seen.assigned - seen.running - self.ended)

    def as_json(self) -> dict[str, Any]:
        """For the snapshot."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Boot:
    """The counters of one HAProxy worker process. Instants in Unix seconds; `ended_at` 0 while it runs."""

    id: str
    pid: int
    started_at: float
    draining: bool = False
    ended_at: float = 0.0
    requests: int = 0
    lines: int = 0
    counted_lines: int = 0
    unparsable: int = 0
    gaps: int = 0
    dropped: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    refused: dict[str, dict[str, int]] = field(default_factory=dict)

    def row(self, key: str) -> Row:
        """The row of a key, made if it is new."""
        found = self.rows.get(key)
        if found is None:
            found = self.rows[key] = Row()
        return found

    def count_end(self, end: End) -> None:
        """Count the end of a request that had an arm."""
        self.lines += 1
        self.counted_lines += 1
        self.row(end.row.decode()).count(end)

    def count_refusal(self, refusal: Refusal) -> None:
        """Count a request that got no arm."""
        self.lines += 1
        self.counted_lines += refusal.counted
        kinds = self.refused.get(refusal.service)
        if kinds is None:
            kinds = self.refused[refusal.service] = dict.fromkeys(REFUSALS, 0)
        kinds[refusal.kind] += 1

    def observe(self, table: Table, whole: str) -> None:
        """Take over HAProxy's counts; `whole` is the entry that counts every request."""
        for key, seen in table.items():
            if key == whole:
                self.requests = max(self.requests, seen.assigned)
            else:
                self.row(key).highest = max(self.row(key).highest, seen.assigned)

    def settle(self, table: Table, whole: str) -> None:
        """Find lost lines: `table` was read before lines that have all been counted by now."""
        self.observe(table, whole)
        for key, seen in table.items():
            if key == whole:
                self.gaps = max(self.gaps, seen.assigned - seen.running - self.counted_lines)
            else:
                self.row(key).settle(seen)

    def finish(self, now: float) -> None:
        """The worker is gone and no line of it can come any more: what has not ended is lost."""
        self.ended_at = now
        self.draining = False
        self.gaps = max(self.gaps, self.requests - self.counted_lines)
        for row in self.rows.values():
            row.lost = row.assigned - row.ended

    def as_json(self) -> dict[str, Any]:
        """For the snapshot."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        return {**plain, "rows": {key: row.as_json() for key, row in self.rows.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Boot":
        """The boot that `as_json` gave."""
        rows = {key: Row(**row) for key, row in stored["rows"].items()}
        return cls(**{**stored, "rows": rows})


@dataclass(slots=True)
class Ledger:
    """All boots of this edge, the living and those that ended lately."""

    boots: dict[str, Boot] = field(default_factory=dict)
    strays: int = 0
    dirty: bool = False

    def consume(self, lines: Iterable[bytes], now: float) -> None:
        """Count lines."""
        boot: Boot | None = None
        boot_id = b""
        for line in lines:
            parsed = parse(line)
            if parsed is None:
                self._count_unparsable(line)
                continue
            if boot is None or parsed.boot != boot_id:
                boot_id = parsed.boot
                boot = self.boot(boot_id.decode(), now)
            if isinstance(parsed, End):
                boot.count_end(parsed)
            else:
                boot.count_refusal(parsed)
        self.dirty = True

    def boot(self, boot_id: str, now: float) -> Boot:
        """The boot of an id `<start of HAProxy>-<pid>`, made if it is new."""
        found = self.boots.get(boot_id)
        if found is None:
            pid = boot_id.rpartition("-")[2]
            found = self.boots[boot_id] = Boot(id=boot_id, pid=int(pid) if pid.isdigit() else 0, started_at=now)
        return found

    def forget(self, before: float) -> None:
        """Drop boots that ended before an instant."""
        self.boots = {key: boot for key, boot in self.boots.items() if not boot.ended_at or boot.ended_at >= before}

    def as_json(self) -> dict[str, Any]:
        """For the snapshot."""
        return {"boots": [boot.as_json() for boot in self.boots.values()], "strays": self.strays}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Ledger":
        """The ledger that `as_json` gave."""
        boots = [Boot.from_json(boot) for boot in stored["boots"]]
        return cls({boot.id: boot for boot in boots}, stored["strays"])

    def _count_unparsable(self, line: bytes) -> None:
        boot = self.boots.get(line.split(b" ", 1)[0].decode(errors="replace"))
        if boot is None:
            self.strays += 1
        else:
            boot.unparsable += 1
