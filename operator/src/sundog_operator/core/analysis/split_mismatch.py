"""Whether requests and units were split as the plan says."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
)
from sundog_operator.core.analysis import (
    blocks,
    first_exposures,
    unit_groups,
)
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, ArmShares, CollectedCounts
from sundog_operator.core.analysis.epoch_counts import EpochComparison
from sundog_operator.core.stats import guardrail_test
from sundog_operator.core.stats.guardrail_test import (
    ArmSplit,
)

MISMATCH_LOG_E: Final = math.log(1000)
"""At an error of 0.001: a split that is off by chance alone is paused for once in a thousand rollouts."""
UNITS_TEXT: Final = "units and requests without one"


def mismatch_of_requests(counted: Sequence[EpochComparison]) -> str:
    """A sentence where requests were not split as the plan says; else an empty string."""
    splits = [each.split for each in counted]
    return _mismatch(guardrail_test.mismatch_log_e(splits), splits, "requests")


def mismatch_of_units(status: ExperimentStatus, epochs: Sequence[EvidenceEpoch], seen: CollectedCounts) -> str:
    """A sentence where units were not split as the plan says; else an empty string."""
    splits, log_e = count_unit_splits(ROLLOUT_PAIR.both, include_warmup(status.plan, arm_shares(epochs)), seen)
    return _mismatch(log_e, splits, UNITS_TEXT)


def arm_shares(epochs: Sequence[EvidenceEpoch]) -> dict[int, ArmShares]:
    """Those of stable and the candidate."""
    return {each.number: (1 - each.weight / 100, each.weight / 100) for each in epochs}


def include_warmup(plan: FrozenPlan, by_epoch: Mapping[int, ArmShares]) -> dict[int, ArmShares]:
    """The shares of epochs of evidence, with those of their warm-ups: these have the same weights, and most units come first in them."""
    if not plan.warmup_requests or not plan.warmup_duration:
        return dict(by_epoch)
    return {**{number - 1: own for number, own in by_epoch.items()}, **by_epoch}


def count_unit_splits(
    arms: Sequence[str], shares: Mapping[int, ArmShares], seen: CollectedCounts
) -> tuple[list[ArmSplit], float]:
    """How units fell to arms by the shares of each epoch, and log E against that they did so by chance.

    Units count once, at their first request, by the weight that was in force then; requests without one count as such.
    """
    before_s = seen.now_s - blocks.GRACE_S - seen.timeout_s
    first = first_exposures.count_first_exposures(seen.tallies.attempt, seen.reports, before_s)
    found, alone = [], []
    for number, own in shares.items():
        found.append(ArmSplit(own, tuple(first.get((number, arm), 0) for arm in arms)))
        without = (
            unit_groups.sum_groups(seen.tallies.groups, number, arm)[0][unit_groups.WITHOUT_UNIT] for arm in arms
        )
        alone.append(ArmSplit(own, tuple(without)))
    return [*found, *alone], guardrail_test.mismatch_log_e(
        found, guardrail_test.UNITS_CONCENTRATION
    ) + guardrail_test.mismatch_log_e(alone)


def _mismatch(log_e: float, splits: Sequence[ArmSplit], what: str) -> str:
    return f"{describe_split(splits, what)}: the split is not as it should be" if log_e >= MISMATCH_LOG_E else ""


def describe_split(splits: Sequence[ArmSplit], what: str) -> str:
    """How many fell to the candidate, beside what its weights make of all of them; `what` is what fell."""
    canary, total = sum(split.units[-1] for split in splits), sum(sum(split.units) for split in splits)
    expected = sum(split.shares[-1] * sum(split.units) for split in splits)
    return f"{ROLLOUT_PAIR.who} got {canary} of {total} {what} where {expected:.0f} were expected"
