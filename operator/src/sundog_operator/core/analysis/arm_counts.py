"""Counters of one arm."""

from typing import NamedTuple

from sundog_operator.core.analysis.feedback import FeedbackSums as FeedbackSums


class ArmCounts(NamedTuple):
    """Requests of one arm in one epoch, cumulative.

    Attributes:
        assigned: all of them.
        errors: those that failed, as `ERRORS` has it.
        slow: those that took long by the first latency of the plan, answered or given up by the client.
        rejections: those that were refused or given up, as `REJECTIONS` has it.
        retried: those whose first replica did not answer, whatever became of them.
        lost: those that have ended, nobody knows how.
        running: those that have not ended, when that was last told.
        slow2: those that took long by its second latency.
        slow3: those that took long by its third.
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
        """Both together."""
        return ArmCounts(*map(sum, zip(self, other, strict=True)))

    def merge_newer(self, newer: "ArmCounts") -> "ArmCounts":
        """The higher of each count; of what runs the newer, and of what is lost too: a request may turn out to run still, or to have ended.

        Who has forgotten assignments may have forgotten losses as well: of those the higher then.
        """
        lost = newer.lost if newer.assigned >= self.assigned else max(self.lost, newer.lost)
        return ArmCounts(*map(max, self, newer))._replace(running=newer.running, lost=lost)

    def written_off(self) -> "ArmCounts":
        """What runs is lost."""
        return self._replace(lost=self.lost + self.running, running=0)
