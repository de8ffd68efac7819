"""Whether a canary fails outright, which needs no statistics."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Final

from sundog_operator.core.analysis import blocks as analysis_blocks
from sundog_operator.core.analysis import (
    counters,
    unit_groups,
)
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits
from sundog_operator.core.analysis.blocks import Block, sum_arm_counts

_DEAD_BLOCKS: Final = 3
_DEAD_FAILURES: Final = 20
_DEAD_SHARE: Final = 0.5
_FINE_SHARE: Final = 0.1


def find_dead_arm(pair: ArmPair, limits: EvaluationLimits, seen: CollectedCounts) -> str:
    """Whether an arm fails most of what it gets while control does not: no statistics, and no wait for them.

    Requests that hang fail when their time is over, and count for when they came: so blocks are looked at that are as old as that.
    """
    newest = int(seen.now_s - analysis_blocks.GRACE_S) // analysis_blocks.BLOCK_S
    oldest = newest - _DEAD_BLOCKS - math.ceil(seen.timeout_s / analysis_blocks.BLOCK_S) - 1
    run: list[Sequence[Block]] = []
    for number in range(oldest, newest):
        own = [blocks[number] for blocks in seen.blocks.values() if number in blocks]
        run = [*run, own] if _is_dead(pair, own) else []
        if len(run) == _DEAD_BLOCKS and (not limits.has_sticky_units or _fails_for_many(pair, seen)):
            arm = sum_arm_counts(pair.arm, itertools.chain.from_iterable(run))
            seconds = _DEAD_BLOCKS * analysis_blocks.BLOCK_S
            return (
                f"{pair.who} failed {arm.errors} of {arm.ended} requests in {seconds} s, while {pair.control} did not"
            )
    return ""


def _fails_for_many(pair: ArmPair, seen: CollectedCounts) -> bool:
    """Whether the arm has failed in most groups of those who asked it. One user may make most of its requests, and fail anywhere."""
    told = counters.collect_groups(seen.tallies.attempt, seen.reports).values()
    total = functools.reduce(
        unit_groups.add_groups,
        [own for rows in told for (_, arm), own in rows.items() if arm == pair.arm],
        unit_groups.ZERO_GROUPS,
    )
    asked = [place for place, count in enumerate(total[0]) if count]
    return not asked or 2 * sum(total[1][place] > 0 for place in asked) > len(asked)


def _is_dead(pair: ArmPair, own: Sequence[Block]) -> bool:
    arm, control = sum_arm_counts(pair.arm, own), sum_arm_counts(pair.control, own)
    return (
        arm.errors >= _DEAD_FAILURES
        # What still runs may yet be answered: failures are often quicker than answers.
        and arm.errors > _DEAD_SHARE * (arm.ended + arm.running)
        and control.errors < _FINE_SHARE * control.ended
    )
