"""Requests and events of sampled sticky units in each epoch and arm of an attempt. Pure.

A unit is in the sample if its unsalted 64-bit hash is below a threshold τ, as in `unit_sample`, but this sample is larger and has no times.
It needs about 20 bytes for each row in the evidence: a row is a unit's counts in one epoch and arm, and sticky units have one arm an epoch.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting.log_lines import ENDS, ERRORS, SLOW_COLUMNS

FULL_TAU = 1 << 64
MAX_ROWS = 40_000
"""Rows of an attempt: 10 000 units in four epochs."""

TOTAL_ROWS_BUDGET = 120_000
"""Rows over all attempts of an edge, some 30 MB of memory. With many attempts, each holds fewer."""

MIN_ROWS = 500
COLUMNS = ("requests", "errors", SLOW_COLUMNS[0], "rejections", "firstAttemptFailed", *SLOW_COLUMNS[1:])
REQUESTS, FIRST_ATTEMPT_FAILED = map(COLUMNS.index, ("requests", "firstAttemptFailed"))
SLOW_PLACES = tuple(map(COLUMNS.index, SLOW_COLUMNS))
COLUMN_OF_END = {end: COLUMNS.index("errors" if end in ERRORS else "rejections") for end in ENDS if end != "ok"}
_ROW = struct.Struct(f"<Q{len(COLUMNS)}I")
_MAX_COUNT = (1 << 32) - 1
_LEVEL = 1

UnitRows = dict[int, list[int]]
"""Unit hash → counts in the order of COLUMNS."""


@dataclass(slots=True)
class UnitCounts:
    """The rows of the units below `tau`, by (epoch, arm).

    Attributes:
        size: number of rows.
        limit: number of rows above which `tau` halves.
    """

    tau: int = FULL_TAU
    rows: dict[tuple[int, str], UnitRows] = field(default_factory=dict)
    size: int = 0
    limit: int = MAX_ROWS

    def of(self, epoch: int, arm: str) -> UnitRows:
        """Return the rows of an epoch and arm; add them if they are new."""
        return self.rows.setdefault((epoch, arm), {})

    def get_or_add_row(self, rows: UnitRows, number: int) -> list[int]:
        """Return the counts of the unit with this hash in some of the rows; add them if they are new. The hash must be below `tau`."""
        found = rows.get(number)
        if found is None:
            found = rows[number] = [0] * len(COLUMNS)
            self.size += 1
            self.shrink(self.limit)
        return found

    def shrink(self, limit: int) -> None:
        """Set the limit of rows, and reduce the sample to it."""
        self.limit = limit
        while self.size > limit:
            self.tau //= 2
            for rows in self.rows.values():
                # The ledger adds to these rows, so they stay the same objects.
                for number in [number for number in rows if number >= self.tau]:
                    del rows[number]
            self.size = sum(map(len, self.rows.values()))

    @property
    def has_one_arm(self) -> bool:
        """Whether all requests were of one arm, so that no unit met another one."""
        return len({arm for (_, arm), rows in self.rows.items() if rows}) == 1

    def as_json(self) -> dict[str, Any]:
        """Return τ, the columns, and `[epoch, arm, rows]`: packed by zlib and Base64, each the hash and a uint32 for each column."""
        return {
            "tau": f"{self.tau:x}",
            "columns": COLUMNS,
            "rows": [[epoch, arm, _pack(rows)] for (epoch, arm), rows in sorted(self.rows.items()) if rows],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "UnitCounts":
        """Return the counts that `as_json` gave; no rows if they have other columns, as those of another version."""
        if tuple(stored["columns"]) != COLUMNS:
            return cls()
        rows = {(epoch, arm): dict(_unpack(packed)) for epoch, arm, packed in stored["rows"]}
        return cls(int(stored["tau"], 16), rows, sum(map(len, rows.values())))


def _pack(rows: UnitRows) -> str:
    ordered = (_ROW.pack(number, *(min(count, _MAX_COUNT) for count in rows[number])) for number in sorted(rows))
    return base64.b64encode(zlib.compress(b"".join(ordered), _LEVEL)).decode()


def _unpack(packed: str) -> Iterable[tuple[int, list[int]]]:
    for number, *counts in _ROW.iter_unpack(zlib.decompress(base64.b64decode(packed))):
        yield number, counts


def rows_per_attempt(attempts: int) -> int:
    """Return how many rows each of so many attempts may hold."""
    return max(MIN_ROWS, min(MAX_ROWS, TOTAL_ROWS_BUDGET // max(1, attempts)))
