"""Counters of one row: an arm of an attempt in one epoch. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from sundog_edge.counting import histogram
from sundog_edge.counting import unit_groups as grouping
from sundog_edge.counting.blocks import TimeBlockCounts
from sundog_edge.counting.log_lines import ABORTS, ENDS, ROW_COLUMNS, SLOW_COLUMNS
from sundog_edge.counting.unit_groups import UnitGroupCounts

KINDS = ("ok", "failed", "aborted")
KIND_OF_END = {name: "ok" if name == "ok" else "aborted" if name in ABORTS else "failed" for name in ENDS}
TIMED_ENDS = frozenset({"ok", "client4xx", "throttled", *ABORTS})
"""Ends that can count as slow. A client that aborts has waited for at least this long. Failures count as failures only."""

SLOW_PLACES = tuple(map(ROW_COLUMNS.index, SLOW_COLUMNS))
FIRST_ATTEMPT_FAILED = ROW_COLUMNS.index("firstAttemptFailed")


class TableEntry(NamedTuple):
    """One entry of HAProxy's table: requests assigned so far, and running requests."""

    assigned: int
    running: int


StickTable = Mapping[str, TableEntry]


def _by_kind() -> dict[str, list[int]]:
    return {kind: [] for kind in KINDS}


@dataclass(slots=True)
class RowCounters:
    """The counters of one row.

    Attributes:
        highest: HAProxy's count of assigned requests, as last read or as lines show.
        lost: requests that must have ended without a line.
        client_closed: ended requests whose client did not stay for the whole answer, whatever their end.
        written_off: the part of `lost` that is known only from the worker's end.
        duration_us: sum of the total times in the histograms.
        ttfb: histograms of the time to first byte, by kind.
        total: histograms of the total time, by kind.
        changed: time of the last change in Unix seconds.
    """

    highest: int = 0
    lost: int = 0
    written_off: int = 0
    ended: int = 0
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    first_attempt_failed: int = 0
    retries: int = 0
    redispatched: int = 0
    rescued: int = 0
    poison: int = 0
    client_closed: int = 0
    served_elsewhere: int = 0
    slow: int = 0
    slow2: int = 0
    slow3: int = 0
    duration_us: int = 0
    ttfb: dict[str, list[int]] = field(default_factory=_by_kind)
    total: dict[str, list[int]] = field(default_factory=_by_kind)
    changed: float = 0.0
    blocks: TimeBlockCounts = field(default_factory=lambda: TimeBlockCounts(len(ROW_COLUMNS)))
    groups: UnitGroupCounts = field(default_factory=dict)

    @property
    def assigned(self) -> int:
        """Requests for which the row was chosen: HAProxy's count as last read, or what lines show since then."""
        return max(self.highest, self.ended + self.lost)

    @property
    def in_flight(self) -> int:
        """Requests that have neither ended nor are lost."""
        return self.assigned - self.ended - self.lost

    def write_off(self) -> None:
        """Count every request in flight as lost."""
        self.written_off += self.in_flight
        self.lost += self.in_flight

    def take_back(self, most: int) -> None:
        """Take back up to `most` written-off requests: they have ended, or still run."""
        back = min(most, self.written_off)
        self.written_off -= back
        self.lost -= back

    def settle(self, entry: TableEntry) -> None:
        """Raise `lost` to what a table entry proves. All lines before the entry must be counted."""
        self.highest = max(self.highest, entry.assigned)
        self.lost = max(self.lost, entry.assigned - entry.running - self.ended)

    def merge(self, other: "RowCounters") -> None:
        """Add the counts of another row, without its blocks and groups. Its requests in flight stay in flight."""
        self.highest = self.assigned + other.assigned
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for end, count in other.ends.items():
            self.ends[end] += count
        for kind in KINDS:
            histogram.merge(self.ttfb[kind], other.ttfb[kind])
            histogram.merge(self.total[kind], other.total[kind])
        self.changed = max(self.changed, other.changed)

    def as_json(self) -> dict[str, Any]:
        """Return the cumulative counters for the snapshot."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in _DETAILS}

    def details_as_json(self) -> dict[str, Any]:
        """Return blocks and groups for the snapshot."""
        return {"blocks": self.blocks.rows(), "groups": grouping.to_rows(self.groups)}

    def add_details(self, stored: Mapping[str, Any]) -> None:
        """Add the blocks and groups that `details_as_json` gave."""
        self.blocks.merge(stored["blocks"])
        grouping.merge(self.groups, stored["groups"])


_DETAILS = ("blocks", "groups")
# No line counts in a sum, so it takes back no request that its rows wrote off.
_SUMS = [each.name for each in fields(RowCounters) if each.type is int and each.name not in {"highest", "written_off"}]


class RowKey(NamedTuple):
    """The parts of a row's key."""

    service: str
    attempt: str
    epoch: int
    arm: str
    origin: str
    unit: str

    @classmethod
    def of(cls, key: str) -> "RowKey":
        """Parse a key. Raises ValueError for a key of another shape."""
        service, attempt, epoch, arm, origin, unit = key.split("/")
        return cls(service, attempt, int(epoch), arm, origin, unit)
