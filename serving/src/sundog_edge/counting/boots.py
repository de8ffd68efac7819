"""Counters of one HAProxy worker process. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting.rows import RowCounters, StickTable

UNSIGNED = (1 << 64) - 1


@dataclass(slots=True)
class Boot:
    """The counters of one HAProxy worker process.

    Attributes:
        started_at: Unix seconds.
        ended_at: Unix seconds; 0 while the process runs.
        requests: requests that HAProxy counted.
        lines: log lines read, including lines that count no request.
        gaps: requests without a line, as far as readings prove them.
        dropped: lines that HAProxy could not write.
        refused: requests without an arm, by service and kind.
        running: running requests by row and block of arrival.
        feedback: requests with feedback, by service and status.
        ofrep: look-ups of units' arms, by service and status.
    """

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
    rows: dict[str, RowCounters] = field(default_factory=dict)
    refused: dict[str, dict[str, int]] = field(default_factory=dict)
    running: dict[str, dict[int, int]] = field(default_factory=dict)
    feedback: dict[str, dict[str, int]] = field(default_factory=dict)
    ofrep: dict[str, dict[str, int]] = field(default_factory=dict)

    def row(self, key: str) -> RowCounters:
        """Return the row of a key; add it if it is new."""
        found = self.rows.get(key)
        if found is None:
            found = self.rows[key] = RowCounters()
        return found

    def settle(self, table: StickTable, total_key: str, now: float = 0.0) -> None:
        """Find lost lines. `table` was read before the last lines, and all lines are counted by now.

        `total_key` is the entry that counts every request.
        """
        for key, entry in table.items():
            if key == total_key:
                self.requests = max(self.requests, entry.assigned)
                self.gaps = max(self.gaps, entry.assigned - entry.running - self.counted_lines)
                continue
            row = self.row(key)
            before = row.highest, row.lost
            row.settle(entry)
            if before != (row.highest, row.lost):
                row.changed = now

    @property
    def all_gaps(self) -> int:
        """Requests without a line. After the worker's end, these are all its requests without a line."""
        return max(self.gaps, self.requests - self.counted_lines) if self.ended_at else self.gaps

    def finish(self, now: float) -> None:
        """Note the worker's end, after its last line: its running requests are lost."""
        self.ended_at = now
        self.draining = False
        self.running = {}
        for row in self.rows.values():
            if row.in_flight:
                row.write_off()
                row.changed = now

    def resume(self, now: float) -> None:
        """Note that the worker is listed again: requests that were written off still run."""
        self.ended_at = 0.0
        for row in self.rows.values():
            if row.written_off:
                row.take_back(row.written_off)
                row.changed = now

    def add_sums(self, other: "Boot") -> None:
        """Add another boot's counts of lines, refusals, feedback and look-ups."""
        gaps = self.gaps + other.all_gaps
        for name in ("requests", "lines", "counted_lines", "unparsable", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gaps = gaps
        pairs = (self.refused, other.refused), (self.feedback, other.feedback), (self.ofrep, other.ofrep)
        for sums, added in pairs:
            for service, counts in added.items():
                of_service = sums.setdefault(service, {})
                for kind, count in counts.items():
                    of_service[kind] = of_service.get(kind, 0) + count

    def as_json(self) -> dict[str, Any]:
        """Return the boot for the snapshot."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in {"rows", "running"}}
        return {**plain, "rows": {key: row.as_json() for key, row in self.rows.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Boot":
        """Return the boot that `as_json` gave."""
        rows = {key: RowCounters(**row) for key, row in stored["rows"].items()}
        return cls(**{**stored, "rows": rows})
