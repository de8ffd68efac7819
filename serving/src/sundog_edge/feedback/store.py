"""The store of exposures and outcomes: one for all edges of a namespace. `open_store` opens one."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sundog_edge.feedback.join import OutcomeBatch

PAGE_ROWS = 1000
"""Rows of one read; there may be millions."""

RETENTION_S = 7 * 24 * 3600.0
"""A store removes an attempt that no split document has named for this long."""


COLLECTIONS = ("tally", "units", "keys", "totals", "events")
"""Names of an attempt's collections in a store."""


class ExportedExposure(NamedTuple):
    """The first exposure of a unit. `unit` is its hash, `us` is Unix time in microseconds."""

    unit: int
    us: int
    epoch: int
    arm: str


class ExportedOutcome(NamedTuple):
    """One accepted outcome, with the epoch and arm of its unit's first exposure.

    `value` is in millionths, `seconds` is Unix time, `properties` is a JSON object or empty.
    """

    unit: int
    metric: str
    epoch: int
    arm: str
    value: int
    seconds: int
    properties: str = ""


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """The id of a store, which is unique, and the tally of each requested attempt."""

    id: str
    tallies: Mapping[str, Mapping[str, int]]


class OutcomeStore(Protocol):
    """A store. Attempts are named `service/attempt`. Every method raises StoreUnavailable; then a write may have happened or not."""

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        """Join a batch with the stored state and write the change, in one atomic step.

        Return the result of each event once the change is written. It is safe to write a batch again: its events are duplicates then.
        """

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        """Return the present tallies; empty for an attempt without one."""

    async def name(self, attempts: Collection[str], now: float) -> None:
        """Note that these attempts are in a split document, and remove attempts that no document has named for RETENTION_S."""

    def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """Yield every stored first exposure; one may come more than once."""

    def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """Yield every stored accepted outcome, oldest first."""

    async def close(self) -> None:
        """Close connections."""


def pack_unit(unit: int) -> bytes:
    """Return a unit's hash as a store holds it."""
    return unit.to_bytes(8, "big")


def unpack_unit(stored: bytes) -> int:
    """Return the hash that `pack_unit` encoded."""
    return int.from_bytes(stored, "big")
