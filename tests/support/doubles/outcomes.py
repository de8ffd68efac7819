"""A store of outcomes in memory, which the edge's own code exports."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field

from sundog_edge.errors import EdgeError
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome


@dataclass(frozen=True)
class Tallied:
    id: str
    tallies: Mapping[str, Mapping[str, int]]


@dataclass
class MemoryOutcomes:
    """A store with the same data for every attempt. It fails after so many exposures; its sequence rises by `grows` with each read."""

    exposed: list[ExportedExposure] = field(default_factory=list)
    told: list[ExportedOutcome] = field(default_factory=list)
    sequence: int = 7
    grows: int = 0
    events: int | None = None
    fails_after: int | None = None
    asked: list[str] = field(default_factory=list)

    async def read(self, attempts: Collection[str]) -> Tallied:
        if self.fails_after == 0:
            raise EdgeError("the store is away")
        self.asked += attempts
        self.sequence += self.grows
        events = len(self.told) if self.events is None else self.events
        tally = {"sequence": self.sequence, "events": events, "units": len(self.exposed)}
        return Tallied("s1", dict.fromkeys(attempts, tally))

    async def exposures(self, _attempt: str) -> AsyncIterator[ExportedExposure]:
        for number, each in enumerate(self.exposed):
            if number == self.fails_after:
                raise EdgeError("the store went away")
            yield each

    async def outcomes(self, _attempt: str) -> AsyncIterator[ExportedOutcome]:
        for each in self.told:
            yield each


def section(attempt: str, store: str, tally: Mapping[str, int]) -> dict[str, object]:
    """Return the counts that the evidence document has."""
    exposed = [[1, "control", tally["units"]]]
    return {"attempt": attempt, "store": store, "sequence": tally["sequence"], "exposed": exposed, "squares": 2**70}
