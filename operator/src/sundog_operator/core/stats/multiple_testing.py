"""Thresholds of several tests and arms."""

import math

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers


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


def log_e_threshold(alpha: float) -> float:
    """Return log(1/α), the log E at which a null is rejected at level α (Ville)."""
    return math.log(1 / alpha)


def floor_weights(best: Numbers, floor: float) -> Numbers:
    """Return arm weights of sum 1, f + (1 − K·f)·P, by each arm's probability P to be the best; none is below the floor f."""
    return floor + (1 - len(best) * floor) * best
