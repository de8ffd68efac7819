"""First exposures of the units in the lines of one attempt, until the store has them. Pure, and bounded whatever clients send."""

from collections.abc import Mapping
from itertools import islice

from sundog_edge.feedback.join import FirstExposure

MAX_REMEMBERED_UNITS = 200_000
"""Recent units that are remembered to be in the store. A unit that is forgotten here is written to the store once more."""

MAX_WAITING_UNITS = 100_000
"""Units that wait while the store is away or slow."""

FULL_SHARE_ATTEMPTS = 4
"""Attempts that get these limits in full, about 50 MB each. More attempts share the same memory."""

WRITE_BATCH_UNITS = 5_000
"""Units of one write to the store."""


class FirstExposureTracker:
    """First exposures of one attempt's sticky units.

    The tracker remembers the units in the store in two generations. When the younger is full, the older is dropped as a whole; a unit that
    comes again moves to the younger. That costs one look-up per request.

    Requests of epochs before `since` are ignored. Their lines still come after outcomes are configured, and a unit first exposed in a
    warm-up would never count.
    """

    __slots__ = ("_old", "_since", "_young", "dropped", "max_waiting", "remembered", "waiting")

    def __init__(
        self, remembered: int = MAX_REMEMBERED_UNITS, waiting: int = MAX_WAITING_UNITS, since: int = 0
    ) -> None:
        self._since = since
        self.remembered = remembered
        self.max_waiting = waiting
        self.dropped = 0
        self.waiting: dict[int, FirstExposure] = {}
        self._young: set[int] = set()
        self._old: set[int] = set()

    def share(self, attempts: int) -> None:
        """Set the limits for one of so many attempts."""
        sharing = max(FULL_SHARE_ATTEMPTS, attempts)
        self.remembered = max(1, MAX_REMEMBERED_UNITS * FULL_SHARE_ATTEMPTS // sharing)
        self.max_waiting = max(1, MAX_WAITING_UNITS * FULL_SHARE_ATTEMPTS // sharing)

    def observe(self, unit: int, us: int, epoch: int, arm: str) -> None:
        """Record one request of a unit."""
        if unit in self._young:
            return
        if unit in self._old:
            self._remember(unit)
            return
        if epoch < self._since:
            return
        known = self.waiting.get(unit)
        if known is None and len(self.waiting) >= self.max_waiting:
            # The unit is not remembered: if it comes again, there may be space.
            self.dropped += 1
        elif known is None or us < known.us:
            self.waiting[unit] = FirstExposure(us, epoch, arm)

    def next_batch(self) -> tuple[dict[int, FirstExposure], int]:
        """Return exposures for one write, longest waiting first, and the count of dropped ones. Both stay until `mark_written`."""
        return dict(islice(self.waiting.items(), WRITE_BATCH_UNITS)), self.dropped

    def mark_written(self, firsts: Mapping[int, FirstExposure], dropped: int) -> None:
        """Note that the store has these exposures."""
        self.dropped -= dropped
        for unit in firsts:
            self.waiting.pop(unit, None)
            self._remember(unit)

    def _remember(self, unit: int) -> None:
        if 2 * len(self._young) >= self.remembered:
            self._old, self._young = self._young, set()
        self._young.add(unit)

    @property
    def held(self) -> int:
        """Number of units in memory."""
        return len(self.waiting) + len(self._young) + len(self._old)
