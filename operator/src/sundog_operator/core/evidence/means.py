"""Means and what is made of them: differences, ratios, adjusted by a covariate, of groups; with intervals that hold at every look.

Asymptotic: they need a burn-in, here of `BURN_IN` observations at least in each arm of each epoch, and for a rate as many events and
non-events. V is the variance of an estimate, s² that of an observation.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from scipy.special import lambertw

from sundog_operator.core.evidence.binary import Numbers

BURN_IN: Final = 30


class Estimate(NamedTuple):
    """A value, the variance of it, and the observations behind it."""

    value: Numbers
    variance: Numbers
    observations: Numbers


def tuned(optimum: float, alpha: float) -> float:
    """ρ² with which an interval at level α is tightest after `optimum` observations, or at that cumulative variance; for one side take 2α.

    Source: Waudby-Smith et al. (arXiv 2103.06476), appendix; the lower branch of Lambert's W.
    """
    return float((-lambertw(-(alpha**2) * math.exp(-1), -1).real - 1) / optimum)


def log_e(difference: Numbers, variance: Numbers, count: Numbers, rho2: float) -> Numbers:
    """Log E against no difference, by the normal mixture.

    It is that of Johari, Pekelis and Walsh (arXiv 1512.04922) with the prior variance τ² = ρ²·n·V.

    Args:
        difference: estimate less what is tested.
        variance: V of the estimate.
        count: observations in all, n.
        rho2: ρ², see `tuned`.
    """
    spread = count * rho2 + 1
    return rho2 * count * difference**2 / variance / (2 * spread) - 0.5 * np.log(spread)


def halfwidth(estimate: Estimate, rho2: float, alpha: float) -> Numbers:
    """Of the interval for means and weights that may change with time: ρ² is tuned on the cumulative variance n·s², with s² = n·V.

    Source: Waudby-Smith et al. (arXiv 2103.06476), the Lyapunov form.
    """
    n, s2 = estimate.observations, estimate.observations * estimate.variance
    spread = n * s2 * rho2 + 1
    return np.sqrt(2 * spread / (n**2 * rho2) * np.log(np.sqrt(spread) / alpha))


def upper_distance(estimate: Estimate, rho2: float, alpha: float) -> Numbers:
    """From an estimate to a bound on one side of it, the same on the other; ρ² tuned as for `halfwidth`, at 2α.

    Source: Waudby-Smith et al. (arXiv 2103.06476), one-sided.
    """
    n, s2 = estimate.observations, estimate.observations * estimate.variance
    spread = n * s2 * rho2 + 1
    return np.sqrt(2 * spread / (n**2 * rho2) * np.log1p(np.sqrt(spread) / (2 * alpha)))


def difference(count: Numbers, total: Numbers, squares: Numbers) -> Estimate:
    """B's mean less A's, stratified by epoch: of epoch k with its share of all observations.

    NaN where an arm of an epoch lacks the burn-in, for then its variance says nothing.

    Args:
        count: observations, shape (..., epochs, 2), A before B.
        total: Σy, same shape.
        squares: Σy², same shape.

    Returns:
        Of shape (...).
    """
    with np.errstate(all="ignore"):
        mean = total / count
        variance = (squares - count * mean**2) / (count - 1) / count
        share = count.sum(-1) / count.sum((-2, -1))[..., None]
        young = (count < BURN_IN).any((-2, -1))
        value = (share * (mean[..., 1] - mean[..., 0])).sum(-1)
        spread = (share**2 * np.maximum(variance, 0).sum(-1)).sum(-1)
    return Estimate(np.where(young, np.nan, value), np.where(young, np.nan, spread), count.sum((-2, -1)))


def slope(count: Numbers, y: Numbers, x: Numbers, xx: Numbers, xy: Numbers) -> Numbers:
    """θ of CUPED: Cov(Y, X)/Var(X), pooled over all axes; 0 where X does not vary.

    It is taken from epochs before the one that it adjusts; X must be fixed before assignment. Source: Deng et al. (WSDM 2013).
    """
    n = count.sum()
    covariance, variance = xy.sum() - y.sum() * x.sum() / n, xx.sum() - x.sum() ** 2 / n
    return np.asarray(covariance / variance if variance > 0 else 0.0)


class Moments(NamedTuple):
    """Sums over observations."""

    total: Numbers
    squares: Numbers


def adjusted(y: Numbers, yy: Numbers, x: Numbers, xx: Numbers, xy: Numbers, theta: Numbers) -> Moments:
    """Sums of y − θx and of its square, by which `difference` is adjusted. X̄ is left out: it cancels in a difference."""
    return Moments(y - theta * x, yy - 2 * theta * xy + theta**2 * xx)


def ratio_by_groups(total: Numbers, count: Numbers) -> Estimate:
    """Σy/Σn where units have several observations each: the variance is that between random groups of units.

    Args:
        total: Σy of each group, shape (..., groups).
        count: observations of each group, same shape.

    Source: Deng et al. (arXiv 1803.06336), the delta method with a group in a unit's place.
    """
    groups = total.shape[-1]
    ratio = total.sum(-1) / count.sum(-1)
    influence = total - ratio[..., None] * count
    variance = influence.var(-1, ddof=1) / (groups * count.mean(-1) ** 2)
    return Estimate(ratio, variance, count.sum(-1))


def uplift(a: Estimate, b: Estimate) -> Estimate:
    """B/A − 1 by the delta method, for A far from 0."""
    value = b.value / a.value - 1
    variance = b.variance / a.value**2 + a.variance * b.value**2 / a.value**4
    return Estimate(value, variance, a.observations + b.observations)


def inferiority(a: Estimate, b: Estimate, margin: float) -> Estimate:
    """B − (1 + margin)·A of means of which less is better: B is not inferior where the upper bound of it is below 0."""
    return Estimate(
        b.value - (1 + margin) * a.value, b.variance + (1 + margin) ** 2 * a.variance, a.observations + b.observations
    )
