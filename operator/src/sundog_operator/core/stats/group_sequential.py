"""Tests whose looks are counted beforehand: the yardstick for looking at any time, and what becomes of one that is looked at more often.

At look k of K, evenly spaced, Z is a sum of k normal steps by √k. A test ends at the first look at which |Z| is at its bound or beyond.
Sources: Armitage, McPherson and Rowe (JRSS A 1969), the recursion; Lan and DeMets (Biometrika 1983), bounds that spend an error.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from sundog_operator.core.stats.beta_binomial import Numbers

Spending = Callable[[float, float], float]
"""How much of an error may be made by a share of the data in (0, 1]."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(301)
_FAR: Final = 10.0
"""In standard deviations: beyond them nothing is left to be counted."""
_HIGHEST: Final = 37.0
"""Bound of which a float still tells by how much it is exceeded."""


class _Walk:
    """Where a sum of normal steps may be that was within its bounds at every look so far."""

    def __init__(self, step: float) -> None:
        self._step, self._looks = step, 0
        self._places: Numbers = np.zeros(1)
        self._masses: Numbers = np.ones(1)

    def beyond(self, bound: float) -> float:
        """The probability that |Z| is beyond a bound at the next look, and was not before."""
        reach, middle = bound * math.sqrt(self._looks + 1), self._places + self._step
        return float((self._masses * (ndtr(middle - reach) + ndtr(-middle - reach))).sum())

    def go_on(self, bound: float) -> None:
        """Take the next look, and go on where |Z| is within the bound."""
        self._looks += 1
        reach = min(bound, _FAR + abs(self._step) * self._looks) * math.sqrt(self._looks)
        places = reach * _NODES
        moved = places[:, None] - self._places - self._step
        self._masses = (np.exp(-(moved**2) / 2) @ self._masses) * reach * _WEIGHTS / math.sqrt(2 * math.pi)
        self._places = places


def crossing_probability(bounds: Sequence[float], drift: float = 0.0) -> float:
    """The probability that |Z| is at its bound at one of the looks; `drift` is what Z is expected to be at the last one."""
    walk, found = _Walk(drift / math.sqrt(len(bounds))), 0.0
    for bound in bounds:
        found += walk.beyond(bound)
        walk.go_on(bound)
    return found


def peeking_error_rate(looks: int, alpha: float) -> float:
    """How often a test at level α for one look finds what is not there, if it is looked at so many times."""
    return crossing_probability([float(ndtri(1 - alpha / 2))] * looks)


def spending_bounds(spending: Spending, looks: int, alpha: float) -> list[float]:
    """Bounds of |Z| that spend α over so many looks; 0 where nothing is left to be spent it on."""
    walk, found, spent = _Walk(0.0), list[float](), 0.0
    for look in range(1, looks + 1):
        more, spent = spending(look / looks, alpha) - spent, spending(look / looks, alpha)
        more = min(more, walk.beyond(0.0))
        bound = _root(lambda z, more=more: walk.beyond(z) - more, _HIGHEST)  # type: ignore[misc]
        walk.go_on(bound)
        found.append(bound)
    return found


def obrien_fleming(share: float, alpha: float) -> float:
    """Spends hardly anything early: 4·(1 − Φ(z/√t)) with Φ(z) = 1 − α/4."""
    return 4 * float(ndtr(ndtri(alpha / 4) / math.sqrt(share)))


def pocock(share: float, alpha: float) -> float:
    """Spends about as much at every look: α·log(1 + (e − 1)·t)."""
    return alpha * math.log1p((math.e - 1) * share)


def required_drift(bounds: Sequence[float], power: float) -> float:
    """What Z has to be expected to be at the last look, that with this probability some bound is crossed by then.

    0 where chance alone crosses one as often.
    """
    if crossing_probability(bounds) >= power:
        return 0.0
    return _root(lambda drift: crossing_probability(bounds, drift) - power, _FAR + bounds[-1])


def _root(excess: Callable[[float], float], highest: float) -> float:
    # The operator knows no planned looks, and need not hold all of scipy's solvers in memory.
    from scipy.optimize import brentq

    return float(brentq(excess, 0.0, highest))
