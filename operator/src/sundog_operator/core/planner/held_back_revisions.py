"""What is not rolled out again: revisions that were aborted or rolled back. Pure.

Several may be held back at a time, for an edit may come back to one of them while another is under way, or has failed as well.
"""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import LastRollout, ModelDeploymentStatus

HELD_OUTCOMES: Final = ("Aborted", "RolledBack")
MAX_HOLDS: Final = 10


def is_failed_rollout(last: LastRollout | None) -> bool:
    """Whether a rollout ended without its revision."""
    return last is not None and last.outcome in HELD_OUTCOMES


def find_hold(status: ModelDeploymentStatus, number: int) -> LastRollout | None:
    """What a revision is held back for; None where it is not."""
    found = next((each for each in status.held_back if each.revision == number), None)
    last = status.last_rollout
    return last if found is None and last is not None and last.revision == number and is_failed_rollout(last) else found


def add_hold(before: Sequence[LastRollout], last: LastRollout) -> tuple[LastRollout, ...]:
    """Those that are held back, the newest last, once that one is too."""
    return (*remove_hold(before, last.revision), last)[-MAX_HOLDS:]


def remove_hold(before: Sequence[LastRollout], number: int) -> tuple[LastRollout, ...]:
    """The same without one."""
    return tuple(each for each in before if each.revision != number)
