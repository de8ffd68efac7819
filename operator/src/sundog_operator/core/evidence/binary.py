"""Evidence of events that happen or do not: against one probability, by a Beta mixture of the others.

The mixture is Beta(a, b), whole or cut at the null so that only one side of it counts. With a + b = c and a/c at the null this is the
beta-binomial mixture of Howard, Ramdas, McAuliffe and Sekhon (arXiv 1810.08240), and with a/c at an assignment probability the test of
Lindon and Malek (arXiv 2011.03567).
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln, xlog1py, xlogy

Numbers: TypeAlias = NDArray[np.float64]
Side = Literal["both", "above", "below"]


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
    mass = betaincc if side == "above" else betainc
    with np.errstate(divide="ignore", invalid="ignore"):
        after, before = np.log(mass(a + hits, b + misses, null)), np.log(_once(mass, a, b, null))
        # A mixture whose mass beyond the null is too small for a float has nothing to say.
        return np.where(np.isfinite(before), whole + after - before, -np.inf)


def tightest(optimum: float | Numbers, alpha: float) -> Numbers:
    """The mixture's precision with which a two-sided bound at level α is tightest at an intrinsic time; for one side take 2α.

    Source: Howard et al. (arXiv 1810.08240), proposition 3. Unit of `optimum`.
    """
    bar = 2 * math.log(1 / alpha)
    return np.asarray(optimum / (bar + math.log1p(bar)))


def _once(mass: Callable[..., Numbers], a: float | Numbers, b: float | Numbers, null: float | Numbers) -> Numbers:
    """The same, worked out once for what is the same: epochs and metrics share their weights and margins, and this is the dearest part."""
    a, b, null = np.broadcast_arrays(a, b, null)
    seen: dict[tuple[float, float, float], int] = {}
    which = [seen.setdefault(each, len(seen)) for each in zip(a.flat, b.flat, null.flat, strict=True)]
    distinct = np.array(list(seen), float).reshape(-1, 3)
    found: Numbers = mass(*distinct.T)[which].reshape(a.shape)
    return found
