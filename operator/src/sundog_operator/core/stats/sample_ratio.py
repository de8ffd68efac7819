"""Test for sample-ratio mismatch: whether the arms' units match their weights.

Source: Lindon and Malek (arXiv 2011.03567), the Dirichlet mixture.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import gammaln, xlogy

from sundog_operator.core.stats.beta_binomial import Numbers

CONCENTRATION: Final = 1000.0
"""Concentration of the mixture: the test is tightest after some 16 000 units at a level of 0.001."""


def log_e(units: Numbers, shares: Numbers, prior: Numbers | None = None) -> Numbers:
    """Return log E against the shares, of shape (...); the log E of epochs add up.

    Args:
        units: units of each arm, each counted once, shape (..., epochs, arms).
        shares: the intended share of each arm, above 0 and of sum 1, same shape.
        prior: parameters of the mixture, same shape; `CONCENTRATION` times the shares by default.
    """
    prior = CONCENTRATION * shares if prior is None else prior
    total, mass = units.sum(-1), prior.sum(-1)
    per_epoch = gammaln(mass) - gammaln(mass + total)
    per_epoch = per_epoch + (gammaln(prior + units) - gammaln(prior) - xlogy(units, shares)).sum(-1)
    found: Numbers = per_epoch.sum(-1)
    return found


def mismatch_log_e(units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> float:
    """Return log E against "units are assigned by the arms' shares", each unit counted once; 0 without data.

    Args:
        units: by epoch and arm.
        shares: same shape, of any positive sum. A dropped arm has 0; units in such an arm are no chance, so log E is infinite.
    """
    total = 0.0
    for counts, intended in zip(units, shares, strict=True):
        active = [place for place, share in enumerate(intended) if share > 0]
        if any(count for place, count in enumerate(counts) if place not in active):
            return math.inf
        if len(active) > 1:
            share = np.array([intended[place] for place in active], float)
            active_counts = np.array([counts[place] for place in active], float)
            total += float(log_e(active_counts[None], share[None] / share.sum()))
    return total
