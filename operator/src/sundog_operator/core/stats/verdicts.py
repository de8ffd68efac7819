"""Verdicts on treatments from event counts: harm, a passed gate, or undecided. For many metrics and arms at once."""

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import count_ratio, dispersion, multiple_testing
from sundog_operator.core.stats.absolute_floor import fitting, is_below_floor
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricFindings, MetricVerdict
from sundog_operator.core.stats.power import sample_size


def evaluate_verdicts(
    counts: EventCounts, limits: MetricLimits, *, promotes: bool | NDArray[np.bool_]
) -> MetricFindings:
    """Return findings for any counts. Harm is tested over all epochs; a gate that promotes tests the newest epoch alone.

    The ratio and interval are the gate's, with a faster, two-sided interval. Only a gate that pools epochs asks whether one ratio fits them
    all. A ratio may change with load, as that of a tail does; that is no reason against a gate over one epoch.

    Where a sample of units is tested, both ends of the interval are NaN; `gate_interval` has them.

    A ratio that varies within the null breaks neither test. But a bad newest epoch can hide behind good older ones, so the last step
    ignores those. A floor is always tested on the newest epoch. It compares rates, and with other weights and rates per epoch an arm's sums
    can be lower although none of its epochs is (Simpson's paradox).

    Args:
        counts: events of each metric and arm.
        limits: their limits.
        promotes: whether passing promotes; broadcasts to the metrics and arms.
    """
    valid = counts.valid
    valid_counts = counts.only(valid)
    gate = valid_counts.newest(promotes)
    harm, _ = valid_counts.log_e(1 + np.asarray(limits.margin), "above", limits.concentrations)
    passing, phi = gate.log_e(limits.allowed, "below", limits.concentrations)
    bar = phi * multiple_testing.log_e_threshold(limits.gate_alpha)
    lower, upper = count_ratio.ratio_interval(gate.control, gate.treatment, gate.weight, bar, limits.concentrations)
    lower, upper = (np.where(gate.is_by_unit, np.nan, end) for end in (lower, upper))
    ratio = gate.estimate_ratio()
    early = ~valid_counts.enough
    verdict = _verdicts(valid, gate, limits, harm, passing, early=early, empty=np.isnan(lower) & ~gate.is_by_unit)
    newest = valid_counts.newest(True)
    has_data = newest.has_units & newest.enough
    open_ = (verdict == MetricVerdict.UNDECIDED) & has_data & (limits.room > 0)
    by_floor = np.zeros(verdict.shape, bool)
    if open_.any():
        floor_phi = fitting(np.maximum(newest.dispersion(limits.allowed), newest.request_design_effect()), open_)
        by_floor[open_] = is_below_floor(
            newest.sums[:, open_], fitting(limits.room, open_), floor_phi, limits.gate_alpha
        )
        verdict[by_floor] = MetricVerdict.PASSED
    allowed = np.broadcast_to(limits.allowed, valid.shape)
    needed = _needed(
        gate, allowed, phi * multiple_testing.log_e_threshold(limits.gate_alpha / 2), verdict == MetricVerdict.UNDECIDED
    )
    ratio, lower, upper = (np.where(valid, part, np.nan) for part in (ratio, lower, upper))
    return MetricFindings(ratio, lower, upper, harm, passing, allowed, needed, _eta_s(gate, needed), verdict, by_floor)


def gate_interval(
    counts: EventCounts, limits: MetricLimits, *, promotes: bool | NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """Return (lower, upper) of the ratio as the gate tests it: it passes by the margin exactly where `upper` is at most `allowed`."""
    gate = counts.only(counts.valid).newest(promotes)
    return gate.interval(limits.allowed, limits.gate_alpha / 2, limits.concentrations)


def harm_interval(counts: EventCounts, limits: MetricLimits) -> tuple[Numbers, Numbers, Numbers]:
    """Return (ratio, lower, upper) as harm is tested: it is found exactly where `lower` is at least 1 + margin."""
    valid_counts = counts.only(counts.valid)
    ratio = valid_counts.estimate_ratio()
    boundary = 1 + np.asarray(limits.margin)
    return ratio, *valid_counts.interval(boundary, limits.alpha / limits.tests, limits.concentrations)


def _verdicts(
    valid: NDArray[np.bool_],
    gate: EventCounts,
    limits: MetricLimits,
    harm: Numbers,
    passing: Numbers,
    *,
    early: NDArray[np.bool_],
    empty: NDArray[np.bool_],
) -> NDArray[np.object_]:
    """Return the verdicts without floors. Earlier cases of the list win."""
    cases = [
        (~valid, MetricVerdict.INVALID),
        (~gate.has_units, MetricVerdict.NO_DATA),
        (early, MetricVerdict.UNDECIDED),
        (harm >= multiple_testing.log_e_threshold(limits.alpha / limits.tests), MetricVerdict.HARM),
        (empty, MetricVerdict.HETEROGENEOUS),
        (passing >= multiple_testing.log_e_threshold(limits.gate_alpha / 2), MetricVerdict.PASSED),
    ]
    found = np.full(valid.shape, MetricVerdict.UNDECIDED, object)
    for where, verdict in reversed(cases):
        found[where] = verdict
    return found


def _eta_s(gate: EventCounts, needed: Numbers) -> Numbers:
    """Return the seconds until `needed` events at the gate's pace; NaN where that is NaN, infinite without events."""
    events, seconds = (gate.control + gate.treatment).sum(-1), gate.closed * dispersion.LENGTHS_S[0]
    with np.errstate(all="ignore"):
        left = np.maximum(needed - events, 0.0) * seconds / events
    return np.where((events > 0) & (seconds > 0), left, np.where(np.isnan(needed), np.nan, np.inf))


def _needed(gate: EventCounts, allowed: Numbers, bar: Numbers, wanted: NDArray[np.bool_]) -> Numbers:
    """Return the total events of both arms that typically decide, where `wanted`; NaN elsewhere."""
    found = np.full(wanted.shape, np.nan)
    if not wanted.any():
        return found
    control, treatment, weight = (
        np.broadcast_to(part, gate.control.shape)[wanted] for part in (gate.control, gate.treatment, gate.weight)
    )
    ratio = count_ratio.maximum_likelihood_ratio(control, treatment, weight)
    # Half an event keeps the estimate of the ratio above 0.
    ratio = np.where(np.isnan(ratio), 1.0, np.maximum(ratio, 0.5 / (control.sum(-1) + 1)))
    found[wanted] = sample_size.events_needed(ratio, allowed[wanted], weight[:, -1], bar[wanted], "below")
    return found
