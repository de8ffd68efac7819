"""Detection of a canary that fails outright, without statistics."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Final

from sundog_operator.core.analysis import edge_reports, unit_groups
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, Block, sum_arm_counts
from sundog_operator.core.stats import early_harm

RESTART_BLOCKS: Final = early_harm.DEAD_BLOCKS + 4
"""Blocks in a row while the arm has no healthy replica: its only one may be restarting, as one of stable may."""


def find_dead_arm(pair: ArmPair, limits: EvaluationLimits, collected: CollectedCounts, healthy: int) -> str:
    """Return a sentence if an arm fails most requests while control does not; else an empty string. Uses no statistics.

    Requests that hang fail at their timeout, and count in the block of their arrival. So blocks up to that age are read. An arm that
    answers again was not dead: it stalled, or its replica restarted.

    Args:
        pair: the arm beside control.
        limits: limits of the comparison.
        collected: the collected counts.
        healthy: the arm's healthy replicas.
    """
    least = early_harm.DEAD_BLOCKS if healthy else RESTART_BLOCKS
    newest = int(collected.now_s - GRACE_S) // BLOCK_S
    oldest = newest - least - math.ceil(collected.timeout_s / BLOCK_S) - 1
    run: list[Sequence[Block]] = []
    # The last two blocks may still be incomplete: they show that the arm answers, and not that it fails.
    for number in range(oldest, newest + 2):
        own = [blocks[number] for blocks in collected.blocks.values() if number in blocks]
        if number < newest and _fails_outright(pair, own):
            run.append(own)
        elif len(run) < least or _answers(pair, own):
            run = []
    if len(run) < least or (limits.has_sticky_units and not _fails_for_many(pair, collected)):
        return ""
    arm = sum_arm_counts(pair.arm, itertools.chain.from_iterable(run))
    return f"{pair.who} failed {arm.errors} of {arm.ended} requests in {len(run) * BLOCK_S} s, while {pair.control} did not"


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


def _fails_outright(pair: ArmPair, own: Sequence[Block]) -> bool:
    arm, control = sum_arm_counts(pair.arm, own), sum_arm_counts(pair.control, own)
    return bool(early_harm.fails_outright(arm.errors, arm.ended + arm.running, control.errors, control.ended))


def _answers(pair: ArmPair, own: Sequence[Block]) -> bool:
    """Whether an arm answers most requests of a block."""
    arm = sum_arm_counts(pair.arm, own)
    return 2 * arm.errors < arm.ended
