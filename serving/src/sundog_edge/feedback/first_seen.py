"""Which units the lines of one attempt show for the first time, until the store has them. Pure, and bounded whatever clients send."""

from collections.abc import Mapping
from itertools import islice

from sundog_edge.feedback.join import FirstExposure

MAX_REMEMBERED_UNITS = 200_000
"""Units known to be in the store, of those asked for lately; one that is forgotten here is asked for once more there."""

MAX_WAITING_UNITS = 100_000
"""Units that the store does not have yet, while it is away or slow."""

FULL_SHARE_ATTEMPTS = 4
"""Attempts that may have so much each; where there are more they share what these have: about 50 MB each."""

WRITE_BATCH_UNITS = 5_000
"""Units of one write."""


class FirstExposureTracker:
    """First exposures of one attempt's sticky units.

    What the store has is remembered in two generations: the older is dropped as a whole when the younger is full, and a unit that
    comes again moves to the younger. That costs one look-up per request.

    Requests of epochs before `since` are none: lines of them still come when outcomes are asked for, and who was first in a warm-up would
    count nowhere, whatever he does later.
    """

    __slots__ = ("_old", "_since", "_young", "dropped", "remembered", "waiting", "waits")

    def __init__(
        self, remembered: int = MAX_REMEMBERED_UNITS, waiting: int = MAX_WAITING_UNITS, since: int = 0
    ) -> None:
        self._since = since
        self.remembered = remembered
        self.waits = waiting
        self.dropped = 0
        self.waiting: dict[int, FirstExposure] = {}
        self._young: set[int] = set()
        self._old: set[int] = set()

    def share(self, attempts: int) -> None:
        """Hold no more than one of so many attempts may."""
        self.remembered = max(1, MAX_REMEMBERED_UNITS * FULL_SHARE_ATTEMPTS // max(FULL_SHARE_ATTEMPTS, attempts))
        self.waits = max(1, MAX_WAITING_UNITS * FULL_SHARE_ATTEMPTS // max(FULL_SHARE_ATTEMPTS, attempts))

    def see(self, unit: int, us: int, epoch: int, arm: str) -> None:
        """Take note of one request of a unit."""
        if unit in self._young:
            return
        if unit in self._old:
            self._remember(unit)
            return
        if epoch < self._since:
            return
        known = self.waiting.get(unit)
        if known is None and len(self.waiting) >= self.waits:
            # Not remembered: if the unit comes again there may be room.
            self.dropped += 1
        elif known is None or us < known.us:
            self.waiting[unit] = FirstExposure(us, epoch, arm)

    def some(self) -> tuple[dict[int, FirstExposure], int]:
        """Exposures for one write, the longest waiting first, and how many could not be kept; both stay until `written`."""
        return dict(islice(self.waiting.items(), WRITE_BATCH_UNITS)), self.dropped

    def written(self, firsts: Mapping[int, FirstExposure], dropped: int) -> None:
        """The store has them."""
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
        """How many units are in memory."""
        return len(self.waiting) + len(self._young) + len(self._old)
