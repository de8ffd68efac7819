"""Set of unit hashes that takes little memory."""

from array import array
from typing import Final

_MIN_SLOTS: Final = 1024
_MAX_EXPECTED_SLOTS: Final = 2**22
"""Most slots that are allocated in advance; a power of two, as every size is. The table grows when it needs more."""


class SeenUnits:
    """Set of 64-bit hashes in an open-addressing table, with 12 to 24 bytes each; a Python set takes about a hundred.

    The table has space for `expected` hashes at once, because growing takes time.
    """

    def __init__(self, expected: int = 0) -> None:
        size = _MIN_SLOTS
        while size < _MAX_EXPECTED_SLOTS and 3 * expected > 2 * size:
            size *= 2
        self._slots = array("Q", bytes(8 * size))
        self._count = 0
        # In the table, 0 is an empty slot.
        self._has_zero = False

    def add(self, unit: int) -> bool:
        """Add a hash and return whether it is new. Raises OverflowError for a number of more than 64 bits."""
        if unit == 0:
            new, self._has_zero = not self._has_zero, True
            return new
        slot = self._slot_of(unit)
        if self._slots[slot]:
            return False
        self._slots[slot] = unit
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._grow()
        return True

    def _slot_of(self, unit: int) -> int:
        """Return the slot of a hash, or the empty slot that it would take."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = unit & mask
        while (found := slots[slot]) and found != unit:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old = self._slots
        self._slots = array("Q", bytes(16 * len(old)))
        for unit in old:
            if unit:
                self._slots[self._slot_of(unit)] = unit
