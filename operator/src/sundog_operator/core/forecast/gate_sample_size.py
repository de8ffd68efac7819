"""Expected sample size of a gate, for a service with known rates."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from sundog_operator.core.stats import absolute_floor, event_counts, events_needed, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers, Side
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricVerdict

_LEAST: Final = 1e-9
"""Smallest ratio, which stands for 0."""

DecidedBy = Literal["margin", "floor", "harm"]


@dataclass(frozen=True, slots=True)
class ExpectedSampleSize:
    """Sample size at which about half of all rollouts are decided.

    Attributes:
        verdict: the decision, Passed or Harm.
        by: the limit that decides.
        requests: requests of both arms.
        events: failed requests among them.
    """

    verdict: MetricVerdict
    by: DecidedBy
    requests: float
    events: float


def estimate_sample_size(rate: float, times: float, weight: float, limits: MetricLimits) -> ExpectedSampleSize | None:
    """Return the first decision that is expected; None where none is.

    Failures are taken as independent.

    Args:
        rate: the share of control's requests that fail, in [0, 1).
        times: the treatment's rate divided by control's.
        weight: the treatment's share of the requests, in (0, 1).
        limits: the limits of one metric, as numbers.
    """
    failing = rate * (1 - weight) + min(rate * times, 1.0) * weight
    ways = (_by_margin(times, weight, limits), _by_harm(times, weight, limits)) if failing else ()
    decided = [
        ExpectedSampleSize(verdict, by, events / failing, events)
        for verdict, by, events in ways
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
    boundary, bar = 1 + np.asarray(limits.margin), multiple_testing.log_e_threshold(limits.alpha / limits.tests)
    independent = _events(times, boundary, weight, bar, "above")
    # Harm also needs more events of the treatment than bursts show, which fall by replica.
    bursts = bar / float(event_counts.log_e_of_burst(boundary, np.array([weight])).item())
    treatment_share = times * weight / (times * weight + 1 - weight)
    return MetricVerdict.HARM, "harm", max(independent, bursts / treatment_share) if times else independent


def _events(times: float, boundary: Numbers, weight: float, bar: float, side: Side) -> float:
    ratio = np.asarray(max(times, _LEAST))
    return float(events_needed.events_needed(ratio, boundary, np.asarray(weight), np.asarray(bar), side))


def _by_floor(rate: float, times: float, weight: float, limits: MetricLimits) -> float:
    """Return the requests of both arms at which the gate passes by the floor; infinite without a floor, and for never."""
    if not limits.floor:
        return math.inf
    # Start with one event of the treatment at a rate equal to the floor, far fewer than decide.
    treatment = 1 / np.asarray(limits.floor, float)
    control = treatment * (1 - weight) / weight
    counts = EventCounts(
        control=np.atleast_1d(control * rate),
        treatment=np.atleast_1d(treatment * min(rate * times, 1.0)),
        control_units=np.atleast_1d(control),
        treatment_units=np.atleast_1d(treatment),
        weight=np.atleast_1d(weight),
        blocks=[],
    )
    units, _ = absolute_floor.units_for_floor(counts, limits, np.array(True))
    return float(units.item()) / weight
