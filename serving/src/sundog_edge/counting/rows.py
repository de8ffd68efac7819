"""Counters of one row: an arm of an attempt in one epoch. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sundog_edge.counting import histogram
from sundog_edge.counting import unit_groups as grouping
from sundog_edge.counting.blocks import TimeBlockCounts
from sundog_edge.counting.log_lines import (
    ABORTS,
    ENDS,
    SLOW_COLUMNS,
)
from sundog_edge.counting.unit_groups import UnitGroupCounts

KINDS = ("ok", "failed", "aborted")
KIND_OF_END = {name: "ok" if name == "ok" else "aborted" if name in ABORTS else "failed" for name in ENDS}
STICKY_UNIT = "sticky"
ASSIGNED_ORIGIN = "assigned"
TIMED_ENDS = frozenset({"ok", "client4xx", "throttled", *ABORTS})
"""Ends that can be slow. Who gives up has waited for so long at least; failures are counted as what they are."""
ROW_COLUMNS = (*ENDS, SLOW_COLUMNS[0], "firstAttemptFailed", *SLOW_COLUMNS[1:])
"""What the blocks of a row count."""
SLOW, *SLOW_FURTHER = map(ROW_COLUMNS.index, SLOW_COLUMNS)
FIRST_ATTEMPT_FAILED = ROW_COLUMNS.index("firstAttemptFailed")


class TableEntry(NamedTuple):
    """One entry of HAProxy's table: requests counted so far, and requests running."""

    assigned: int
    running: int


StickTable = Mapping[str, TableEntry]


def _by_kind() -> dict[str, list[int]]:
    return {kind: [] for kind in KINDS}


@dataclass(slots=True)
class RowCounters:
    """The counters of one row. Histograms as in `histogram`; `duration_us` is the sum of the total times that they hold.

    `changed` is the instant of the last change in Unix seconds. `written_off` is what of `lost` only the end of the worker says.
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
        """Requests for which the row was chosen: HAProxy's count as last read, or what lines have proved since."""
        return max(self.highest, self.ended + self.lost)

    @property
    def in_flight(self) -> int:
        """Requests that have neither ended nor been lost."""
        return self.assigned - self.ended - self.lost

    def write_off(self) -> None:
        """What is in flight never ends."""
        self.written_off += self.in_flight
        self.lost += self.in_flight

    def take_back(self, most: int) -> None:
        """So many of those written off have ended after all, or run on."""
        back = min(most, self.written_off)
        self.written_off -= back
        self.lost -= back

    def settle(self, seen: TableEntry) -> None:
        """Raise `lost` to what a table entry proves, all lines before it having come."""
        self.highest = max(self.highest, seen.assigned)
        self.lost = max(self.lost, seen.assigned - seen.running - self.ended)

    def merge(self, other: "RowCounters") -> None:
        """Add the counts of another boot or edge; requests in flight there stay in flight here."""
        self.highest = self.assigned + other.assigned
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for end, count in other.ends.items():
            self.ends[end] += count
        for kind in KINDS:
            histogram.merge(self.ttfb[kind], other.ttfb[kind])
            histogram.merge(self.total[kind], other.total[kind])
        self.changed = max(self.changed, other.changed)
        self.blocks.merge(other.blocks.rows())
        grouping.merge(self.groups, grouping.to_rows(other.groups))

    def as_json(self) -> dict[str, Any]:
        """For the snapshot: what is cumulative."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in _DETAILS}

    def details_as_json(self) -> dict[str, Any]:
        """For the snapshot: blocks and groups."""
        return {"blocks": self.blocks.rows(), "groups": grouping.to_rows(self.groups)}

    def add_details(self, stored: Mapping[str, Any]) -> None:
        """Add what `details_as_json` gave."""
        self.blocks.merge(stored["blocks"])
        grouping.merge(self.groups, stored["groups"])


_DETAILS = ("blocks", "groups")
_SUMS = (
    "lost",
    "ended",
    "first_attempt_failed",
    "retries",
    "redispatched",
    "rescued",
    "poison",
    "served_elsewhere",
    *SLOW_COLUMNS,
    "duration_us",
)


class RowKey(NamedTuple):
    """A row's key taken apart."""

    service: str
    attempt: str
    epoch: int
    arm: str
    origin: str
    unit: str

    @classmethod
    def of(cls, key: str) -> "RowKey":
        """Raises ValueError for a key of another shape."""
        service, attempt, epoch, arm, origin, unit = key.split("/")
        return cls(service, attempt, int(epoch), arm, origin, unit)
