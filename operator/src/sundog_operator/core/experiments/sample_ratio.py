"""Sample-ratio mismatch of an experiment: units that do not match the arms' weights invalidate all results. Pure."""

from collections.abc import Sequence

from sundog_operator.core.analysis.split_mismatch import MISMATCH_LOG_E
from sundog_operator.core.stats import sample_ratio


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
