"""Roots of functions of one variable, many at once."""

from collections.abc import Callable
from typing import Final

import numpy as np

from sundog_operator.core.stats.beta_binomial import Numbers

_STEPS: Final = 60
_CLOSE: Final = 1e-6
"""Largest move of the last step but one; the last step is far shorter."""


def find_crossings(
    excess: Callable[[Numbers], Numbers], inside: Numbers, outside: Numbers, within: Numbers, beyond: Numbers
) -> Numbers:
    """Return the points where `excess` is 0, by regula falsi; all arrays have the same shape.

    The value at an end that stays for two steps is halved, because that end would never move otherwise.
    Source: the Illinois rule (Dowell and Jarratt, BIT 1971).

    Args:
        excess: the function.
        inside: points where it is negative.
        outside: points where it is at least 0.
        within: its values at `inside`.
        beyond: its values at `outside`.
    """
    stayed, found = np.zeros(inside.shape), outside
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
