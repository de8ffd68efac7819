"""A sample of the sticky units of one attempt: the first exposure of each unit, and its first event of each kind. Pure.

A unit is in the sample if its unsalted 64-bit hash is below a threshold τ. Every edge uses the same hash, so samples of several edges or
boots can be merged: the smallest τ, the union of units, the earliest of each first event. When a sample exceeds its limit, τ halves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sundog_edge.counting.log_lines import ENDS, ERRORS
from sundog_edge.counting.unit_counts import FULL_TAU, UnitCounts, rows_per_attempt

MAX_UNITS = 1000
TOTAL_UNITS_BUDGET = 50_000
"""Units over all samples of an edge. With many samples, each holds fewer."""

MIN_UNITS = 50
EVENT_OF_END = {
    **dict.fromkeys(ERRORS, "error"),
    "client4xx": "client4xx",
    "throttled": "throttled",
    "abortBefore": "abort",
    "abortDuring": "abort",
}
assert {*EVENT_OF_END} == {*ENDS} - {"ok"}

Arrival = tuple[int, int, str]
"""(arrival in Unix microseconds, epoch, arm): ordered by time, so the least is the earliest; ties are resolved too."""


@dataclass(slots=True)
class SampledUnit:
    """One unit: its first exposure, its number of ended requests, and its first event of each kind."""

    first: Arrival
    n: int = 0
    events: dict[str, Arrival] = field(default_factory=dict)


@dataclass(slots=True)
class UnitSample:
    """The units below `tau`, by hash, and the counts of a larger sample of the same units."""

    tau: int = FULL_TAU
    units: dict[int, SampledUnit] = field(default_factory=dict)
    limit: int = MAX_UNITS
    counts: UnitCounts = field(default_factory=UnitCounts)

    def observe(self, number: int, moment: Arrival, events: tuple[str, ...]) -> None:
        """Count one ended request of the unit with this hash. The hash must be below `tau`."""
        unit = self.units.get(number)
        if unit is None:
            unit = self.units[number] = SampledUnit(moment)
        unit.first = min(unit.first, moment)
        unit.n += 1
        for kind in events:
            unit.events[kind] = min(unit.events.get(kind, moment), moment)
        if len(self.units) > self.limit:
            self.shrink(self.limit)

    def share_budget(self, samples: int) -> None:
        """Reduce the sample to its part of the edge's budgets, if the edge has so many samples."""
        self.shrink(units_per_sample(samples))
        self.counts.shrink(rows_per_attempt(samples))

    def shrink(self, limit: int) -> None:
        """Set the limit of units, and reduce the sample to it."""
        self.limit = limit
        while len(self.units) > limit:
            self.tau //= 2
            self.units = {number: unit for number, unit in self.units.items() if number < self.tau}

    def as_json(self) -> dict[str, Any]:
        """Return τ and `[hash, [µs, epoch, arm], n, {event: [µs, epoch, arm]}]` of every unit, by hash, and the counts.

        Hashes are hexadecimal.
        """
        units = [
            [f"{number:016x}", [*unit.first], unit.n, {kind: [*unit.events[kind]] for kind in sorted(unit.events)}]
            for number, unit in sorted(self.units.items())
        ]
        return {"tau": f"{self.tau:x}", "units": units, "counts": self.counts.as_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "UnitSample":
        """Return the sample that `as_json` gave."""
        units = {
            int(number, 16): SampledUnit(tuple(first), n, {kind: tuple(moment) for kind, moment in events.items()})
            for number, first, n, events in stored["units"]
        }
        # An older agent has not written counts.
        counts = UnitCounts.from_json(stored["counts"]) if "counts" in stored else UnitCounts()
        return cls(int(stored["tau"], 16), units, counts=counts)


def units_per_sample(samples: int) -> int:
    """Return how many units each of so many samples may hold."""
    return max(MIN_UNITS, min(MAX_UNITS, TOTAL_UNITS_BUDGET // max(1, samples)))
