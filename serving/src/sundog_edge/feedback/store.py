"""Where exposures and outcomes are kept: one store for all edges of a namespace. `opening` opens one."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome
from sundog_edge.feedback.join import OutcomeBatch

PAGE_ROWS = 1000
"""Rows that are read at once of what may be millions."""

RETENTION_S = 7 * 24 * 3600.0
"""An attempt that no split document has named for so long is removed."""


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """What a store holds: its id, which another store never has, and the tally of each attempt that was asked for."""

    id: str
    tallies: Mapping[str, Mapping[str, int]]


class OutcomeStore(Protocol):
    """Attempts are named `service/attempt`. Every method raises StoreUnavailable; whether a write was made before that is not known."""

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        """Join a batch with what is known and write what comes of it, in one step that no other edge sees half of.

        Returns once it is written, with the result of each event. To write a batch again is harmless: its events are duplicates then.
        """

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        """The tallies as they are now; empty for an attempt that has none."""

    async def name(self, attempts: Collection[str], now: float) -> None:
        """Note that these attempts are in a split document, and remove those that have been in none for FORGOTTEN_AFTER_S."""

    def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """Every first exposure that is kept; one may come more than once."""

    def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """Every accepted outcome that is kept, the oldest first."""

    async def close(self) -> None:
        """Let go of connections."""


def pack_unit(unit: int) -> bytes:
    """A unit's hash as a store holds it."""
    return unit.to_bytes(8, "big")


def unpack_unit(stored: bytes) -> int:
    """The hash that `packed` has made so."""
    return int.from_bytes(stored, "big")
