"""Whether a rate is below its floor, by few events."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import (
    dispersion as stats_dispersion,
)
from sundog_operator.core.stats import (
    multiple_testing,
    proportion,
)
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits

_OF_THE_BOUND: Final = 0.1
_LEAST_RATE: Final = 1e-12
_FACTORS: Final = np.geomspace(1.0, 1e4, 93)
"""By which what was counted may have grown: each a tenth above the one before."""
_STRIDE: Final = 4
"""From the first of the factors to the last."""


def fitting(limit: Numbers, where: NDArray[np.bool_]) -> Numbers:
    """Of some, a limit that may be the same for several."""
    return np.broadcast_to(limit, where.shape)[where]


def is_below_floor(sums: Numbers, room: Numbers, phi: Numbers, alpha: float) -> NDArray[np.bool_]:
    """Whether the candidate's rate is at most the floor above control's: without it a service that has no errors never passes.

    Control's rate is bounded from below, and what is that and the floor is tested against the candidate's counts. Where there are few
    events the first bound is 0 or nearly, whatever its level: most of the error is left to the second.

    Args:
        sums: as of `Counts`, shape (4, ...).
        room: by how much the rate may be above control's, above 0, shape (...).
        phi: the dispersion, shape (...).
        alpha: the error of the gate.
    """
    control, candidate, control_units, candidate_units = sums
    optimum = proportion.optimum_for_rate(room)
    bounding, testing = alpha / 2 * _OF_THE_BOUND, alpha / 2 * (1 - _OF_THE_BOUND)

    def keeps(least: Numbers) -> NDArray[np.bool_]:
        rate = np.clip(least + room, _LEAST_RATE, 1 - _LEAST_RATE)
        evidence = proportion.log_e(candidate, candidate_units, rate, optimum, 2 * testing, "below") / phi
        found: NDArray[np.bool_] = evidence >= multiple_testing.log_e_threshold(testing)
        return found

    # Where control's rate as it was seen leaves too little room, a lower one leaves less.
    possible = keeps(control / control_units)
    if not possible.any():
        return possible
    return keeps(
        proportion.lower_bound(
            control, control_units, phi * multiple_testing.log_e_threshold(bounding), optimum, bounding
        )
    )


def units_for_floor(counts: EventCounts, limits: MetricLimits, wanted: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """The candidate's requests at which its floor is known to be kept if the rates stay, and in how many seconds.

    Infinite where that is never, and where it is not wanted: what is not valid cannot be.
    """
    units, seconds = np.full(wanted.shape, np.inf), np.full(wanted.shape, np.inf)
    newest = counts.newest(True)
    wanted = np.asarray(wanted & newest.has_units & (limits.room > 0))
    if wanted.any():
        gate = newest.at(wanted)
        phi = np.maximum(gate.dispersion(fitting(limits.allowed, wanted)), gate.of_requests())
        room, sums = fitting(limits.room, wanted), gate.sums[:, None]
        times = _first_factor(lambda factors: is_below_floor(sums * factors, room, phi, limits.gate_alpha), phi.size)
        counted_s = gate.closed * stats_dispersion.LENGTHS_S[0]
        units[wanted] = gate.sums[3] * times
        seconds[wanted] = np.where(counted_s > 0, np.maximum(counted_s, 1.0) * (times - 1), np.inf)
    return units, seconds


def _first_factor(keeps: Callable[[Numbers], NDArray[np.bool_]], some: int) -> Numbers:
    """Of each of some the least of the factors that keeps, as all larger ones do; infinite where none does."""
    coarse = keeps(np.repeat(_FACTORS[::_STRIDE, None], some, 1))
    until = _STRIDE * coarse.argmax(0)
    before = np.maximum(until - np.arange(_STRIDE)[:, None], 0)
    found = np.where(keeps(_FACTORS[before]), _FACTORS[before], np.inf).min(0)
    return np.where(coarse.any(0), found, np.inf)
