"""Several tests at once, and several arms."""

import math
from typing import Final

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers

_LEFT: Final = 0.1
"""Of the error, for epochs that begin anew: few rollouts have any, and each takes two thirds more events."""

_MOST: Final = 99
"""Epochs after which no less is left, so that a float has it."""


def find_discoveries(log_es: Numbers, alpha: float) -> list[int]:
    """Indices of the nulls that are rejected with a false discovery rate of α at most, whatever depends on what (e-BH).

    `log_es` are those of now: with the largest ever seen the rate would not hold. Source: Wang and Ramdas (arXiv 2009.02824).
    """
    order = np.argsort(-log_es, kind="stable")
    bars = np.log(len(log_es) / (alpha * np.arange(1, len(log_es) + 1)))
    enough = np.flatnonzero(log_es[order] >= bars)
    return sorted(int(index) for index in order[: enough[-1] + 1]) if enough.size else []


def allowed_ratio(margin: float | Numbers, weight: float | Numbers) -> float | Numbers:
    """The largest ratio that costs all traffic no more than the margin, where that share of it goes to the candidate."""
    return 1 + np.asarray(margin) / weight


def epoch_error_share(number: int) -> float:
    """Of the error of a gate that looks at the newest epoch alone, what the n-th one has that begins at the same weight, from 1 on.

    The first has nine tenths, and each further one nine tenths of what is left: together never more than all of it.
    """
    return (1 - _LEFT) * _LEFT ** min(number - 1, _MOST)


def log_e_threshold(alpha: float) -> float:
    """What log E has to reach."""
    return math.log(1 / alpha)


def floor_weights(best: Numbers, floor: float) -> Numbers:
    """Weights of arms by the probability of each to be the best, of sum 1; none gets less than the floor."""
    return floor + (1 - len(best) * floor) * best
