"""Test for sample-ratio mismatch: whether the arms' units match their weights.

Source: Lindon and Malek (arXiv 2011.03567), the Dirichlet mixture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import gammaln, xlogy

from sundog_operator.core.stats.beta_binomial import Numbers

CONCENTRATION: Final = 1000.0
"""Concentration of the mixture: the test is tightest after some 16 000 units at a level of 0.001."""

SAMPLED_UNITS_CONCENTRATION: Final = 60.0
"""The same for a sample of units: tightest at some thousand units, about as many as the edges sample."""


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


@dataclass(frozen=True, slots=True)
class ArmSplit:
    """Units of each arm, each counted once, and the intended shares of the arms, which sum to 1."""

    shares: tuple[float, ...]
    units: tuple[int, ...]

    @classmethod
    def of_two(cls, weight: float, units: tuple[int, int]) -> "ArmSplit":
        """Return the split of control and a treatment with the share `weight`."""
        return cls((1 - weight, weight), units)

    def log_e(self, concentration: float = CONCENTRATION) -> float:
        """Return log E against units assigned by the shares, without arms that have none; 0 with fewer than two others."""
        active = [(share, units) for share, units in zip(self.shares, self.units, strict=True) if share > 0]
        if len(active) < 2:
            return 0.0
        shares, units = (np.array([column], float) for column in zip(*active, strict=True))
        return float(log_e(units, shares, concentration * shares))


def splits_log_e(splits: Sequence[ArmSplit], concentration: float = CONCENTRATION) -> float:
    """Return log E against units assigned by the shares in all epochs."""
    return sum(split.log_e(concentration) for split in splits)


def mismatch_log_e(units: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> float:
    """Return log E against "units are assigned by the arms' shares", each unit counted once; 0 without data.

    Args:
        units: by epoch and arm.
        shares: same shape, of any positive sum. A dropped arm has 0; units in such an arm are no chance, so log E is infinite.
    """
    splits = []
    for counts, intended in zip(units, shares, strict=True):
        share = np.array(intended, float)
        if any(count for count, own in zip(counts, intended, strict=True) if own <= 0):
            return math.inf
        # Of an epoch without any share, the test takes no arm.
        splits.append(ArmSplit(tuple(share / (share[share > 0].sum() or 1.0)), tuple(counts)))
    return splits_log_e(splits)
