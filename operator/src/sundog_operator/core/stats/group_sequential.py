"""Group-sequential tests, whose looks are planned: the reference for tests at any time, and the error of unplanned looks.

At look k of K evenly spaced looks, Z is a sum of k normal steps, divided by √k. A test ends at the first look at which |Z| reaches its
bound. Sources: Armitage, McPherson and Rowe (JRSS A 1969), the recursion; Lan and DeMets (Biometrika 1983), bounds that spend an error.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from sundog_operator.core.stats.beta_binomial import Numbers

Spending = Callable[[float, float], float]
"""Error-spending function: the part of α that may be spent by a share of the data in (0, 1]."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(301)
_FAR: Final = 10.0
"""Standard deviations beyond which the remaining mass is negligible."""
_HIGHEST: Final = 37.0
"""Largest bound whose exceedance probability a float can hold."""


class _Walk:
    """Distribution of a sum of normal steps that stayed within its bounds at every look so far."""

    def __init__(self, step: float) -> None:
        self._step, self._looks = step, 0
        self._places: Numbers = np.zeros(1)
        self._masses: Numbers = np.ones(1)

    def beyond(self, bound: float) -> float:
        """Return the probability that |Z| exceeds `bound` at the next look, and no earlier bound before."""
        reach, middle = bound * math.sqrt(self._looks + 1), self._places + self._step
        return float((self._masses * (ndtr(middle - reach) + ndtr(-middle - reach))).sum())

    def go_on(self, bound: float) -> None:
        """Take the next look, and keep the mass where |Z| is within the bound."""
        self._looks += 1
        reach = min(bound, _FAR + abs(self._step) * self._looks) * math.sqrt(self._looks)
        places = reach * _NODES
        moved = places[:, None] - self._places - self._step
        self._masses = (np.exp(-(moved**2) / 2) @ self._masses) * reach * _WEIGHTS / math.sqrt(2 * math.pi)
        self._places = places


def crossing_probability(bounds: Sequence[float], drift: float = 0.0) -> float:
    """Return the probability that |Z| reaches its bound at any look; `drift` is the expectation of Z at the last one."""
    walk, found = _Walk(drift / math.sqrt(len(bounds))), 0.0
    for bound in bounds:
        found += walk.beyond(bound)
        walk.go_on(bound)
    return found


def peeking_error_rate(looks: int, alpha: float) -> float:
    """Return the false positive rate of a fixed-sample test at level α that is applied at each of `looks` looks."""
    return crossing_probability([float(ndtri(1 - alpha / 2))] * looks)


def spending_bounds(spending: Spending, looks: int, alpha: float) -> list[float]:
    """Return bounds of |Z| that spend α over `looks` evenly spaced looks; 0 where no mass is left."""
    walk, found, spent = _Walk(0.0), list[float](), 0.0
    for look in range(1, looks + 1):
        more, spent = spending(look / looks, alpha) - spent, spending(look / looks, alpha)
        more = min(more, walk.beyond(0.0))
        bound = _root(lambda z, more=more: walk.beyond(z) - more, _HIGHEST)  # type: ignore[misc]
        walk.go_on(bound)
        found.append(bound)
    return found


def obrien_fleming(share: float, alpha: float) -> float:
    """Spend hardly anything early: 4·(1 − Φ(z/√t)) with Φ(z) = 1 − α/4."""
    return 4 * float(ndtr(ndtri(alpha / 4) / math.sqrt(share)))


def required_drift(bounds: Sequence[float], power: float) -> float:
    """Return the expectation of Z at the last look at which some bound is crossed with probability `power`; 0 where chance suffices."""
    if crossing_probability(bounds) >= power:
        return 0.0
    return _root(lambda drift: crossing_probability(bounds, drift) - power, _FAR + bounds[-1])


def _root(excess: Callable[[float], float], highest: float) -> float:
    # The operator does not plan looks, so it does not load scipy's solvers into memory.
    from scipy.optimize import brentq

    return float(brentq(excess, 0.0, highest))
