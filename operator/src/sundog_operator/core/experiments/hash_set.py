"""Which units were seen, by their hashes."""

from array import array
from typing import Final

_FIRST: Final = 1024
_MOST_AHEAD: Final = 2**22
"""Places: a power of two, as there always are. More are taken once they are needed."""


class SeenUnits:
    """Hashes of 64 bits in an open table, 12 to 24 bytes each; a set of numbers takes a hundred.

    There is room for as many as are expected, for to make more takes its time.
    """

    def __init__(self, expected: int = 0) -> None:
        places = _FIRST
        while places < _MOST_AHEAD and 3 * expected > 2 * places:
            places *= 2
        self._slots = array("Q", bytes(8 * places))
        self._count = 0
        # Stands for an empty place in the table.
        self._has_zero = False

    def add(self, unit: int) -> bool:
        """Whether it was not there before. Raises OverflowError for what is no hash of 64 bits."""
        if unit == 0:
            new, self._has_zero = not self._has_zero, True
            return new
        place = self._place(unit)
        if self._slots[place]:
            return False
        self._slots[place] = unit
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def _place(self, unit: int) -> int:
        """Where it is, or would be."""
        slots, mask = self._slots, len(self._slots) - 1
        place = unit & mask
        while (found := slots[place]) and found != unit:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        before = self._slots
        self._slots = array("Q", bytes(16 * len(before)))
        for unit in before:
            if unit:
                self._slots[self._place(unit)] = unit
