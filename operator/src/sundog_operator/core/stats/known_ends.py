"""The known ends of the interval of a ratio. Without numpy, so that views load fast."""

import math
from typing import Final

_LARGEST_RATIO: Final = 1000.0
"""Ratio above which an upper end, or below whose inverse a lower end, says nothing about the true ratio."""


def known_ends(lower: float, upper: float) -> tuple[float, ...]:
    """Return the ends of a ratio's interval as far as they are known: both, the lower one, or none."""
    if math.isnan(lower) or math.isnan(upper):
        return ()
    if upper <= _LARGEST_RATIO:
        return lower, upper
    return (lower,) if lower > 1 / _LARGEST_RATIO else ()
