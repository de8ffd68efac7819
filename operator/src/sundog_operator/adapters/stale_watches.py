"""Detects stale watches: they stay open, and do not deliver changes that lists find."""

from collections import Counter
from typing import Final

from sundog_operator.ports import Kind

RESTART_THRESHOLD: Final = 2
"""Lists in a row with changes that the watch did not deliver. A single list may be a moment ahead of its watch."""
FAILURE_THRESHOLD: Final = 4
"""The same count at which the process must restart: the watches were restarted before, and that did not help."""


class StaleWatchDetector:
    """Counts, per kind, the lists in a row that found changes while the watch delivered none."""

    def __init__(self) -> None:
        self._silent: Counter[Kind] = Counter()

    def record_change(self, kind: Kind) -> None:
        """Note that the watch of a kind delivered a change."""
        self._silent.pop(kind, None)

    def record_list(self, kind: Kind, missed: int) -> bool:
        """Note that a list found `missed` changes that the watch had not delivered. Return whether to restart the watches now."""
        if not missed:
            self._silent.pop(kind, None)
            return False
        self._silent[kind] += 1
        return self._silent[kind] == RESTART_THRESHOLD

    def problem(self) -> str:
        """Return one line with the kinds whose watches stay stale; empty while there are none."""
        kinds = sorted(kind.plural for kind, lists in self._silent.items() if lists >= FAILURE_THRESHOLD)
        return f"stale watches: {', '.join(kinds)}; lists find changes that they do not deliver" if kinds else ""
