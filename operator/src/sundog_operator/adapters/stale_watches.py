"""Which watches are deaf: open, as it seems, and silent about changes that lists find."""

from collections import Counter
from typing import Final

from sundog_operator.ports import Kind

RESTART_THRESHOLD: Final = 2
"""Lists in a row with changes that a watch told nothing of. One may be a moment ahead of its watch."""
FAILURE_THRESHOLD: Final = 4
"""As many although the watches began anew in between: what is left is a new process."""


class StaleWatchDetector:
    """Counts, per kind, the lists in a row that found changes while its watch told nothing."""

    def __init__(self) -> None:
        self._silent: Counter[Kind] = Counter()

    def heard(self, kind: Kind) -> None:
        """Its watch told of a change."""
        self._silent.pop(kind, None)

    def listed(self, kind: Kind, missed: int) -> bool:
        """A list found so many changes that were not known. Whether it is time to begin the watches anew."""
        if not missed:
            self._silent.pop(kind, None)
            return False
        self._silent[kind] += 1
        return self._silent[kind] == RESTART_THRESHOLD

    def problem(self) -> str:
        """The kinds whose watches cannot be helped, in one line; empty while there are none."""
        kinds = sorted(kind.plural for kind, lists in self._silent.items() if lists >= FAILURE_THRESHOLD)
        return f"lists find changes that the watch does not tell: {', '.join(kinds)}" if kinds else ""
