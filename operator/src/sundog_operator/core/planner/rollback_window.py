"""Which revisions were stable before, and which of them may return without steps.

What is remembered is a way back: who goes back to a revision leaves those that came after it, and has a reason to. A revision that had
traffic as a candidate and lost it is forgotten too, however long it was stable once.
"""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import Rollout

MAX_STABLE_HISTORY: Final = 20
"""As many as `rollbackWindow.revisions` can ask for."""


def record_promotion(before: Sequence[int], left: int | None, number: int) -> tuple[int, ...]:
    """Revisions that were stable, the newest first, once `number` is stable in place of `left`."""
    if number in before:
        return tuple(before[before.index(number) + 1 :])
    return tuple(before if left in (None, number) else (left, *before))[:MAX_STABLE_HISTORY]


def forget_revision(before: Sequence[int], number: int) -> tuple[int, ...]:
    """The same, once `number` turned out to be none to go back to."""
    return tuple(each for each in before if each != number)


def revisions_in_window(rollout: Rollout, before: Sequence[int]) -> tuple[int, ...]:
    """The revisions that may return without steps."""
    limits = rollout.rollback_window
    return tuple(before[: limits.revisions]) if limits is not None else ()


def fast_rollback_reason(number: int) -> str:
    """Why a rollout of that revision has no steps."""
    return f"returns to revision {number}, within rollbackWindow"
