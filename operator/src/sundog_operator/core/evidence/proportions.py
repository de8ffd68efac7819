"""One rate by its counts: an interval that holds at every look. Source: Howard et al. (arXiv 1810.08240), the beta-binomial mixture."""

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import expit, logit

from sundog_operator.core.evidence import binary
from sundog_operator.core.evidence.binary import Numbers, Side

_FAR: Final = 35.0
_STEPS: Final = 60
_CLOSE: Final = 1e-11
_LEAST_CONCENTRATION: Final = 1e-3


def concentration(optimum: float | Numbers, alpha: float) -> Numbers:
    """Of the mixture with which the interval is tightest after `optimum` trials at level α."""
    return np.maximum(binary.tightest(optimum, alpha) - 1, _LEAST_CONCENTRATION)


def log_e(
    hits: Numbers, trials: Numbers, rate: Numbers, optimum: float | Numbers, alpha: float, side: Side = "both"
) -> Numbers:
    """Log E against a rate, or for a side, against "that or one on the other side of it", by the mixture that is centred at it."""
    c = concentration(optimum, alpha)
    return binary.log_e(hits, trials - hits, rate, c * rate, c * (1 - rate), side)


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
    hits, trials = np.broadcast_arrays(np.asarray(hits, float), np.asarray(trials, float))
    with np.errstate(all="ignore"):
        # Lower and upper ends at once, in log odds: small rates are as precise as large ones.
        inside = np.clip(np.stack([logit(hits / trials)] * 2), -_FAR, _FAR)
        outside = np.stack([np.full(hits.shape, -_FAR), np.full(hits.shape, _FAR)])
        least = log_e(hits, trials, expit(inside), optimum, alpha)

        def excess(odds: Numbers) -> Numbers:
            # The root of a log likelihood ratio is nearly straight.
            risen = np.maximum(log_e(hits, trials, expit(odds), optimum, alpha) - least, 0.0)
            found: Numbers = np.sqrt(risen) - np.sqrt(bar - least)
            return found

        beyond = excess(outside)
        open_ended = ~(beyond >= 0)
        outside = _crossing(excess, inside, outside, beyond)
    lower, upper = expit(outside)
    lower, upper = np.where(open_ended[0], 0.0, lower), np.where(open_ended[1], 1.0, upper)
    strange = ~(np.isfinite(hits) & np.isfinite(trials))
    return (
        np.where(strange, np.nan, np.where(hits <= 0, 0.0, lower)),
        np.where(strange, np.nan, np.where(hits >= trials, 1.0, upper)),
    )


def _crossing(excess: Callable[[Numbers], Numbers], inside: Numbers, outside: Numbers, beyond: Numbers) -> Numbers:
    """Where `excess` is 0 between points inside, where it is below, and points outside, where it is `beyond`: regula falsi.

    Where one end stays twice, its value is halved, else it would stay for ever (Dowell and Jarratt, BIT 1971).
    """
    within, stayed, found = excess(inside), np.zeros(inside.shape), outside
    for _ in range(_STEPS):
        middle = (inside * beyond - outside * within) / (beyond - within)
        value = excess(middle)
        is_out = value >= 0
        within = np.where(is_out, np.where(stayed > 0, within / 2, within), value)
        beyond = np.where(is_out, value, np.where(stayed < 0, beyond / 2, beyond))
        inside, outside = np.where(is_out, inside, middle), np.where(is_out, middle, outside)
        stayed = np.where(is_out, 1.0, -1.0)
        moved, found = np.abs(middle - found), middle
        if not np.any(moved > _CLOSE):
            break
    return found
