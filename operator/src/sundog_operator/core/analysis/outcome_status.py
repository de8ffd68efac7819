"""Status of each outcome metric. Pure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sundog_operator.api import MetricStatus, MetricValue, PlanOutcome
from sundog_operator.api.reasons import MetricNote
from sundog_operator.core.analysis import feedback
from sundog_operator.core.stats import mean_ratio, multiple_testing, outcome_counts, single_rate
from sundog_operator.core.stats.known_ends import known_ends
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

MAX_MESSAGE_CHARS: Final = 1024
"""Longest message of a metric in characters."""

_LONGEST_S: Final = 10 * 365 * 86400.0
"""Longest estimate of a duration that is reported."""


def make_metric(planned: PlanOutcome) -> OutcomeMetric:
    """Return the metric that the tests know."""
    return OutcomeMetric(
        planned.name,
        planned.type,
        planned.goal,
        planned.minimum_effect,
        planned.margin,
        adjusted=planned.covariate is not None,
        window_s=feedback.window_s(planned),
        counted="units" if planned.metric is None else "events",
        by_units=planned.rate_by is not None,
    )


def count_events(metric: OutcomeMetric, epochs: Sequence[OutcomeEpoch], index: int, arm_index: int) -> tuple[int, ...]:
    """Return the counted units of control and of an arm: with a first value above 0 for a rate, with any value otherwise."""
    if not epochs:
        return ()
    rows = [epoch.outcomes[index] for epoch in epochs]
    if metric.type == "rate":
        return sum(row[0].positive for row in rows), sum(row[arm_index].positive for row in rows)
    return sum(row[0].units for row in rows), sum(row[arm_index].units for row in rows)


def make_values(
    metric: OutcomeMetric, epochs: Sequence[OutcomeEpoch], index: int, arm_index: int, alpha: float
) -> tuple[MetricValue, ...]:
    """Return the values of control and of an arm over all epochs; empty without epochs."""
    rows = [[epoch.outcomes[index][arm] for epoch in epochs] for arm in (0, arm_index)]
    return tuple(_make_value(metric, own, alpha) for own in rows) if epochs else ()


def _make_value(metric: OutcomeMetric, rows: Sequence[OutcomeCounts], alpha: float) -> MetricValue:
    exposed = sum(row.exposed for row in rows)
    if metric.type == "rate":
        return make_rate(sum(row.positive for row in rows), exposed, alpha)
    # The value shown is the plain mean, so its interval is not that of an adjusted one.
    known = outcome_counts.describe_units(replace(metric, adjusted=False), rows)
    if known is None or not all(row.valid for row in rows):
        return MetricValue(count=exposed)
    value, deviation = known
    valued = min(
        sum(row.units for row in rows), sum(row.other_units for row in rows) if metric.type == "ratio" else exposed
    )
    interval: tuple[float, ...] = ()
    if valued >= mean_ratio.BURN_IN and deviation > 0:
        bar = multiple_testing.log_e_threshold(alpha)
        interval = mean_ratio.average_interval(value, deviation, exposed, metric.deviation, bar)
    return MetricValue(
        value=_shorten(value), interval=tuple(map(_shorten, interval)), count=exposed, deviation=_shorten(deviation)
    )


def make_rate(hits: int, trials: int, alpha: float, dispersion: float = 1.0) -> MetricValue:
    """Return a rate with its interval, which is wider by the dispersion; without a value if there are no trials."""
    if not 0 <= hits <= trials or not trials:
        return MetricValue(count=max(trials, 0))
    ends = single_rate.rate_interval(hits, trials, alpha, dispersion)
    return MetricValue(value=_shorten(hits / trials), interval=tuple(map(_shorten, ends)), count=trials)


def _shorten(number: float) -> float:
    """Round to six digits: enough for a view, and to compare two days."""
    return float(f"{number:.6g}")


def make_edge_values(finding: OutcomeFinding, alpha: float) -> tuple[MetricValue, ...]:
    """Return the rates of control and of the arm in a metric of the edge; empty without counts."""
    both = zip(finding.events, finding.requests, strict=True) if finding.requests else ()
    return tuple(make_rate(events, requests, alpha, finding.dispersion) for events, requests in both)


def make_status(
    finding: OutcomeFinding,
    role: str,
    arm: str,
    events: tuple[int, ...],
    message: str,
    *,
    values: tuple[MetricValue, ...] = (),
    out: bool = False,
) -> MetricStatus:
    """Return the status of one metric of one arm; a dropped arm has no estimates, because it gets no more units."""
    depends = finding.dispersion > 1 and any(events)
    return MetricStatus(
        name=finding.metric.name,
        role=role,
        arm=arm,
        events=events,
        ratio=_finite(1 + finding.uplift),
        interval=known_ends(1 + finding.lower, 1 + finding.upper),
        measure=finding.metric.type,
        values=values or None,
        independent_events=float(f"{sum(events) / finding.dispersion:.3g}") if depends else None,
        allowed=None if finding.metric.margin is None else round(finding.metric.tested, 6),
        verdict=str(finding.verdict),
        needed=None if out else _finite(finding.needed),
        eta=timedelta(seconds=round(finding.eta_s)) if finding.eta_s <= _LONGEST_S and not out else None,
        message=message[:MAX_MESSAGE_CHARS],
        note=MetricNote.ARM_DROPPED if out and finding.verdict == OutcomeVerdict.UNDECIDED else None,
    )


def mark_unreported(metric: MetricStatus, who: str, reported_as: str) -> MetricStatus:
    """Return an undecided metric without any outcome with how to report one, instead of the units that it would need."""
    if metric.verdict != OutcomeVerdict.UNDECIDED or metric.note is not None:
        return metric
    message = (
        f"{metric.name} of {who}: no outcome {reported_as} of any unit was reported yet; POST it to -/feedback below the"
        " service's URL, with the x-sundog-exposure of its answer"
    )
    return metric.model_copy(update={"message": message, "note": MetricNote.UNREPORTED})


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
