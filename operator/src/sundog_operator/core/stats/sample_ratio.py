"""Whether units fell to the arms as the weights say. Source: Lindon and Malek (arXiv 2011.03567), the Dirichlet mixture."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.special import gammaln, xlogy

from sundog_operator.core.stats.beta_binomial import Numbers

CONCENTRATION: Final = 1000.0
"""Of the mixture: tightest after some 16 000 units at a level of 0.001."""


def log_e(units: Numbers, shares: Numbers, prior: Numbers | None = None) -> Numbers:
    """Log E against the shares.

    Args:
        units: units of each arm, each counted once, shape (..., epochs, arms).
        shares: the share of each that was meant, above 0 and of sum 1, shape (..., epochs, arms).
        prior: parameters of the mixture, same shape; `CONCENTRATION` times the shares where none are given.

    Returns:
        Shape (...): epochs are multiplied.
    """
    prior = CONCENTRATION * shares if prior is None else prior
    total, mass = units.sum(-1), prior.sum(-1)
    per_epoch = gammaln(mass) - gammaln(mass + total)
    per_epoch = per_epoch + (gammaln(prior + units) - gammaln(prior) - xlogy(units, shares)).sum(-1)
    told: Numbers = per_epoch.sum(-1)
    return told


def mismatch_log_e(units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> float:
    """Log E against "units fall to any number of arms by their shares", each counted once; 0 before there is anything to tell.

    Args:
        units: by epoch and arm.
        shares: same shape; of any sum. An arm that is out has 0, and units that fell to it all the same fell for certain not by chance.
    """
    told = 0.0
    for fell, meant in zip(units, shares, strict=True):
        there = [place for place, share in enumerate(meant) if share > 0]
        if any(count for place, count in enumerate(fell) if place not in there):
            return math.inf
        if len(there) > 1:
            share = np.array([meant[place] for place in there], float)
            counted = np.array([fell[place] for place in there], float)
            told += float(log_e(counted[None], share[None] / share.sum()))
    return told
