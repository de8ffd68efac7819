"""Counts per block of ten seconds of arrival, for one hour. The dispersion of outcomes is measured on them. Pure."""

from array import array
from collections.abc import Iterable, Sequence

BLOCK_S = 10
RETAINED_BLOCKS = 360
MAX_BLOCKS_AHEAD = 6
"""Blocks that a line may be ahead of the agent's clock: HAProxy reads the same clock at another moment."""


class TimeBlockCounts:
    """`width` counts for each of the last RETAINED_BLOCKS blocks. A block is Unix time divided by BLOCK_S.

    Counts of older blocks are ignored, so the order of lines does not change any retained block. A block more than MAX_BLOCKS_AHEAD
    ahead of the clock is not valid: as the newest block it would displace all others until the clock reaches it.
    """

    __slots__ = ("_counts", "newest", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.newest = 0
        self._counts = array("Q")

    def add(self, block: int, column: int, count: int, present: int | None = None) -> None:
        """Add to one count of one block.

        `present` is the block of the clock, if known. Then counts of blocks too far ahead of it are removed, and such a new block counts as
        the present one.
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
        zeros = array("Q", bytes(8 * self.width))
        for block in range(max(after, last - RETAINED_BLOCKS) + 1, last + 1):
            start = block % RETAINED_BLOCKS * self.width
            self._counts[start : start + self.width] = zeros

    def rows(self, oldest: int = 0) -> list[list[int]]:
        """Return `[block, count, …]` of every block from `oldest` on with a count other than 0, ascending."""
        if not self._counts:
            return []
        rows = []
        for block in range(max(oldest, self.newest - RETAINED_BLOCKS + 1, 0), self.newest + 1):
            start = block % RETAINED_BLOCKS * self.width
            counts = self._counts[start : start + self.width].tolist()
            if any(counts):
                rows.append([block, *counts])
        return rows

    def merge(self, rows: Iterable[Sequence[int]]) -> None:
        """Add the rows of another TimeBlockCounts."""
        for block, *counts in rows:
            for column, count in enumerate(counts):
                if count:
                    self.add(block, column, count)
