"""What counts of events decide for candidates: harm, leave to go on, or what is still missing. Many metrics and arms at once."""

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import (
    count_ratio,
    multiple_testing,
)
from sundog_operator.core.stats import (
    dispersion as stats_dispersion,
)
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricFindings, MetricVerdict
from sundog_operator.core.stats.floor_test import fitting, is_below_floor
from sundog_operator.core.stats.power import sample_size


def evaluate_verdicts(
    counts: EventCounts, limits: MetricLimits, *, promotes: bool | NDArray[np.bool_]
) -> MetricFindings:
    """Findings for any counts. Harm is looked for in all epochs; where the step promotes, leave is given by the newest alone.

    Ratio and interval are those of the gate, the interval by a quicker test than the gate's. Whether one ratio fits all epochs is asked
    where the gate pools them: a ratio that changes, as that of a tail does with load, says nothing against a gate that looks at one epoch.

    A ratio that changes over epochs within the null breaks neither test, but a bad newest epoch can hide behind good older ones: so the
    last step does not look at those. A floor never does: it compares rates, and of epochs with other weights and other rates the sums of
    an arm may be lower than the other's although none of its own is (Simpson). `promotes` is of a shape that fits the metrics and arms.
    """
    valid = counts.valid
    sane = counts.only(valid)
    gate = sane.newest(promotes)
    harm, _ = sane.log_e(1 + np.asarray(limits.margin), "above", limits.concentrations)
    passing, phi = gate.log_e(limits.allowed, "below", limits.concentrations)
    bar = phi * multiple_testing.log_e_threshold(limits.gate_alpha)
    lower, upper = count_ratio.ratio_interval(gate.control, gate.candidate, gate.weight, bar, limits.concentrations)
    ratio = count_ratio.maximum_likelihood_ratio(gate.control, gate.candidate, gate.weight)
    early = ~sane.enough
    verdict = _verdicts(valid, gate, limits, harm, passing, early=early, empty=np.isnan(lower))
    newest = sane.newest(True)
    long = newest.has_units & newest.enough
    open_ = (verdict == MetricVerdict.UNDECIDED) & long & (limits.room > 0)
    by_floor = np.zeros(verdict.shape, bool)
    if open_.any():
        clumped = np.broadcast_to(np.maximum(newest.dispersion(limits.allowed), newest.of_requests()), open_.shape)
        below = is_below_floor(newest.sums[:, open_], fitting(limits.room, open_), clumped[open_], limits.gate_alpha)
        by_floor[open_] = below
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
    """(lower, upper) of the ratio as the gate tests it: it passes by the margin exactly where the upper end is at most `allowed`."""
    gate = counts.only(counts.valid).newest(promotes)
    return gate.interval(limits.allowed, limits.gate_alpha / 2, limits.concentrations)


def harm_interval(counts: EventCounts, limits: MetricLimits) -> tuple[Numbers, Numbers, Numbers]:
    """(ratio, lower, upper) as harm is tested: it is found exactly where the lower end is at least 1 + margin."""
    sane = counts.only(counts.valid)
    ratio = count_ratio.maximum_likelihood_ratio(sane.control, sane.candidate, sane.weight)
    boundary = 1 + np.asarray(limits.margin)
    return ratio, *sane.interval(boundary, limits.alpha / limits.tests, limits.concentrations)


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
    """Of each, floors aside; what comes first in the list goes before the others."""
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
    events, seconds = (gate.control + gate.candidate).sum(-1), gate.closed * stats_dispersion.LENGTHS_S[0]
    with np.errstate(all="ignore"):
        left = np.maximum(needed - events, 0.0) * seconds / events
    return np.where((events > 0) & (seconds > 0), left, np.where(np.isnan(needed), np.nan, np.inf))


def _needed(gate: EventCounts, allowed: Numbers, bar: Numbers, wanted: NDArray[np.bool_]) -> Numbers:
    """Of those that are wanted, the events of both arms that typically decide; NaN of the others."""
    found = np.full(wanted.shape, np.nan)
    if not wanted.any():
        return found
    control, candidate, weight = (
        np.broadcast_to(part, gate.control.shape)[wanted] for part in (gate.control, gate.candidate, gate.weight)
    )
    ratio = count_ratio.maximum_likelihood_ratio(control, candidate, weight)
    # What has not happened yet may still: half an event keeps the guess above 0.
    ratio = np.where(np.isnan(ratio), 1.0, np.maximum(ratio, 0.5 / (control.sum(-1) + 1)))
    found[wanted] = sample_size.events_needed(ratio, allowed[wanted], weight[:, -1], bar[wanted], "below")
    return found
