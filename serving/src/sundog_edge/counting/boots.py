"""What one start of HAProxy has counted. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting.rows import RowCounters, StickTable

UNSIGNED = (1 << 64) - 1


@dataclass(slots=True)
class Boot:
    """The counters of one HAProxy worker process. Instants in Unix seconds; `ended_at` 0 while it runs.

    `running` has, by row, how many requests that arrived in which block are still running; `feedback`, by service and status, those with
    feedback.
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

    def row(self, key: str) -> RowCounters:
        """The row of a key, made if it is new."""
        found = self.rows.get(key)
        if found is None:
            found = self.rows[key] = RowCounters()
        return found

    def settle(self, table: StickTable, whole: str, now: float = 0.0) -> None:
        """Find lost lines: `table` was read before lines that have all been counted by now.

        `whole` is the entry that counts every request.
        """
        for key, seen in table.items():
            if key == whole:
                self.requests = max(self.requests, seen.assigned)
                self.gaps = max(self.gaps, seen.assigned - seen.running - self.counted_lines)
                continue
            row = self.row(key)
            before = row.highest, row.lost
            row.settle(seen)
            if before != (row.highest, row.lost):
                row.changed = now

    @property
    def all_gaps(self) -> int:
        """Requests without a line, by now: of a worker that is gone, all that it had counted."""
        return max(self.gaps, self.requests - self.counted_lines) if self.ended_at else self.gaps

    def finish(self, now: float) -> None:
        """The worker is gone and no line of it can come any more: what has not ended is lost."""
        self.ended_at = now
        self.draining = False
        self.running = {}
        for row in self.rows.values():
            if row.in_flight:
                row.write_off()
                row.changed = now

    def resume(self, now: float) -> None:
        """The worker is there after all, having been away from the list for a while: what was written off still runs."""
        self.ended_at = 0.0
        for row in self.rows.values():
            if row.written_off:
                row.take_back(row.written_off)
                row.changed = now

    def add_sums(self, other: "Boot") -> None:
        """Add another boot's counts of lines and refusals."""
        gaps = self.gaps + other.all_gaps
        for name in ("requests", "lines", "counted_lines", "unparsable", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gaps = gaps
        for mine, its in ((self.refused, other.refused), (self.feedback, other.feedback)):
            for service, kinds in its.items():
                own = mine.setdefault(service, {})
                for kind, count in kinds.items():
                    own[kind] = own.get(kind, 0) + count

    def as_json(self) -> dict[str, Any]:
        """For the snapshot."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in {"rows", "running"}}
        return {**plain, "rows": {key: row.as_json() for key, row in self.rows.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Boot":
        """The boot that `as_json` gave."""
        rows = {key: RowCounters(**row) for key, row in stored["rows"].items()}
        return cls(**{**stored, "rows": rows})
