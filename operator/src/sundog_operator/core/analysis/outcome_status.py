"""Status of each outcome metric. Pure."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sundog_operator.api import MetricStatus, PlanOutcome
from sundog_operator.api.reasons import MetricNote
from sundog_operator.core.analysis import feedback
from sundog_operator.core.stats.findings import known_ends
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch, OutcomeMetric
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


def make_status(
    finding: OutcomeFinding, role: str, arm: str, events: tuple[int, ...], message: str, *, out: bool = False
) -> MetricStatus:
    """Return the status of one metric of one arm; a dropped arm has no estimates, because it gets no more units."""
    return MetricStatus(
        name=finding.metric.name,
        role=role,
        arm=arm,
        events=events,
        ratio=_finite(1 + finding.uplift),
        interval=known_ends(1 + finding.lower, 1 + finding.upper),
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
