"""Sample-ratio mismatch of an experiment: units that do not match the arms' weights invalidate all results. Pure."""

import math
from collections.abc import Collection, Sequence
from typing import Final

from sundog_operator.core.analysis.split_mismatch import MISMATCH_LOG_E
from sundog_operator.core.stats import sample_ratio
from sundog_operator.core.stats.sample_ratio import ArmSplit

_MISSING_LOG_P: Final = math.log(1e-6)
"""Log of the probability below which an arm without units is no chance. An arm with a unit stays above it: evaluations share it."""


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


def find_mismatch(names: Sequence[str], units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> str:
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
