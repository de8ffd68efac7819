"""The metrics that the edge measures, and what a guardrail on each allows by default: one table for plans, CRDs, docs and views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MetricName = Literal["errorRate", "latencyP50", "latencyP90", "latencyP95", "latencyP99"]
EdgeMetricName = Literal[MetricName, "rejections"]
PlanMetricName = Literal[EdgeMetricName, "retries"]

ERROR_RATE: Final = "errorRate"
REJECTIONS: Final = "rejections"
RETRIES: Final = "retries"

BUSY_RPS: Final = 50.0
"""Requests per second from which small weights and high quantiles are decided in minutes."""

DEFAULT_MARGIN: Final = "10%"
"""Margin of latencies and outcomes."""

ERROR_MARGIN: Final = "25%"
MIN_MARGIN_US: Final = 1000
"""Least latency margin: two processes of one model differ permanently by some tenths of a millisecond, in either direction."""


@dataclass(frozen=True, slots=True)
class EdgeMetric:
    """A metric of the edge, with the defaults of a guardrail on it.

    Attributes:
        events: what its events are called.
        margin: how much worse than stable the canary may be, in percent of stable.
        floor: share of requests by which a rate may be higher all the same.
        busy_floor: the floor from `BUSY_RPS` requests a second.
        quantile: of a latency, such as 0.99; None for other metrics.
    """

    events: str
    margin: str
    floor: float = 0.0
    busy_floor: float = 0.0
    quantile: float | None = None


def _latency(percentile: int) -> EdgeMetric:
    # A tenth of the share that is slow by definition. When nothing is slow, as at night, no ratio could pass.
    floor = round((1 - percentile / 100) / 10, 6)
    return EdgeMetric("slow answers", DEFAULT_MARGIN, floor, floor, quantile=percentile / 100)


EDGE_METRICS: Final[Mapping[str, EdgeMetric]] = {
    ERROR_RATE: EdgeMetric("failures", ERROR_MARGIN, floor=0.01, busy_floor=0.005),
    "latencyP50": _latency(50),
    "latencyP90": _latency(90),
    "latencyP95": _latency(95),
    "latencyP99": _latency(99),
    REJECTIONS: EdgeMetric("rejections", ERROR_MARGIN),
    RETRIES: EdgeMetric("retries", ERROR_MARGIN),
}

ALWAYS_CHECKED: Final = (ERROR_RATE, REJECTIONS, RETRIES)
"""Checked for harm in every rollout and Experiment."""

DEFAULT_LATENCY: Final[tuple[MetricName, str]] = ("latencyP95", "25%")
"""The latency that a rollout compares by default, and its margin."""

BUSY_DEFAULT_LATENCY: Final[tuple[MetricName, str]] = ("latencyP99", "10%")
"""The same from `BUSY_RPS` requests a second."""

LATENCY_MARGIN_TEXT: Final = f"Default: {ERROR_MARGIN} for errorRate, {DEFAULT_MARGIN} for latencies"
LEAST_MARGIN_TEXT: Final = f"A latency margin is at least {MIN_MARGIN_US // 1000} ms."
OUTCOME_MARGIN_TEXT: Final = (
    f"{LATENCY_MARGIN_TEXT} and outcomes. {LEAST_MARGIN_TEXT} That of an outcome to increase is below 100%."
)
FLOOR_TEXT: Final = (
    f"Default for errorRate {EDGE_METRICS[ERROR_RATE].busy_floor:.1%}, below {BUSY_RPS:g} requests a second"
    f" {EDGE_METRICS[ERROR_RATE].floor:.0%}; for latencyP99 {EDGE_METRICS['latencyP99'].floor:.1%}, likewise a tenth for others."
)
DEFAULT_GUARDRAILS_TEXT: Final = (
    f"Default: errorRate by {ERROR_MARGIN} and {' by '.join(DEFAULT_LATENCY)}; from {BUSY_RPS:g} requests a second"
    f" {' by '.join(BUSY_DEFAULT_LATENCY)} instead."
)


def is_latency_metric(metric: str) -> bool:
    """Whether a metric is a latency of the edge. An outcome may be called `latency` and is none."""
    return metric in EDGE_METRICS and EDGE_METRICS[metric].quantile is not None


def latency_quantile(metric: str) -> float:
    """Return the quantile of a latency metric, such as 0.99. Raises ValueError for another metric."""
    quantile = EDGE_METRICS[metric].quantile if metric in EDGE_METRICS else None
    if quantile is None:
        raise ValueError(f"metric {metric}: expected a latency of the edge")
    return quantile
