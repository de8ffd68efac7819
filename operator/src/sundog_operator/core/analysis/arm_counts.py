"""Counters of one arm."""

from typing import NamedTuple


class ArmCounts(NamedTuple):
    """Requests of one arm in one epoch, cumulative.

    Attributes:
        assigned: all requests.
        errors: failed requests, as `ERRORS` defines them.
        slow: requests slower than the plan's first latency threshold, answered or given up by the client.
        rejections: requests that were rejected or given up, as `REJECTIONS` defines them.
        retried: requests whose first replica did not answer, whatever their result.
        lost: requests that have ended with an unknown outcome.
        running: requests that had not ended at the last report.
        slow2: requests slower than the second latency threshold.
        slow3: requests slower than the third one.
    """

    assigned: int = 0
    errors: int = 0
    slow: int = 0
    rejections: int = 0
    retried: int = 0
    lost: int = 0
    running: int = 0
    slow2: int = 0
    slow3: int = 0

    def plus(self, other: "ArmCounts") -> "ArmCounts":
        """Return the sum of both."""
        return ArmCounts(*map(sum, zip(self, other, strict=True)))

    def merge_newer(self, newer: "ArmCounts") -> "ArmCounts":
        """Merge a newer report: take the higher of each count, but the newer `running` and `lost`.

        A lost request may still run, or have ended. A source that forgot assignments may have forgotten losses too; then `lost` is the
        higher one.
        """
        lost = newer.lost if newer.assigned >= self.assigned else max(self.lost, newer.lost)
        return ArmCounts(*map(max, self, newer))._replace(running=newer.running, lost=lost)

    def with_running_lost(self) -> "ArmCounts":
        """Count running requests as lost."""
        return self._replace(lost=self.lost + self.running, running=0)
