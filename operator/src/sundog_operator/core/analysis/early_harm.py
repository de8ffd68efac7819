"""Early harm: test a canary's first blocks, with those of its warm-up, until the usual test has enough blocks. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from sundog_operator.api import FrozenPlan
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, Block, BlocksByEpoch, sum_arm_counts
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import freeze
from sundog_operator.core.rollout.default_plan import ERROR_RATE
from sundog_operator.core.stats import early_harm, multiple_testing


class EarlyHarm(NamedTuple):
    """Errors of the canary's first blocks above its margin: a sentence, and the errors of (stable, canary)."""

    message: str
    events: tuple[int, int]


def find_early_harm(
    plan: FrozenPlan, weights: Mapping[int, float], blocks: BlocksByEpoch, now_s: float
) -> EarlyHarm | None:
    """Test the canary's first blocks for harm; None if it is not shown.

    Args:
        plan: the frozen plan.
        weights: by epoch, the canary's share of traffic; weights outside of (0, 1) are ignored, because only one arm has traffic.
        blocks: the blocks of all edges.
        now_s: Unix seconds.
    """
    margin = next((each.margin for each in plan.guardrails if each.metric == ERROR_RATE), None)
    own = {number: blocks[number] for number, weight in weights.items() if 0 < weight < 1 and number in blocks}
    began = [at for each in own.values() for at, block in each.items() if block.of(names.CANARY).requests]
    if not began or margin is None or not freeze.early_alpha(plan):
        return None
    first = min(began)
    over = range(first, min(first + early_harm.MAX_BLOCKS, int(now_s - GRACE_S) // BLOCK_S))
    found = early_harm.pooled_log_e([(weights[number], *_errors(each, over)) for number, each in own.items()], margin)
    if found < multiple_testing.log_e_threshold(freeze.early_alpha(plan)):
        return None
    first_blocks = [each[at] for each in own.values() for at in over if at in each]
    stable, canary = (sum_arm_counts(arm, first_blocks) for arm in (names.STABLE, names.CANARY))
    message = (
        f"{ERROR_RATE}: {canary.errors} of {canary.ended} requests of the canary failed in its first {len(over) * BLOCK_S} s,"
        f" {stable.errors} of {stable.ended} of {names.STABLE}; worse than its margin, even without its {early_harm.BLOCKS_LEFT_OUT} worst"
        f" blocks of {BLOCK_S} s"
    )
    return EarlyHarm(message, (stable.errors, canary.errors))


def _errors(blocks: Mapping[int, Block], over: range) -> tuple[list[int], list[int]]:
    """Return the errors of (stable, canary), block by block."""
    stable, canary = ([blocks.get(at, Block()).of(arm).errors for at in over] for arm in (names.STABLE, names.CANARY))
    return stable, canary
