"""Evidence about the probability of an event: a Beta mixture of alternatives against one probability.

The mixture is Beta(a, b), whole or truncated at the null to one side. With a + b = c and a/c at the null it is the beta-binomial mixture of
Howard, Ramdas, McAuliffe and Sekhon (arXiv 1810.08240). With a/c at an assignment probability it is the test of Lindon and Malek
(arXiv 2011.03567).
"""

import math
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, xlog1py, xlogy

Numbers: TypeAlias = NDArray[np.float64]
Side = Literal["both", "above", "below"]

_LEVELS: Final = 8
"""Levels of the continued fraction; each adds several digits where the fraction is used."""

_LEAST_EXACT: Final = float(np.finfo(float).tiny)
"""Smallest float with full precision."""


def log_e(
    hits: float | Numbers,
    misses: float | Numbers,
    null: float | Numbers,
    a: float | Numbers,
    b: float | Numbers,
    side: Side = "both",
) -> Numbers:
    """Return log E against "each trial hits with probability `null`"; shape as the arguments broadcast.

    With a side, the null also has all probabilities on the other side of `null`. Then the probability may change between trials within the
    null, because each likelihood ratio of the mixture is a supermartingale. Counts need not be whole.

    Args:
        hits: trials that hit.
        misses: trials that did not.
        null: the tested probability, in (0, 1).
        a: first parameter of the mixture.
        b: second parameter of the mixture.
        side: the side of the alternatives.
    """
    log_likelihood = xlogy(hits, null) + xlog1py(misses, -null)
    whole: Numbers = betaln(a + hits, b + misses) - betaln(a, b) - log_likelihood
    if side == "both":
        return whole
    after, before = _log_mass(a + hits, b + misses, null, side), _log_mass(a, b, null, side)
    # A mixture without mass beyond the null gives no evidence.
    return np.where(np.isfinite(before), whole + after - before, -np.inf)


def _log_mass(a: float | Numbers, b: float | Numbers, null: float | Numbers, side: Side) -> Numbers:
    """Return the log of the share of Beta(a, b) on a side of the null, also where a float cannot hold the share."""
    # For the mass above, scipy's complement of betainc takes five times as long.
    a, b, end = (b, a, 1 - null) if side == "above" else (a, b, null)
    mass = betainc(a, b, end)
    with np.errstate(all="ignore"):
        found: Numbers = np.log(mass)
        inexact = mass < _LEAST_EXACT
        return np.where(inexact, _log_tail(a, b, end), found) if np.any(inexact) else found


def _log_tail(a: float | Numbers, b: float | Numbers, end: float | Numbers) -> Numbers:
    """Return the log of the share of Beta(a, b) below a far end, by the continued fraction of DLMF 8.17.22."""
    fraction: float | Numbers = 1.0
    for m in reversed(range(_LEVELS)):
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        even = (m + 1) * (b - m - 1) / ((a + 2 * m + 1) * (a + 2 * m + 2))
        fraction = 1 + odd * end / (1 + even * end / fraction)
    found: Numbers = xlogy(a, end) + xlog1py(b, -end) - np.log(a * fraction) - betaln(a, b)
    return found


def optimal_precision(optimum: float | Numbers, alpha: float) -> Numbers:
    """Return the mixture's precision at which a two-sided bound at level α is tightest at an intrinsic time; one-sided, pass 2α.

    The result has the unit of `optimum`. Source: Howard et al. (arXiv 1810.08240), proposition 3.
    """
    threshold = 2 * math.log(1 / alpha)
    return np.asarray(optimum / (threshold + math.log1p(threshold)))
