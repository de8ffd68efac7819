"""Thresholds and shared error of several tests and arms."""

import math
from typing import Final

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers

_LEFT: Final = 0.1
"""Share of the error that is left for epochs that start again: few rollouts have any, and each takes two thirds more events."""

_MOST: Final = 99
"""Epochs after which the share stays, so that a float can represent it."""


def find_discoveries(log_es: Numbers, alpha: float) -> list[int]:
    """Return the indices of rejected nulls with a false discovery rate of at most α, under any dependence (e-BH).

    `log_es` are the current values: with running maxima the rate would not hold. Source: Wang and Ramdas (arXiv 2009.02824).
    """
    order = np.argsort(-log_es, kind="stable")
    thresholds = np.log(len(log_es) / (alpha * np.arange(1, len(log_es) + 1)))
    enough = np.flatnonzero(log_es[order] >= thresholds)
    return sorted(int(index) for index in order[: enough[-1] + 1]) if enough.size else []


def allowed_ratio(margin: float | Numbers, weight: float | Numbers) -> float | Numbers:
    """Return the largest ratio that costs all traffic at most the margin, 1 + margin/weight; `weight` is the treatment's share of it."""
    return 1 + np.asarray(margin) / weight


def epoch_error_share(number: int) -> float:
    """Return the share of a newest-epoch gate's error that the n-th epoch at the same weight may spend; `number` counts from 1.

    The first epoch has nine tenths, and each further epoch nine tenths of the rest. So all of them together never spend more than the
    error.
    """
    return (1 - _LEFT) * _LEFT ** min(number - 1, _MOST)


def evidence_share(removed: int) -> float:
    """Return the share of a test's error that a set of evidence has, if tests used so many sets of which a part was removed before.

    The first set has nine tenths. The k-th later one has 6/(π²k²) of the rest, because these shares have a sum of 1. An experiment may have
    many sets, and the share falls by k² alone; that of `epoch_error_share` falls to a tenth with each.
    """
    return 1 - _LEFT if removed < 1 else _LEFT * 6 / (math.pi * removed) ** 2


def log_e_threshold(alpha: float) -> float:
    """Return log(1/α), the log E at which a null is rejected at level α (Ville)."""
    return math.log(1 / alpha)


def floor_weights(best: Numbers, floor: float) -> Numbers:
    """Return arm weights of sum 1, f + (1 − K·f)·P, by each arm's probability P to be the best; none is below the floor f."""
    return floor + (1 - len(best) * floor) * best
