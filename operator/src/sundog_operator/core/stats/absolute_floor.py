"""Test of whether a rate is within an absolute floor of control's rate, for few events."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import dispersion, multiple_testing, proportion
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits

_BOUND_ERROR_SHARE: Final = 0.1
_LEAST_RATE: Final = 1e-12
_FACTORS: Final = np.geomspace(1.0, 1e4, 93)
"""Factors by which the counts may grow; each is a tenth above the one before."""
_STRIDE: Final = 4
"""Distance of the factors that are tried first."""


def fitting(limit: Numbers, where: NDArray[np.bool_]) -> Numbers:
    """Return the limit of each selected metric and arm; `limit` broadcasts to the shape of `where`."""
    return np.broadcast_to(limit, where.shape)[where]


def is_below_floor(sums: Numbers, allowed_increase: Numbers, phi: Numbers, alpha: float) -> NDArray[np.bool_]:
    """Return whether the treatment's rate exceeds control's by at most the floor. Without it, a service without errors never passes.

    The lower confidence bound of control's rate plus the floor is tested against the treatment's counts (see `proportion`). With few events
    the bound is near 0 at any level, so the test has most of the error (union bound).

    Args:
        sums: as of `EventCounts.sums`, shape (4, ...).
        allowed_increase: the largest allowed difference to control's rate, above 0, shape (...).
        phi: the dispersion, shape (...).
        alpha: the error of the gate; the floor uses half of it.
    """
    control, treatment, control_units, treatment_units = sums
    optimum = proportion.optimum_for_rate(allowed_increase)
    bounding, testing = alpha / 2 * _BOUND_ERROR_SHARE, alpha / 2 * (1 - _BOUND_ERROR_SHARE)

    def is_within_floor(control_rate: Numbers) -> NDArray[np.bool_]:
        rate = np.clip(control_rate + allowed_increase, _LEAST_RATE, 1 - _LEAST_RATE)
        evidence = proportion.log_e(treatment, treatment_units, rate, optimum, 2 * testing, "below") / phi
        found: NDArray[np.bool_] = evidence >= multiple_testing.log_e_threshold(testing)
        return found

    # The lower bound is below control's observed rate, so it can only pass where that passes.
    possible = is_within_floor(control / control_units)
    if not possible.any():
        return possible
    return is_within_floor(
        proportion.lower_bound(
            control, control_units, phi * multiple_testing.log_e_threshold(bounding), optimum, bounding
        )
    )


def units_for_floor(counts: EventCounts, limits: MetricLimits, where: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Return the treatment's requests at which it passes by its floor if rates stay, and the seconds until then.

    Each has the shape of `where`; infinite where it never passes, and where `where` is false.
    """
    units, seconds = np.full(where.shape, np.inf), np.full(where.shape, np.inf)
    newest = counts.newest()
    where = np.asarray(where & newest.has_units & (limits.allowed_increase > 0))
    if where.any():
        gate = newest.at(where)
        phi = np.maximum(gate.dispersion(fitting(limits.allowed, where)), gate.request_design_effect())
        allowed_increase, sums = fitting(limits.allowed_increase, where), gate.sums[:, None]
        times = _first_factor(
            lambda factors: is_below_floor(sums * factors, allowed_increase, phi, limits.gate_alpha), phi.size
        )
        counted_s = gate.closed * dispersion.LENGTHS_S[0]
        units[where] = gate.sums[3] * times
        seconds[where] = np.where(counted_s > 0, np.maximum(counted_s, 1.0) * (times - 1), np.inf)
    return units, seconds


def _first_factor(keeps: Callable[[Numbers], NDArray[np.bool_]], some: int) -> Numbers:
    """Return the least factor that keeps each of `some` floors, infinite where none does; all larger factors keep it too."""
    coarse = keeps(np.repeat(_FACTORS[::_STRIDE, None], some, 1))
    until = _STRIDE * coarse.argmax(0)
    before = np.maximum(until - np.arange(_STRIDE)[:, None], 0)
    found = np.where(keeps(_FACTORS[before]), _FACTORS[before], np.inf).min(0)
    return np.where(coarse.any(0), found, np.inf)
