"""Confidence sequences of quantiles, from histograms that add up. Source: Howard and Ramdas (arXiv 1906.09712)."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sundog_operator.core.stats import proportion
from sundog_operator.core.stats.beta_binomial import Numbers, log_e

_HALVINGS: Final = 60


def level_bounds(count: Numbers, quantile: float, bar: float, optimum: float, alpha: float) -> tuple[Numbers, Numbers]:
    """Return the levels of the empirical distribution that enclose the true quantile, as (lower, upper); 0 or 1 is no bound yet.

    Args:
        count: number of observations, any shape.
        quantile: such as 0.99.
        bar: log(1/α) of each side.
        optimum: observations after which the bounds are tightest.
        alpha: level at which the bounds are tightest.
    """
    count = np.asarray(count, float)
    c = proportion.concentration(optimum, alpha)

    def is_rejected(level: Numbers) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (
            log_e(level * count, (1 - level) * count, quantile, c * quantile, c * (1 - quantile)) >= bar
        )
        return found

    inside, outside = np.full((2, *count.shape), quantile), np.stack([np.zeros(count.shape), np.ones(count.shape)])
    open_ended = ~is_rejected(outside)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        out = is_rejected(middle)
        inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
    lower, upper = outside
    return np.where(open_ended[0], 0.0, lower), np.where(open_ended[1], 1.0, upper)


def interval(
    counts: ArrayLike, edges: ArrayLike, quantile: float, bar: float, optimum: float, alpha: float
) -> tuple[float, float]:
    """Return values that enclose the quantile, rounded outwards to bucket edges: (−∞ or an edge, an edge or ∞).

    Args:
        counts: observations in each bucket, shape (buckets,).
        edges: bounds of the buckets, rising, shape (buckets + 1,).
        quantile: such as 0.99.
        bar: log(1/α) of each side.
        optimum: observations after which the bounds are tightest.
        alpha: level at which the bounds are tightest.
    """
    counts, edges = np.asarray(counts, float), np.asarray(edges, float)
    total = float(counts.sum())
    if not total:
        return -np.inf, np.inf
    low, high = level_bounds(np.asarray(total), quantile, bar, optimum, alpha)
    below = np.cumsum(counts)
    lower = -np.inf if low <= 0 else float(edges[np.searchsorted(below, np.floor(low * total) + 1)])
    upper = np.inf if high >= 1 else float(edges[np.searchsorted(below, np.ceil(high * total)) + 1])
    return lower, upper
