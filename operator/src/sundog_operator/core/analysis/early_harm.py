"""Early harm: test an arm's first blocks, with those of its warm-up, until the usual test has enough blocks. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from sundog_operator.api import FrozenPlan, MetricStatus
from sundog_operator.core.analysis import unit_groups
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, ArmPair
from sundog_operator.core.analysis.blocks import BLOCK_S, GRACE_S, Block, BlocksByEpoch, sum_arm_counts
from sundog_operator.core.stats import early_harm, multiple_testing
from sundog_operator.core.stats.findings import DecisionBasis, MetricVerdict
from sundog_operator.core.trial.default_plan import ERROR_RATE
from sundog_operator.core.trial.rollout import freeze


class EarlyHarm(NamedTuple):
    """Errors of an arm's first blocks above its margin: a sentence, and the errors of (control, the arm)."""

    message: str
    events: tuple[int, int]

    def mark(self, metrics: tuple[MetricStatus, ...]) -> tuple[MetricStatus, ...]:
        """Return the arm's metrics with this harm."""
        update = {
            **self._asdict(),
            "verdict": str(MetricVerdict.HARM),
            "basis": str(DecisionBasis.HARM),
            # The others are of the counts of the usual test.
            **dict.fromkeys(("needed", "eta", "lost", "independent_events", "values", "ratio", "allowed")),
            "interval": (),
        }
        return tuple(each.model_copy(update=update) if each.name == ERROR_RATE else each for each in metrics)


def find_early_harm(
    plan: FrozenPlan,
    weights: Mapping[int, float],
    blocks: BlocksByEpoch,
    now_s: float,
    pair: ArmPair = ROLLOUT_PAIR,
    *,
    arms: int = 1,
    groups: tuple[float, int, int] | None = None,
) -> EarlyHarm | None:
    """Test an arm's first blocks for harm; None if it is not shown.

    Args:
        plan: the frozen plan.
        weights: by epoch, the arm's share of the pair's traffic; weights outside of (0, 1) are ignored, because only one arm has traffic.
        blocks: the blocks of all edges.
        now_s: Unix seconds.
        pair: the arm and control.
        arms: number of arms that share the error.
        groups: where all requests of a unit go to one arm: the arm's share, and the groups of units with a failure in control and in the
            arm. These have to show harm too: a unit that fails every request is one event of them, however many it makes.
    """
    margin = next((each.margin for each in plan.guardrails if each.metric == ERROR_RATE), None)
    own = {number: blocks[number] for number, weight in weights.items() if 0 < weight < 1 and number in blocks}
    began = [at for each in own.values() for at, block in each.items() if block.of(pair.arm).requests]
    alpha = freeze.early_alpha(plan) / arms
    if not began or margin is None or not alpha:
        return None
    first, bar = min(began), multiple_testing.log_e_threshold(alpha)
    over = range(first, min(first + early_harm.MAX_BLOCKS, int(now_s - GRACE_S) // BLOCK_S))
    found = early_harm.pooled_log_e(
        [(weights[number], *_errors(pair, each, over)) for number, each in own.items()], margin
    )
    if found < bar or (groups is not None and early_harm.counts_log_e(*groups, margin) < bar):
        return None
    first_blocks = [each[at] for each in own.values() for at in over if at in each]
    control, arm = (sum_arm_counts(each, first_blocks) for each in pair.both)
    message = (
        f"{ERROR_RATE}: {arm.errors} of {arm.ended} requests of {pair.who} failed in its first {len(over) * BLOCK_S} s,"
        f" {control.errors} of {control.ended} of {pair.control}; worse than its margin, even without its {early_harm.BLOCKS_LEFT_OUT}"
        f" worst blocks of {BLOCK_S} s"
    )
    return EarlyHarm(message, (control.errors, arm.errors))


def count_failing_groups(pair: ArmPair, groups: unit_groups.GroupsBySource) -> tuple[int, int]:
    """Return the groups of units with a failure in any epoch, of (control, the arm). Requests without a unit are in none."""
    rows = [(arm, own[1][: unit_groups.GROUPS]) for by_place in groups.values() for (_, arm), own in by_place.items()]
    control, arm = (sum(map(any, zip(*(own for name, own in rows if name == each), strict=True))) for each in pair.both)
    return control, arm


def _errors(pair: ArmPair, blocks: Mapping[int, Block], over: range) -> tuple[list[int], list[int]]:
    """Return the errors of (control, the arm), block by block."""
    control, arm = ([blocks.get(at, Block()).of(each).errors for at in over] for each in pair.both)
    return control, arm
