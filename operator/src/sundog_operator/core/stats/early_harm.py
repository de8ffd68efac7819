"""Harm in a candidate's first blocks, before it is known how its failures come together.

A stall of one replica fails many requests together, and one of a minute touches seven blocks of ten seconds. So the seven blocks that speak
most against the candidate are left out, and the failures in the others are tested as independent ones against "within the margin". Where
stalls touch no more than seven of the blocks, what is left says no more against the candidate than the untouched blocks do, and the
probability that those ever reach log(1/α) is at most α.

Of one alternative the log of the likelihood ratio adds up over blocks, whatever their weights. It is that of `rates` with a mixture of one
ratio; sources: Lindon and Malek (arXiv 2011.03567) for the likelihood, Ville for the bound at every look.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

MAX_BLOCKS: Final = 22
"""Of the candidate's first, those that are looked at: until the usual test has the 12 to 14 that it takes, after a warm-up of a minute."""

BLOCKS_LEFT_OUT: Final = 7
"""Blocks that a stall of a minute touches."""

_TIMES: Final = 5.0
"""Control's rate, as the alternative: what is far worse is found as soon, and less than three times is left to the usual test."""

_BEYOND_MARGIN: Final = 2.0
"""Times what is within the margin, where that is more."""


def log_likelihood_ratio(control: Numbers, candidate: Numbers, weight: float | Numbers, margin: float) -> Numbers:
    """Of events in blocks, the log likelihood of "many times control's rate" by that of "as much more as the margin allows".

    Args:
        control: control's events, shape (..., blocks).
        candidate: the candidate's, same shape.
        weight: the candidate's share of the two arms' assignments, in (0, 1), of a shape that fits.
        margin: by which share the candidate may have more.

    Returns:
        Shape (..., blocks).
    """
    weights = np.asarray(weight, float)
    null, other = (
        count_ratio.candidate_share(times, weights)
        for times in (1 + margin, max(_TIMES, _BEYOND_MARGIN * (1 + margin)))
    )
    found: Numbers = candidate * np.log(other / null) + control * np.log((1 - other) / (1 - null))
    return found


def log_e(log_ratios: Numbers) -> Numbers:
    """Log E without the `LEFT_OUT` largest of blocks in the last axis, shape (...); 0 where there are no others."""
    kept = max(0, log_ratios.shape[-1] - BLOCKS_LEFT_OUT)
    found: Numbers = np.sort(log_ratios, axis=-1)[..., :kept].sum(-1)
    return found


def pooled_log_e(epochs: Sequence[tuple[float, Sequence[int], Sequence[int]]], margin: float) -> float:
    """Log E of blocks that epochs share: of each the candidate's weight, and by block the events of control and of the candidate."""
    found = [
        log_likelihood_ratio(np.array(ours, float), np.array(its, float), weight, margin)
        for weight, ours, its in epochs
    ]
    return float(log_e(np.sum(found, axis=0)))
