"""How often the test of a rate is wrong, for arms exactly at the tested ratio."""

import math

import numpy as np

from sundog_operator.core.stats.binomial_ratio import BinomialEvidence, UnitCounts
from sundog_operator.core.stats.pooled_count_ratio import make_mixture


def false_rates(
    base: float, share: float, tested: float, *, units: int, runs: int, looks: int, alpha: float = 0.05, seed: int = 5
) -> tuple[float, float]:
    """Return the shares of runs that ever reject "at most" and "at least" the tested ratio; `units` come between two looks."""
    draw, mixture, bar = np.random.default_rng(seed), make_mixture(0.1), math.log(1 / alpha)
    counts, wrong = np.zeros((4, runs, 1)), np.zeros((2, runs), bool)
    for _ in range(looks):
        arm = draw.binomial(units, share, (runs, 1))
        control = units - arm
        counts += control, draw.binomial(control, base), arm, draw.binomial(arm, base * tested)
        evidence = BinomialEvidence((UnitCounts(*counts[:2]), UnitCounts(*counts[2:])), mixture, tested)
        wrong |= np.stack([evidence.above(), evidence.below()]) >= bar
    above, below = (float(each.mean()) for each in wrong)
    return above, below
