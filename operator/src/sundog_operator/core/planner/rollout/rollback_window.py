"""The rollback window: earlier stable revisions, and those that may become stable again without steps.

A rollback to a revision removes the revisions after it from the history. A revision that lost its traffic as a candidate is
removed too, even if it was stable for long.
"""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import Rollout

MAX_STABLE_HISTORY: Final = 20
"""The maximum of `rollbackWindow.revisions`."""


def record_promotion(before: Sequence[int], previous: int | None, number: int) -> tuple[int, ...]:
    """Return the earlier stable revisions, the newest first, after `number` replaced `previous`."""
    if number in before:
        return tuple(before[before.index(number) + 1 :])
    return tuple(before if previous in (None, number) else (previous, *before))[:MAX_STABLE_HISTORY]


def forget_revision(before: Sequence[int], number: int) -> tuple[int, ...]:
    """Return the earlier stable revisions without `number`."""
    return tuple(each for each in before if each != number)


def revisions_in_window(rollout: Rollout, before: Sequence[int]) -> tuple[int, ...]:
    """Return the revisions that may become stable again without steps."""
    limits = rollout.rollback_window
    return tuple(before[: limits.revisions]) if limits is not None else ()


def fast_rollback_reason(number: int) -> str:
    """Return why a rollout of that revision has no steps."""
    return f"returns to revision {number}, within rollbackWindow"
