"""Held-back revisions: aborted or rolled back, and not rolled out again. Pure.

Several may be held back at a time. An edit may go back to one of them while another rolls out, or after it failed too.
"""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import LastRollout, ModelDeploymentStatus
from sundog_operator.api.reasons import EndReason

HELD_OUTCOMES: Final = ("Aborted", "RolledBack")
MAX_HOLDS: Final = 10
_LOST_NODES: Final = (EndReason.CAPACITY_LOST, EndReason.SPOT_RECLAIMED)


def is_failed_rollout(last: LastRollout | None) -> bool:
    """Whether a rollout was aborted or rolled back. The loss of its nodes or quota says nothing about the revision."""
    return last is not None and last.outcome in HELD_OUTCOMES and not has_lost_nodes(last)


def has_lost_nodes(last: LastRollout) -> bool:
    """Whether a rollout ended because its nodes or its quota went away."""
    return last.code in _LOST_NODES


def find_hold(status: ModelDeploymentStatus, number: int) -> LastRollout | None:
    """Return the rollout for which a revision is held back; None if it is not held back."""
    found = next((each for each in status.held_back if each.revision == number), None)
    last = status.last_rollout
    return last if found is None and last is not None and last.revision == number and is_failed_rollout(last) else found


def add_hold(before: Sequence[LastRollout], last: LastRollout) -> tuple[LastRollout, ...]:
    """Return the holds with a new one, the newest last."""
    return (*remove_hold(before, last.revision), last)[-MAX_HOLDS:]


def remove_hold(before: Sequence[LastRollout], number: int) -> tuple[LastRollout, ...]:
    """Return the holds without those of a revision."""
    return tuple(each for each in before if each.revision != number)
