"""Detection of a canary that fails outright, without statistics."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Final

from sundog_operator.core.analysis import edge_reports, unit_groups
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, Block, sum_arm_counts

_DEAD_BLOCKS: Final = 3
_DEAD_FAILURES: Final = 20
_DEAD_SHARE: Final = 0.5
_FINE_SHARE: Final = 0.1


def find_dead_arm(pair: ArmPair, limits: EvaluationLimits, collected: CollectedCounts) -> str:
    """Return a sentence if an arm fails most requests while control does not; else an empty string. Uses no statistics, and does not wait.

    Requests that hang fail at their timeout, and count in the block of their arrival. So blocks up to that age are read.
    """
    newest = int(collected.now_s - GRACE_S) // BLOCK_S
    oldest = newest - _DEAD_BLOCKS - math.ceil(collected.timeout_s / BLOCK_S) - 1
    run: list[Sequence[Block]] = []
    for number in range(oldest, newest):
        own = [blocks[number] for blocks in collected.blocks.values() if number in blocks]
        run = [*run, own] if _is_dead(pair, own) else []
        if len(run) == _DEAD_BLOCKS and (not limits.has_sticky_units or _fails_for_many(pair, collected)):
            arm = sum_arm_counts(pair.arm, itertools.chain.from_iterable(run))
            seconds = _DEAD_BLOCKS * BLOCK_S
            return (
                f"{pair.who} failed {arm.errors} of {arm.ended} requests in {seconds} s, while {pair.control} did not"
            )
    return ""


def _fails_for_many(pair: ArmPair, collected: CollectedCounts) -> bool:
    """Whether the arm failed in most unit groups with requests. One user may make most requests, and fail at any arm."""
    groups = edge_reports.collect_groups(collected.tallies.attempt, collected.reports).values()
    total = functools.reduce(
        unit_groups.add_groups,
        [own for rows in groups for (_, arm), own in rows.items() if arm == pair.arm],
        unit_groups.ZERO_GROUPS,
    )
    used = [place for place, count in enumerate(total[0]) if count]
    return not used or 2 * sum(total[1][place] > 0 for place in used) > len(used)


def _is_dead(pair: ArmPair, own: Sequence[Block]) -> bool:
    arm, control = sum_arm_counts(pair.arm, own), sum_arm_counts(pair.control, own)
    return (
        arm.errors >= _DEAD_FAILURES
        # Running requests may still be answered: failures are often quicker than answers.
        and arm.errors > _DEAD_SHARE * (arm.ended + arm.running)
        and control.errors < _FINE_SHARE * control.ended
    )
