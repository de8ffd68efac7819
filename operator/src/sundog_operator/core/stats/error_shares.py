"""Shares of a test's error for evidence that begins again. Needs no numpy, so that commands start fast."""

import math
from typing import Final

_LEFT: Final = 0.1
"""Share of the error that is left for epochs that start again: few rollouts have any, and each takes two thirds more events."""

_MOST: Final = 99
"""Epochs after which the share stays, so that a float can represent it."""


def epoch_error_share(number: int) -> float:
    """Return the share of a newest-epoch gate's error that the n-th epoch at the same weight may spend; `number` counts from 1.

    The first epoch has nine tenths, and each further epoch nine tenths of the rest. So all of them together never spend more than the
    error.
    """
    return (1 - _LEFT) * _LEFT ** min(number - 1, _MOST)


def evidence_share(removed: int) -> float:
    """Return the share of a test's error that a set of evidence has, if tests used so many sets of which a part was removed before.

    The first set has nine tenths. The k-th later one has 6/(π²k²) of the rest, because these shares have a sum of 1. An experiment may have
    many sets, and the share falls by k² alone; that of `epoch_error_share` falls to a tenth with each.
    """
    return 1 - _LEFT if removed < 1 else _LEFT * 6 / (math.pi * removed) ** 2
