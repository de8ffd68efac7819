"""Counts per block of ten seconds of arrival, one hour kept: what the dispersion of outcomes is measured on. Pure."""

from array import array
from collections.abc import Iterable, Sequence

SECONDS = 10
KEPT = 360


class Blocks:
    """`width` counts for each of the last KEPT blocks. A block is a UTC instant divided by SECONDS.

    What arrives more than KEPT blocks before the newest is left out, so in which order lines come makes no difference to any block kept.
    """

    __slots__ = ("_counts", "newest", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.newest = 0
        self._counts = array("Q")

    def add(self, block: int, column: int, count: int) -> None:
        """Add to one count of one block."""
        if block > self.newest:
            self._advance(block)
        elif block <= self.newest - KEPT:
            return
        self._counts[block % KEPT * self.width + column] += count

    def _advance(self, block: int) -> None:
        width = self.width
        if not self._counts or block >= self.newest + KEPT:
            self._counts = array("Q", bytes(8 * KEPT * width))
        else:
            nothing = array("Q", bytes(8 * width))
            for passed in range(self.newest + 1, block + 1):
                start = passed % KEPT * width
                self._counts[start : start + width] = nothing
        self.newest = block

    def rows(self, oldest: int = 0) -> list[list[int]]:
        """`[block, count, …]` of every block from `oldest` on that is not all zero, ascending."""
        if not self._counts:
            return []
        found = []
        for block in range(max(oldest, self.newest - KEPT + 1, 0), self.newest + 1):
            start = block % KEPT * self.width
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
