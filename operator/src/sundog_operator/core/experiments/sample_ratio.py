"""Whether units fell to the arms by their weights: else nothing of what they did is to be trusted. Pure."""

from collections.abc import Sequence

from sundog_operator.core.analysis.split_mismatch import MISMATCH_LOG_E
from sundog_operator.core.stats import sample_ratio


def find_mismatch(names: Sequence[str], units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> str:
    """What is wrong with the split, in words; empty where nothing is known to be. It may be asked at every look, and errs once in 1000.

    Args:
        names: of the arms, control in front.
        units: first exposures by epoch and arm, each unit counted once; requests where the unit is the request.
        shares: that were in force, by epoch and arm; of any sum. An arm that was out has 0.
    """
    if sample_ratio.mismatch_log_e(units, shares) < MISMATCH_LOG_E:
        return ""
    fell = [sum(row[arm] for row in units) for arm in range(len(names))]
    meant = [
        sum(sum(row) * share[arm] / sum(share) for row, share in zip(units, shares, strict=True))
        for arm in range(len(names))
    ]
    worst = max(range(len(names)), key=lambda arm: abs(fell[arm] - meant[arm]) / (meant[arm] + 1) ** 0.5)
    return f"{names[worst]} got {fell[worst]} of {sum(fell)} units where {meant[worst]:.0f} were expected: the split is not as it should be"
