"""Quantiles, from histograms that can be added. Source: Howard and Ramdas (arXiv 1906.09712)."""

import functools
import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sundog_operator.core.evidence import proportions
from sundog_operator.core.evidence.binary import Numbers, log_e

_HALVINGS: Final = 60
_A: Final = 0.85
_CONSTANTS: Final = (5.0, 60.0)
"""Between which C is, for any level above 1e-18."""


def levels(count: Numbers, quantile: float, bar: float, optimum: float, alpha: float) -> tuple[Numbers, Numbers]:
    """Levels of the empirical distribution between which the true quantile lies, in [0, 1]. At 0 or 1 that side has no bound yet.

    Args:
        count: observations, any shape.
        quantile: such as 0.99.
        bar: log(1/α) of each side.
        optimum: observations after which it is to be tightest.
        alpha: level at which it is to be tightest.
    """
    count = np.asarray(count, float)
    c = proportions.concentration(optimum, alpha)

    def refuted(level: Numbers) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (
            log_e(level * count, (1 - level) * count, quantile, c * quantile, c * (1 - quantile)) >= bar
        )
        return found

    inside, outside = np.full((2, *count.shape), quantile), np.stack([np.zeros(count.shape), np.ones(count.shape)])
    open_ended = ~refuted(outside)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        out = refuted(middle)
        inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
    lower, upper = outside
    return np.where(open_ended[0], 0.0, lower), np.where(open_ended[1], 1.0, upper)


def interval(
    counts: ArrayLike, edges: ArrayLike, quantile: float, bar: float, optimum: float, alpha: float
) -> tuple[float, float]:
    """Values between which the quantile lies, rounded outwards to bounds of buckets: (−∞ or an edge, an edge or ∞).

    Args:
        counts: observations in each bucket, shape (buckets,).
        edges: bounds of the buckets, rising, shape (buckets + 1,).
        quantile: such as 0.99.
        bar: log(1/α) of each side.
        optimum: observations after which it is to be tightest.
        alpha: level at which it is to be tightest.
    """
    counts, edges = np.asarray(counts, float), np.asarray(edges, float)
    total = float(counts.sum())
    if not total:
        return -np.inf, np.inf
    low, high = levels(np.asarray(total), quantile, bar, optimum, alpha)
    below = np.cumsum(counts)
    lower = -np.inf if low <= 0 else float(edges[np.searchsorted(below, np.floor(low * total) + 1)])
    upper = np.inf if high >= 1 else float(edges[np.searchsorted(below, np.ceil(high * total)) + 1])
    return lower, upper


def log_e_same(a: Numbers, b: Numbers, quantile: float, optimum: float, alpha: float) -> float:
    """Log E against a quantile that two arms share, wherever it is.

    Args:
        a: A's observations in each bucket, shape (buckets,).
        b: B's, in the same buckets.
        quantile: such as 0.99.
        optimum: observations after which it is to be tightest.
        alpha: level at which it is to be tightest.

    A share of an arm's observations at or below a value is anything between what is below the bucket and what is in it as well.
    """
    c = proportions.concentration(optimum, alpha)

    def least(counts: Numbers) -> Numbers:
        total = float(counts.sum())
        most = np.cumsum(counts)
        # The mixture's density is largest where this share makes log E least.
        best = _least(total, quantile, c)
        share = np.clip(best * total, most - counts, most)
        found: Numbers = log_e(share, total - share, quantile, c * quantile, c * (1 - quantile))
        return found

    return float((least(np.asarray(a, float)) + least(np.asarray(b, float))).min())


def _least(total: float, quantile: float, c: Numbers) -> float:
    """The share of hits at which log E against `quantile` is least: it is convex in it."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        one, other = low + (high - low) / 3, high - (high - low) / 3
        values = log_e(
            np.array([one, other]) * total,
            np.array([1 - one, 1 - other]) * total,
            quantile,
            c * quantile,
            c * (1 - quantile),
        )
        low, high = (low, other) if values[0] < values[1] else (one, high)
    return (low + high) / 2


def band(count: float, least: float, alpha: float) -> float:
    """How far an empirical distribution is from the true one at most, at all values and from `least` independent observations on at once.

    In [0, 1]; 1 of fewer observations. Source: Howard and Ramdas (arXiv 1906.09712), theorem 2, with A = 0.85.
    """
    if count < least:
        return 1.0
    return min(1.0, _A * math.sqrt((math.log1p(math.log(count / least)) + _constant(alpha)) / count))


@functools.lru_cache
def _constant(alpha: float) -> float:
    """C of the theorem: the least with which the error is α."""
    # The operator asks for quantiles alone, and need not hold all of scipy's solvers in memory.
    from scipy.optimize import brentq

    growth = np.linspace(1.0005, 2 * _A**2 - 1e-6, 4000)

    def error(constant: float) -> float:
        gamma = np.sqrt(2 / growth) * (_A - np.sqrt(2 * (growth - 1) / constant))
        gamma2, own = gamma[gamma > 1] ** 2, growth[gamma > 1]
        return float((4 * np.exp(-gamma2 * constant) * (1 + 1 / ((gamma2 - 1) * np.log(own)))).min())

    return float(brentq(lambda constant: error(constant) - alpha, *_CONSTANTS))
