"""One rate by its counts: an interval that holds at every look. Source: Howard et al. (arXiv 1810.08240), the beta-binomial mixture."""

from typing import Final

import numpy as np
from scipy.special import expit, logit

from sundog_operator.core.stats import beta_binomial, root_finding
from sundog_operator.core.stats.beta_binomial import Numbers, Side

_FAR: Final = 35.0
_LEAST_CONCENTRATION: Final = 1e-3
_EVENTS_OF_NONE: Final = 3.0


def optimum_for_rate(rate: float | Numbers) -> float | Numbers:
    """Trials after which a mixture is to be tightest that tests a rate from below: without any event log E is 3 by then, about."""
    return _EVENTS_OF_NONE / rate


def concentration(optimum: float | Numbers, alpha: float) -> Numbers:
    """Of the mixture with which the interval is tightest after `optimum` trials at level α."""
    return np.maximum(beta_binomial.optimal_precision(optimum, alpha) - 1, _LEAST_CONCENTRATION)


def log_e(
    hits: Numbers, trials: Numbers, rate: Numbers, optimum: float | Numbers, alpha: float, side: Side = "both"
) -> Numbers:
    """Log E against a rate, or for a side, against "that or one on the other side of it", by the mixture that is centred at it."""
    c = concentration(optimum, alpha)
    return beta_binomial.log_e(hits, trials - hits, rate, c * rate, c * (1 - rate), side)


def interval(
    hits: Numbers, trials: Numbers, bar: float | Numbers, optimum: float | Numbers, alpha: float
) -> tuple[Numbers, Numbers]:
    """The rates against which log E is below `bar`, as (lower, upper); of no trials (0, 1), of what is no number NaN.

    Args:
        hits: trials that hit, any shape.
        trials: all of them, same shape.
        bar: log(1/α), times the dispersion where there is one.
        optimum: trials after which it is to be tightest, a shape that fits.
        alpha: level at which it is to be tightest.
    """
    return lower_bound(hits, trials, bar, optimum, alpha), 1 - lower_bound(trials - hits, trials, bar, optimum, alpha)


def lower_bound(
    hits: Numbers, trials: Numbers, bar: float | Numbers, optimum: float | Numbers, alpha: float
) -> Numbers:
    """The interval's lower end alone; arguments as for `interval`."""
    hits, trials, bar, optimum = np.broadcast_arrays(
        *(np.asarray(each, float) for each in (hits, trials, bar, optimum))
    )

    def log_e_at(odds: Numbers) -> Numbers:
        return log_e(hits, trials, expit(odds), optimum, alpha)

    with np.errstate(all="ignore"):
        # In log odds small rates are as precise as large ones.
        inside = np.clip(logit(hits / trials), -_FAR, _FAR)
        least = log_e_at(inside)

        def excess(odds: Numbers) -> Numbers:
            # The root of a log likelihood ratio is nearly straight.
            found: Numbers = np.sqrt(np.maximum(log_e_at(odds) - least, 0.0)) - np.sqrt(bar - least)
            return found

        # Twice as far as where a normal likelihood would have its end is mostly beyond it.
        reach = 2 * np.sqrt(2 * (bar - least) * trials / hits / (trials - hits))
        outside = np.fmax(inside - reach, -_FAR)
        beyond = excess(outside)
        if np.any(beyond < 0):
            outside = np.where(beyond < 0, -_FAR, outside)
            beyond = excess(outside)
        found = np.where(
            beyond >= 0, expit(root_finding.find_crossings(excess, inside, outside, -np.sqrt(bar - least), beyond)), 0.0
        )
    strange = ~(np.isfinite(hits) & np.isfinite(trials))
    return np.where(strange, np.nan, np.where(hits <= 0, 0.0, found))
