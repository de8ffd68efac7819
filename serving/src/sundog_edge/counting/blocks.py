"""Counts per block of ten seconds of arrival, one hour kept: what the dispersion of outcomes is measured on. Pure."""

from array import array
from collections.abc import Iterable, Sequence

BLOCK_S = 10
RETAINED_BLOCKS = 360
MAX_BLOCKS_AHEAD = 6
"""So many blocks ahead of the clock may be what HAProxy has stamped: it reads the same clock at another moment."""


class TimeBlockCounts:
    """`width` counts for each of the last KEPT blocks. A block is a UTC instant divided by SECONDS.

    What arrives more than KEPT blocks before the newest is left out, so in which order lines come makes no difference to any block kept.
    A block further than AHEAD ahead of the clock is none: kept as the newest it would leave out all others until the clock is there.
    """

    __slots__ = ("_counts", "newest", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.newest = 0
        self._counts = array("Q")

    def add(self, block: int, column: int, count: int, present: int | None = None) -> None:
        """Add to one count of one block.

        Where `present`, the block of the clock, is given, blocks that are too far ahead of it are forgotten, and this one counts there.
        """
        if present is not None:
            if self.newest > present + MAX_BLOCKS_AHEAD:
                self._go_back(present)
            if block > present + MAX_BLOCKS_AHEAD:
                block = present
        if block > self.newest or not self._counts:
            self._advance(block)
        elif block <= self.newest - RETAINED_BLOCKS:
            return
        self._counts[block % RETAINED_BLOCKS * self.width + column] += count

    def _advance(self, block: int) -> None:
        if not self._counts:
            self._counts = array("Q", bytes(8 * RETAINED_BLOCKS * self.width))
        self._clear(self.newest, block)
        self.newest = block

    def _go_back(self, block: int) -> None:
        self._clear(block, self.newest)
        self.newest = block

    def _clear(self, after: int, last: int) -> None:
        nothing = array("Q", bytes(8 * self.width))
        for block in range(max(after, last - RETAINED_BLOCKS) + 1, last + 1):
            start = block % RETAINED_BLOCKS * self.width
            self._counts[start : start + self.width] = nothing

    def rows(self, oldest: int = 0) -> list[list[int]]:
        """`[block, count, …]` of every block from `oldest` on that is not all zero, ascending."""
        if not self._counts:
            return []
        found = []
        for block in range(max(oldest, self.newest - RETAINED_BLOCKS + 1, 0), self.newest + 1):
            start = block % RETAINED_BLOCKS * self.width
            counts = self._counts[start : start + self.width].tolist()
            if any(counts):
                found.append([block, *counts])
        return found

    def merge(self, rows: Iterable[Sequence[int]]) -> None:
        """Add what `rows` of another gave."""
        for block, *counts in rows:
            for column, count in enumerate(counts):
                if count:
                    self.add(block, column, count)
