"""Confidence sequence of one rate. Source: Howard et al. (arXiv 1810.08240), the beta-binomial mixture."""

from typing import Final

import numpy as np
from scipy.special import expit, logit

from sundog_operator.core.stats import beta_binomial, root_finding
from sundog_operator.core.stats.beta_binomial import Numbers, Side

_FAR: Final = 35.0
"""Largest log odds that are searched."""
_LEAST_CONCENTRATION: Final = 1e-3
_EVENTS_OF_NONE: Final = 3.0


def optimum_for_rate(rate: float | Numbers) -> float | Numbers:
    """Return the trials at which a mixture should be tightest to show that a rate is below `rate`.

    Without any hit, log E is about 3 at that number of trials.
    """
    return _EVENTS_OF_NONE / rate


def concentration(optimum: float | Numbers, alpha: float) -> Numbers:
    """Return the concentration of the mixture that is tightest after `optimum` trials at level α."""
    return np.maximum(beta_binomial.optimal_precision(optimum, alpha) - 1, _LEAST_CONCENTRATION)


def log_e(
    hits: Numbers, trials: Numbers, rate: Numbers, optimum: float | Numbers, alpha: float, side: Side = "both"
) -> Numbers:
    """Return log E against a rate, by the mixture that is centred at that rate; shape as the arguments broadcast.

    With a side, the null also has all rates on the other side of `rate`. Arguments as for `interval` and `beta_binomial.log_e`.
    """
    c = concentration(optimum, alpha)
    return beta_binomial.log_e(hits, trials - hits, rate, c * rate, c * (1 - rate), side)


def interval(
    hits: Numbers, trials: Numbers, bar: float | Numbers, optimum: float | Numbers, alpha: float
) -> tuple[Numbers, Numbers]:
    """Return the rates whose log E is below `bar`, as (lower, upper): (0, 1) without trials, NaN for counts that are not finite.

    Args:
        hits: trials that hit, any shape.
        trials: all trials, same shape.
        bar: log(1/α), times the dispersion where there is one.
        optimum: trials after which the interval is tightest; broadcasts.
        alpha: level at which the interval is tightest.
    """
    return lower_bound(hits, trials, bar, optimum, alpha), 1 - lower_bound(trials - hits, trials, bar, optimum, alpha)


def lower_bound(
    hits: Numbers, trials: Numbers, bar: float | Numbers, optimum: float | Numbers, alpha: float
) -> Numbers:
    """Return the lower end of `interval`; same arguments."""
    hits, trials, bar, optimum = np.broadcast_arrays(
        *(np.asarray(each, float) for each in (hits, trials, bar, optimum))
    )

    def log_e_at(odds: Numbers) -> Numbers:
        return log_e(hits, trials, expit(odds), optimum, alpha)

    with np.errstate(all="ignore"):
        # In log odds, small rates have the same relative precision as large ones.
        inside = np.clip(logit(hits / trials), -_FAR, _FAR)
        least = log_e_at(inside)

        def excess(odds: Numbers) -> Numbers:
            # The square root of a log likelihood ratio is nearly linear.
            distance: Numbers = np.sqrt(np.maximum(log_e_at(odds) - least, 0.0)) - np.sqrt(bar - least)
            return distance

        # Twice the distance at which a normal likelihood reaches the bar is usually beyond the end.
        reach = 2 * np.sqrt(2 * (bar - least) * trials / hits / (trials - hits))
        outside = np.fmax(inside - reach, -_FAR)
        beyond = excess(outside)
        if np.any(beyond < 0):
            outside = np.where(beyond < 0, -_FAR, outside)
            beyond = excess(outside)
        found = np.where(
            beyond >= 0, expit(root_finding.find_crossings(excess, inside, outside, -np.sqrt(bar - least), beyond)), 0.0
        )
    invalid = ~(np.isfinite(hits) & np.isfinite(trials))
    return np.where(invalid, np.nan, np.where(hits <= 0, 0.0, found))
