"""What typically decides a gate, of a service whose rates are known: how many requests, and of those how many events."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from sundog_operator.core.stats import floor_test, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers, Side
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.power import sample_size

_LEAST: Final = 1e-9
"""A ratio below which none is told from 0."""

DecidedBy = Literal["margin", "floor", "harm"]


@dataclass(frozen=True, slots=True)
class ExpectedSampleSize:
    """What about half of all rollouts need.

    Attributes:
        verdict: what is decided: Passed or Harm.
        by: what of the limits decides it.
        requests: of both arms.
        events: those of them that fail.
    """

    verdict: MetricVerdict
    by: DecidedBy
    requests: float
    events: float


def estimate_sample_size(rate: float, times: float, weight: float, limits: MetricLimits) -> ExpectedSampleSize | None:
    """The first that is expected to decide; None where nothing ever is.

    Args:
        rate: the share of control's requests that fail, in [0, 1).
        times: how many times that the candidate's is.
        weight: the candidate's share of the requests, in (0, 1).
        limits: of one metric, as numbers.
    """
    failing = rate * (1 - weight) + min(rate * times, 1.0) * weight
    found = [each for each in (_by_margin(times, weight, limits), _by_harm(times, weight, limits)) if failing]
    decided = [
        ExpectedSampleSize(verdict, by, events / failing, events)
        for verdict, by, events in found
        if math.isfinite(events)
    ]
    requests = _by_floor(rate, times, weight, limits)
    if math.isfinite(requests):
        decided.append(ExpectedSampleSize(MetricVerdict.PASSED, "floor", requests, requests * failing))
    return min(decided, key=lambda each: each.requests, default=None)


def _by_margin(times: float, weight: float, limits: MetricLimits) -> tuple[MetricVerdict, DecidedBy, float]:
    return (
        MetricVerdict.PASSED,
        "margin",
        _events(times, limits.allowed, weight, multiple_testing.log_e_threshold(limits.gate_alpha / 2), "below"),
    )


def _by_harm(times: float, weight: float, limits: MetricLimits) -> tuple[MetricVerdict, DecidedBy, float]:
    bar = multiple_testing.log_e_threshold(limits.alpha / limits.tests)
    return MetricVerdict.HARM, "harm", _events(times, 1 + np.asarray(limits.margin), weight, bar, "above")


def _events(times: float, boundary: Numbers, weight: float, bar: float, side: Side) -> float:
    ratio = np.asarray(max(times, _LEAST))
    return float(sample_size.events_needed(ratio, boundary, np.asarray(weight), np.asarray(bar), side))


def _by_floor(rate: float, times: float, weight: float, limits: MetricLimits) -> float:
    """Requests of both arms at which the floor is known to be kept; infinite without one, and where that is never."""
    if not limits.floor:
        return math.inf
    # One event of the candidate at a rate that is the floor: much less than decides.
    candidate = 1 / np.asarray(limits.floor, float)
    control = candidate * (1 - weight) / weight
    counts = EventCounts(
        control=np.atleast_1d(control * rate),
        candidate=np.atleast_1d(candidate * min(rate * times, 1.0)),
        control_units=np.atleast_1d(control),
        candidate_units=np.atleast_1d(candidate),
        weight=np.atleast_1d(weight),
        blocks=[],
    )
    units, _ = floor_test.units_for_floor(counts, limits, np.array(True))
    return float(units.item()) / weight
