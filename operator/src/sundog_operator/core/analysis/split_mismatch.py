"""Sample-ratio mismatch: whether requests and units were split by the weights."""

import math
from collections.abc import Collection, Mapping, Sequence
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
from sundog_operator.core.stats import sample_ratio
from sundog_operator.core.stats.sample_ratio import ArmSplit

MISMATCH_LOG_E: Final = math.log(1000)
"""Threshold at an error of 0.001: chance alone pauses one of a thousand rollouts."""
UNITS_TEXT: Final = "units and requests without one"
_MISSING_LOG_P: Final = math.log(1e-6)
"""Log of the probability below which an arm without units is no chance. An arm with a unit stays above it: evaluations share it."""


def mismatch_of_requests(counted: Sequence[EpochComparison]) -> str:
    """Return a sentence if requests were not split by the weights; else an empty string."""
    splits = [each.split for each in counted]
    return _mismatch(sample_ratio.splits_log_e(splits), splits, "requests")


def mismatch_of_units(status: ExperimentStatus, epochs: Sequence[EvidenceEpoch], collected: CollectedCounts) -> str:
    """Return a sentence if units were not split by the weights; else an empty string."""
    splits, log_e = count_unit_splits(ROLLOUT_PAIR.both, include_warmup(status.plan, arm_shares(epochs)), collected)
    return _mismatch(log_e, splits, UNITS_TEXT)


def arm_shares(epochs: Sequence[EvidenceEpoch]) -> dict[int, ArmShares]:
    """Return the shares of stable and the canary by epoch."""
    return {each.number: (1 - each.weight / 100, each.weight / 100) for each in epochs}


def include_warmup(plan: FrozenPlan, by_epoch: Mapping[int, ArmShares]) -> dict[int, ArmShares]:
    """Add the warm-up epochs to those of evidence: they have the same weights, and most units are first seen in them."""
    if not plan.warmup_requests or not plan.warmup_duration:
        return dict(by_epoch)
    return {**{number - 1: own for number, own in by_epoch.items()}, **by_epoch}


def count_unit_splits(
    arms: Sequence[str], shares: Mapping[int, ArmShares], collected: CollectedCounts
) -> tuple[list[ArmSplit], float]:
    """Return the splits of units by epoch, and log E against a split by the shares.

    Units count once, at their first request, by the weight at that time. Requests without a unit count as such.
    """
    before_s = collected.now_s - blocks.GRACE_S - collected.timeout_s
    first = first_exposures.count_first_exposures(collected.tallies.attempt, collected.reports, before_s)
    found, without_unit = [], []
    for number, own in shares.items():
        found.append(ArmSplit(own, tuple(first.get((number, arm), 0) for arm in arms)))
        counts = (
            unit_groups.sum_groups(collected.tallies.groups, number, arm)[0][unit_groups.WITHOUT_UNIT] for arm in arms
        )
        without_unit.append(ArmSplit(own, tuple(counts)))
    return [*found, *without_unit], sample_ratio.splits_log_e(
        found, sample_ratio.SAMPLED_UNITS_CONCENTRATION
    ) + sample_ratio.splits_log_e(without_unit)


def _mismatch(log_e: float, splits: Sequence[ArmSplit], what: str) -> str:
    return f"{describe_canary_count(splits, what)}: sample-ratio mismatch" if log_e >= MISMATCH_LOG_E else ""


def describe_canary_count(splits: Sequence[ArmSplit], what: str) -> str:
    """Describe how many `what` the canary got, and how many its weights make expected."""
    canary, total = sum(split.units[-1] for split in splits), sum(sum(split.units) for split in splits)
    expected = sum(split.shares[-1] * sum(split.units) for split in splits)
    return f"{ROLLOUT_PAIR.who} got {canary} of {total} {what}, expected {expected:.0f}"


def find_missing_arm(arms: Sequence[str], active: Collection[str], splits: Sequence[ArmSplit], what: str) -> str:
    """Return a sentence about an active arm that got nothing although it has a share of the traffic; empty where there is none.

    Args:
        arms: names of the arms, in the order of the splits.
        active: names of the arms that are not dropped.
        splits: units, or requests where each request is a unit, by epoch.
        what: what the splits count.
    """
    for place, arm in enumerate(arms):
        if arm not in active or any(split.units[place] for split in splits):
            continue
        own = [(sum(split.units), split.shares[place]) for split in splits if 0 < split.shares[place] < 1]
        if sum(total * math.log1p(-share) for total, share in own) < _MISSING_LOG_P:
            total, expected = sum(total for total, _ in own), sum(total * share for total, share in own)
            return (
                f"{arm} got none of {total} {what}, expected {expected:.0f}: its share of the traffic does not reach it"
            )
    return ""


def mismatch_of_exposures(
    names: Sequence[str], units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]
) -> str:
    """Return a sentence about a sample-ratio mismatch, empty where none is known. Over all evaluations, the error is 1 in 1000.

    Args:
        names: names of the arms, control first.
        units: first exposures by epoch and arm, each unit counted once; requests where each request is a unit.
        shares: the shares in force by epoch and arm, of any positive sum; 0 for a dropped arm.
    """
    if sample_ratio.mismatch_log_e(units, shares) < MISMATCH_LOG_E:
        return ""
    counts = [sum(row[arm] for row in units) for arm in range(len(names))]
    expected = [
        sum(sum(row) * share[arm] / sum(share) for row, share in zip(units, shares, strict=True))
        for arm in range(len(names))
    ]
    worst = max(range(len(names)), key=lambda arm: abs(counts[arm] - expected[arm]) / (expected[arm] + 1) ** 0.5)
    return f"{names[worst]} got {counts[worst]} of {sum(counts)} units, expected {expected[worst]:.0f}: sample-ratio mismatch"
