"""Verdicts on treatments from event counts: harm, a passed gate, or undecided. For many metrics and arms at once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import count_ratio, dispersion, events_needed, multiple_testing
from sundog_operator.core.stats.absolute_floor import fitting, is_below_floor
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import MetricFindings, MetricVerdict


class Verdicts(NamedTuple):
    """Verdicts on metrics and arms, each of their shape.

    Attributes:
        gate: the counts that the gate tests.
        harm: log E for harm.
        passing: log E against "worse than allowed", divided by the dispersion.
        phi: that dispersion.
        verdict: of `MetricVerdict`.
        by_floor: whether a metric passed by its floor.
    """

    gate: EventCounts
    harm: Numbers
    passing: Numbers
    phi: Numbers
    verdict: NDArray[np.object_]
    by_floor: NDArray[np.bool_]


def decide(counts: EventCounts, limits: MetricLimits, *, newest_alone: bool) -> Verdicts:
    """Return verdicts for any counts. Harm is tested over all epochs that are old enough to measure their own dispersion.

    A ratio that varies within the null breaks no test. But a bad newest epoch can hide behind good older ones, so gates of rollouts ignore
    those. A floor is always tested on the newest epoch. It compares rates, and with other weights and rates per epoch an arm's sums can be
    lower although none of its epochs is (Simpson's paradox).

    Args:
        counts: events of each metric and arm.
        limits: their limits.
        newest_alone: whether gates test the newest epoch alone.
    """
    valid = counts.valid
    valid_counts = counts.only(valid)
    gate = valid_counts.newest(newest_alone)
    harm = valid_counts.only_measured().harm_log_e(1 + np.asarray(limits.margin), limits.concentrations)
    passing, phi = gate.log_e(limits.allowed, "below", limits.concentrations)
    verdict = _verdicts(valid, gate, limits, harm, passing)
    newest = valid_counts.newest()
    open_ = (verdict == MetricVerdict.UNDECIDED) & newest.has_units & newest.enough & (limits.allowed_increase > 0)
    by_floor = np.zeros(verdict.shape, bool)
    if open_.any():
        tested = newest.at(open_)
        floor_phi = np.maximum(tested.dispersion(fitting(limits.allowed, open_)), tested.request_design_effect())
        by_floor[open_] = is_below_floor(
            tested.sums, fitting(limits.allowed_increase, open_), floor_phi, limits.gate_alpha
        )
        verdict[by_floor] = MetricVerdict.PASSED
    return Verdicts(gate, harm, passing, phi, verdict, by_floor)


def evaluate_verdicts(counts: EventCounts, limits: MetricLimits, *, newest_alone: bool) -> MetricFindings:
    """Return findings for any counts, with the gate's ratio and without intervals; arguments as for `decide`."""
    found, valid = decide(counts, limits, newest_alone=newest_alone), counts.valid
    allowed = np.broadcast_to(limits.allowed, valid.shape)
    bar = found.phi * multiple_testing.log_e_threshold(limits.gate_alpha / 2)
    needed = _needed(found.gate, allowed, bar, found.verdict == MetricVerdict.UNDECIDED)
    ratio = np.where(valid, found.gate.estimate_ratio(), np.nan)
    return MetricFindings(
        ratio=ratio,
        harm=found.harm,
        passing=found.passing,
        allowed=allowed,
        needed=needed,
        eta_s=_eta_s(found.gate, needed),
        verdict=found.verdict,
        by_floor=found.by_floor,
    )


def gate_interval(counts: EventCounts, limits: MetricLimits, *, newest_alone: bool) -> tuple[Numbers, Numbers]:
    """Return (lower, upper) of the ratio as the gate tests it: it passes by the margin exactly where `upper` is at most `allowed`."""
    gate = counts.only(counts.valid).newest(newest_alone)
    return gate.interval(limits.allowed, limits.gate_alpha / 2, limits.concentrations)


def harm_interval(counts: EventCounts, limits: MetricLimits) -> tuple[Numbers, Numbers, Numbers]:
    """Return (ratio, lower, upper) as harm is tested: it is found exactly where `lower` is at least 1 + margin."""
    tested = counts.only(counts.valid).only_measured()
    ratio = tested.estimate_ratio()
    boundary = 1 + np.asarray(limits.margin)
    alpha = limits.alpha / limits.tests
    lower, upper = tested.interval(boundary, alpha, limits.concentrations, of_harm=True)
    _, phi = tested.log_e(boundary, "above", limits.concentrations)
    return ratio, np.minimum(lower, tested.least_ratio_by_bursts(phi, alpha)), upper


def _verdicts(
    valid: NDArray[np.bool_], gate: EventCounts, limits: MetricLimits, harm: Numbers, passing: Numbers
) -> NDArray[np.object_]:
    """Return the verdicts without floors. Earlier cases of the list win."""
    cases = [
        (~valid, MetricVerdict.INVALID),
        (~gate.has_units, MetricVerdict.NO_DATA),
        (harm >= multiple_testing.log_e_threshold(limits.alpha / limits.tests), MetricVerdict.HARM),
        (~gate.enough, MetricVerdict.UNDECIDED),
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
    found[wanted] = events_needed.events_needed(ratio, allowed[wanted], weight[:, -1], bar[wanted], "below")
    return found
