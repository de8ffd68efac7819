"""Evidence of events that happen or do not: against one probability, by a Beta mixture of the others.

The mixture is Beta(a, b), whole or cut at the null so that only one side of it counts. With a + b = c and a/c at the null this is the
beta-binomial mixture of Howard, Ramdas, McAuliffe and Sekhon (arXiv 1810.08240), and with a/c at an assignment probability the test of
Lindon and Malek (arXiv 2011.03567).
"""

import math
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, xlog1py, xlogy

Numbers: TypeAlias = NDArray[np.float64]
Side = Literal["both", "above", "below"]

_LEVELS: Final = 8
"""Of a continued fraction, each of which gives several digits where it is used."""

_LEAST_EXACT: Final = float(np.finfo(float).tiny)
"""Smaller floats have fewer digits."""


def log_e(
    hits: float | Numbers,
    misses: float | Numbers,
    null: float | Numbers,
    a: float | Numbers,
    b: float | Numbers,
    side: Side = "both",
) -> Numbers:
    """Log E against "each trial hits with probability `null`", or for a side, against "with that or one on the other side of it".

    Of one side the probability may change from trial to trial as long as it stays within the null: each ratio of likelihoods in the mixture
    is a supermartingale then. Arguments broadcast; counts need not be whole.

    Args:
        hits: trials that hit.
        misses: trials that did not.
        null: the probability that is tested, in (0, 1).
        a: first parameter of the mixture.
        b: second parameter of the mixture.
        side: where the alternatives are.
    """
    log_likelihood = xlogy(hits, null) + xlog1py(misses, -null)
    whole: Numbers = betaln(a + hits, b + misses) - betaln(a, b) - log_likelihood
    if side == "both":
        return whole
    after, before = _log_mass(a + hits, b + misses, null, side), _log_mass(a, b, null, side)
    # Where nothing at all is beyond the null, the mixture has nothing to say.
    return np.where(np.isfinite(before), whole + after - before, -np.inf)


def _log_mass(a: float | Numbers, b: float | Numbers, null: float | Numbers, side: Side) -> Numbers:
    """Log of the share of Beta(a, b) on a side of the null, also where that is too small for a float."""
    # Of what lies above, scipy's complement of betainc takes five times as long.
    a, b, end = (b, a, 1 - null) if side == "above" else (a, b, null)
    mass = betainc(a, b, end)
    with np.errstate(all="ignore"):
        found: Numbers = np.log(mass)
        vague = mass < _LEAST_EXACT
        return np.where(vague, _log_tail(a, b, end), found) if np.any(vague) else found


def _log_tail(a: float | Numbers, b: float | Numbers, end: float | Numbers) -> Numbers:
    """Log of the share of Beta(a, b) below an end that nearly all of it is far above, by its continued fraction (DLMF 8.17.22)."""
    fraction: float | Numbers = 1.0
    for m in reversed(range(_LEVELS)):
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        even = (m + 1) * (b - m - 1) / ((a + 2 * m + 1) * (a + 2 * m + 2))
        fraction = 1 + odd * end / (1 + even * end / fraction)
    found: Numbers = xlogy(a, end) + xlog1py(b, -end) - np.log(a * fraction) - betaln(a, b)
    return found


def optimal_precision(optimum: float | Numbers, alpha: float) -> Numbers:
    """The mixture's precision with which a two-sided bound at level α is tightest at an intrinsic time; for one side take 2α.

    Source: Howard et al. (arXiv 1810.08240), proposition 3. Unit of `optimum`.
    """
    bar = 2 * math.log(1 / alpha)
    return np.asarray(optimum / (bar + math.log1p(bar)))
