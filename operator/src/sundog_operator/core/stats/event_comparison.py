"""Test of whether an arm's rate of events at the edge, where less is better, is below control's: of errors, rejections, or slow answers.

It is the test of a rate of outcomes (`pooled_count_ratio`) with the events of requests instead of units. Requests of a burst or of one unit
depend on each other. So each log E is divided by the dispersion, as for guardrails: that over blocks of time, and over groups of units
where these stay with an arm. Dividing keeps an E-value: E^(1/φ) has an expectation of at most 1 where E has (Jensen).

Better is tested by the counts of ended requests, worse by those of all past ones. Of errors, each takes requests with an unknown end
against its own conclusion. Of slow answers and rejections, an unknown end is no event.
"""

from dataclasses import replace

import numpy as np

from sundog_operator.core.stats import dispersion, multiple_testing, outcome_comparison
from sundog_operator.core.stats.event_counts import EventCounts
from sundog_operator.core.stats.outcome_counts import OutcomeMetric, OutcomePairs
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeFindings, OutcomeVerdict


def compare_events(
    metric: OutcomeMetric, ended: EventCounts, past: EventCounts, level: float, worse_level: float
) -> OutcomeFinding:
    """Return the finding of one metric of one arm.

    Args:
        metric: a rate to decrease.
        ended: counts of requests that have ended, of shape (1, epochs); of errors, the arm's unknown ends count as events.
        past: counts of all past requests, of that shape; of errors, control's unknown ends count as events.
        level: the error of better, and of each end of the interval.
        worse_level: the error of worse.
    """
    if not (ended.valid[0] and past.valid[0]):
        return OutcomeFinding(metric, verdict=OutcomeVerdict.INVALID)
    if not ended.has_units[0]:
        return OutcomeFinding(metric)
    control, arm, control_requests, arm_requests = (float(each[0]) for each in ended.sums)
    events = int(control), int(arm)
    found, against = compare_counts(metric, ended, level), compare_counts(metric, past, worse_level)
    finding = OutcomeFinding(
        metric,
        control=control / control_requests,
        arm=arm / arm_requests,
        uplift=float(found.uplift[0]),
        lower=float(found.lower[0]),
        upper=float(found.upper[0]),
        better=float(found.better[0]),
        worse=float(against.worse[0]),
        exposed=sum(events),
        verdict=_verdict(found, against),
        events=events,
        requests=(int(control_requests), int(arm_requests)),
        dispersion=float(ended.dispersion(np.ones(ended.control.shape[:-1]))[0]),
    )
    closed = float(ended.closed[0])
    if not (ended.enough.all() and past.enough.all()):
        length, longer = dispersion.LENGTHS_S[:2]
        least = f"{dispersion.MIN_BLOCKS * length} s of data in whole blocks of {longer} s"
        return finding.hold(f"no verdict before {least}, so far {closed * length:.0f} s")
    if finding.verdict != OutcomeVerdict.UNDECIDED:
        return finding
    growth = float(found.growth()[0])
    # An infinite factor of no events is no number.
    needed = finding.exposed * growth if finding.exposed else np.inf
    return replace(finding, needed=needed, eta_s=(growth - 1) * closed * dispersion.LENGTHS_S[0])


def compare_counts(metric: OutcomeMetric, counts: EventCounts, level: float) -> OutcomeFindings:
    """Return the findings of one metric by the same counts for both directions, of the counts' shape; verdicts ignore the least time."""
    # Of rates, only the events and the number of units are used.
    control, treatment = (
        np.array([units, units, events], object)
        for units, events in ((counts.control_units, counts.control), (counts.treatment_units, counts.treatment))
    )
    pairs = OutcomePairs(control, treatment, np.broadcast_to(counts.weight, counts.control.shape))
    return outcome_comparison.compare_pairs(
        metric, pairs, multiple_testing.log_e_threshold(level), counts.dispersion(np.ones(counts.control.shape[:-1]))
    )


def _verdict(found: OutcomeFindings, against: OutcomeFindings) -> OutcomeVerdict:
    """Return the verdict of better by the one and of worse by the other."""
    if against.verdict[0] == OutcomeVerdict.WORSE:
        return OutcomeVerdict.WORSE
    verdict: OutcomeVerdict = found.verdict[0]
    return OutcomeVerdict.UNDECIDED if verdict == OutcomeVerdict.WORSE else verdict
