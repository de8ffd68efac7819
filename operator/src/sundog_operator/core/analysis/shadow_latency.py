"""Latency of a shadow step: how much longer the canary takes than stable, and a test if the step has a latency margin. Pure.

Times are histograms from the edges' present reports, in microseconds. The mirror's own time is part of the canary's.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from sundog_operator.api import MetricStatus, PlanShadow
from sundog_operator.core.edge.reported_counts import list_or_empty
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.stats import multiple_testing, quantiles
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.trial.default_plan import format_latency
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW

LATENCY_METRIC: Final = "shadowLatencyP99"

_P99: Final = 0.99
_TIGHTEST: Final = 1000
"""Pairs at which the interval of the difference is tightest."""

ShadowRows = Sequence[tuple[str, Mapping[str, Any]]]
"""(source, row) of each edge process."""


def histogram_edges(reports: Sequence[EdgeReport]) -> list[int]:
    """Return the upper edges of all buckets except the last, from the first report."""
    found = (
        list_or_empty((report.evidence or {}).get("histogram", {}).get("edgesUs"))
        for report in reports
        if report.evidence
    )
    return [each for each in next(found, ()) if type(each) is int]


def estimate_latency_difference(rows: ShadowRows, limits: Sequence[int], alpha: float) -> dict[str, Any]:
    """Return how much later the canary answers at the median, with bounds, as fields of a status; {} without a pair."""
    sums = _differences(rows, limits)
    if not limits or not sum(sums):
        return {}
    outer = [*limits, limits[-1]]
    values = [*(-each for each in reversed(outer)), *outer]
    found = {"latency_difference_microseconds": values[bisect_left(list(accumulate(sums)), sum(sums) / 2)]}
    bounds = [-math.inf, *(-each for each in reversed(limits)), 0, *limits, math.inf]
    lower, upper = quantiles.interval(sums, bounds, 0.5, multiple_testing.log_e_threshold(alpha), _TIGHTEST, alpha)
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return found
    return {**found, "latency_difference_interval": (int(lower), int(upper))}


def _differences(rows: ShadowRows, limits: Sequence[int]) -> list[int]:
    """Return pairs by how much later the canary answered, from the most negative difference on.

    Shape (2 · (limits + 1),).
    """
    return [*reversed(_summed(rows, "faster", limits)), *_summed(rows, "slower", limits)]


def _summed(rows: ShadowRows, name: str, limits: Sequence[int]) -> list[int]:
    sums = [0] * (len(limits) + 1)
    for _, row in rows:
        for place, number in enumerate(list_or_empty(row.get(name))):
            if type(number) is int and number > 0:
                sums[min(place, len(limits))] += number
    return sums


def evaluate_latency(
    plan: PlanShadow, rows: ShadowRows, limits: Sequence[int], unanswered: int, alpha: float
) -> Iterator[MetricStatus]:
    """Yield the status of the p99 latency if the step has a latency margin.

    A copy without an answer counts as slower than any. The mirror's own time makes the canary look slower than it is, never faster.
    So a pass is valid, and a failure to pass is no harm. The metric passes if the canary's upper bound is within the margin of stable's
    lower bound; each bound has half of the error.
    """
    if plan.latency_margin is None:
        return
    status = MetricStatus(name=LATENCY_METRIC, role=SHADOW, arm=names.CANARY, allowed=1 + plan.latency_margin)
    stable, candidate = (_summed(rows, name, limits) for name in ("stable", "candidate"))
    candidate[-1] += unanswered
    if not limits or not sum(stable) or not sum(candidate):
        message = f"{LATENCY_METRIC}: no answer of the canary yet"
        yield status.model_copy(update={"verdict": MetricVerdict.NO_DATA, "message": message})
        return
    own, others = (_p99(each, limits) for each in (candidate, stable))
    most, least = (_bounds(each, limits, plan, alpha / 2)[end] for each, end in ((candidate, 1), (stable, 0)))
    known = "bounds not known yet"
    if least and math.isfinite(most):
        known = f"at most {format_latency(int(most))}, stable at least {format_latency(int(least))}"
    message = (
        f"{LATENCY_METRIC}: {format_latency(own)}, stable {format_latency(others)}; {known};"
        f" margin {round(plan.latency_margin * 100, 3):g} %"
    )
    verdict = MetricVerdict.PASSED if most <= (1 + plan.latency_margin) * least else MetricVerdict.UNDECIDED
    yield status.model_copy(update={"ratio": round(own / others, 6), "verdict": verdict, "message": message})


def _p99(counts: Sequence[int], limits: Sequence[int]) -> int:
    """Return the upper edge of the p99's bucket; for the last bucket its lower edge."""
    return limits[min(bisect_left(list(accumulate(counts)), _P99 * sum(counts)), len(limits) - 1)]


def _bounds(counts: Sequence[int], limits: Sequence[int], plan: PlanShadow, level: float) -> tuple[float, float]:
    optimum = float(plan.min_samples)
    lower, upper = quantiles.interval(
        counts, [0, *limits, math.inf], _P99, multiple_testing.log_e_threshold(level), optimum, level
    )
    return max(lower, 0.0), upper
