"""Defaults from the service's own traffic: steps, guardrails, and latency thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    DEFAULT_MAX_DURATION,
    DEFAULT_MIN_DURATION,
    MAX_LATENCY_GUARDRAILS,
    MetricGuardrail,
    OutcomeGuardrail,
    PlanGuardrail,
    PlanOutcome,
    PlanStep,
    Rollout,
    RolloutGuardrail,
    parse_duration,
)
from sundog_operator.api.rollout.guardrail_defaults import (
    ALWAYS_CHECKED,
    BUSY_DEFAULT_LATENCY,
    BUSY_RPS,
    DEFAULT_LATENCY,
    DEFAULT_MARGIN,
    EDGE_METRICS,
    ERROR_RATE,
    MIN_MARGIN_US,
    is_latency_metric,
    latency_quantile,
)

VERY_BUSY_RPS: Final = 1000.0
MIN_TIMED_ANSWERS: Final = 100
"""Answers of stable that a quantile needs. Its exact value is not critical, because both arms are compared with it."""

MIN_WIN_THRESHOLD_US: Final = 5 * MIN_MARGIN_US
"""Least latency by which an arm can win: with a shorter one, the millisecond is too large a part of it."""

EARLY_HARM: Final = 0.2
"""Share of the harm error that new plans spend on errors in the first blocks of a canary or an arm."""


@dataclass(frozen=True, slots=True)
class StableTraffic:
    """Stable's traffic, as the edges have counted it.

    Attributes:
        requests_per_second: over the last hour at most; None if too little was counted.
        latencies: answers by latency bucket.
        edges_us: upper edges of all buckets except the last, in microseconds.
        error_rate: share of stable's requests that failed, in the time of `requests_per_second`.
    """

    requests_per_second: float | None = None
    latencies: Sequence[int] = ()
    edges_us: Sequence[int] = ()
    error_rate: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the traffic is enough to detect small differences soon."""
        return self.requests_per_second is not None and self.requests_per_second >= BUSY_RPS

    def quantile_us(self, share: float) -> int | None:
        """Return the upper edge of the bucket with a latency quantile, in microseconds; None if too few answers were timed."""
        total, reached = sum(self.latencies), 0
        if total < MIN_TIMED_ANSWERS:
            return None
        for count, edge in zip(self.latencies, self.edges_us, strict=False):
            reached += count
            if reached >= share * total:
                return edge
        return None


def default_steps(traffic: StableTraffic) -> tuple[PlanStep, ...]:
    """Return the default steps before 100 %."""
    first = (1,) if (traffic.requests_per_second or 0) >= VERY_BUSY_RPS else ()
    weights = (*first, 5, 25, 50) if traffic.is_busy else (25, 50)
    return tuple(
        PlanStep(weight=weight, gate="evidence", min_duration=DEFAULT_MIN_DURATION, max_duration=DEFAULT_MAX_DURATION)
        for weight in weights
    )


def resolve_guardrails(rollout: Rollout, traffic: StableTraffic) -> tuple[PlanGuardrail, ...]:
    """Return the guardrails. A latency that the spec's list leaves out is checked for harm, unless the list disables it."""
    # Outcomes and Prometheus checks are additional: they replace no metric.
    named = [each for each in rollout.guardrails if each.metric is not None]
    given, known = [each for each in named if each.enabled], {each.metric for each in named}
    defaults = [each for each in _default_guardrails(traffic) if each.metric not in known]
    if not given:
        return add_harm_guardrails(defaults, traffic)
    unused = MAX_LATENCY_GUARDRAILS - sum(is_latency_metric(each.metric or "") for each in given)
    return add_harm_guardrails(
        given, traffic, [each for each in defaults if is_latency_metric(each.metric or "")][:unused]
    )


def add_harm_guardrails(
    given: Sequence[MetricGuardrail],
    traffic: StableTraffic,
    harm_alone: Sequence[MetricGuardrail] = (),
    measured: Sequence[PlanGuardrail] = (),
) -> tuple[PlanGuardrail, ...]:
    """Return guardrails as frozen, those for harm alone, and latencies that are only measured.

    Errors, rejections and retries are always checked for harm.
    """
    kept = (_plan_guardrail(each, traffic).model_copy(update={"role": "harm", "floor": 0.0}) for each in harm_alone)
    planned = [*(_plan_guardrail(each, traffic) for each in given), *kept]
    known = {each.metric for each in planned}
    hidden = (
        PlanGuardrail(metric=metric, role="harm", margin=_parse_percent(EDGE_METRICS[metric].margin))
        for metric in ALWAYS_CHECKED
        if metric not in known
    )
    return resolve_thresholds([*planned, *hidden, *measured], traffic)


def add_default_guardrails(given: Sequence[MetricGuardrail], traffic: StableTraffic) -> tuple[MetricGuardrail, ...]:
    """Return the given guardrails and the defaults of rollouts; a given latency replaces the default one."""
    known = {each.metric for each in given}
    has_latency = any(is_latency_metric(each.metric or "") for each in given)
    defaults = (
        each
        for each in _default_guardrails(traffic)
        if each.metric not in known and not (has_latency and is_latency_metric(each.metric or ""))
    )
    return (*given, *defaults)


def _default_guardrails(traffic: StableTraffic) -> tuple[RolloutGuardrail, ...]:
    latency, margin = BUSY_DEFAULT_LATENCY if traffic.is_busy else DEFAULT_LATENCY
    return RolloutGuardrail(metric=ERROR_RATE), RolloutGuardrail(metric=latency, margin=margin)


def _plan_guardrail(guardrail: MetricGuardrail, traffic: StableTraffic) -> PlanGuardrail:
    if guardrail.metric is None:
        raise ValueError("guardrail without an edge metric; the spec's validation rejects it")
    default = EDGE_METRICS[guardrail.metric]
    floor = default.busy_floor if traffic.is_busy else default.floor
    planned = PlanGuardrail(
        metric=guardrail.metric,
        margin=_parse_percent(guardrail.margin or default.margin),
        floor=floor if guardrail.floor is None else _parse_percent(guardrail.floor),
    )
    if guardrail.max is None:
        return planned
    if guardrail.metric == ERROR_RATE:
        return planned.model_copy(update={"max": _parse_percent(guardrail.max)})
    return planned.model_copy(update={"max_microseconds": parse_duration(guardrail.max) // timedelta(microseconds=1)})


def plan_outcome_guardrail(guardrail: OutcomeGuardrail) -> PlanOutcome:
    """Return a guardrail that is an outcome, as frozen. Raises ValueError for another guardrail."""
    if guardrail.name is None or guardrail.feedback is None:
        raise ValueError("outcome guardrail without name or feedback; the spec's validation rejects it")
    return PlanOutcome(
        name=guardrail.name,
        role="guardrail",
        feedback=guardrail.feedback,
        type=guardrail.type or "rate",
        rate_by="units" if (guardrail.type or "rate") == "rate" else None,
        goal=guardrail.goal or "increase",
        cap=guardrail.cap,
        margin=_parse_percent(guardrail.margin or DEFAULT_MARGIN),
    )


def latency_guardrails(guardrails: Sequence[PlanGuardrail]) -> tuple[PlanGuardrail, ...]:
    """Return the latency guardrails, in the order in which edges get their thresholds and count slow answers."""
    return tuple(each for each in guardrails if is_latency_metric(each.metric))


def tested_guardrails(guardrails: Sequence[PlanGuardrail]) -> tuple[PlanGuardrail, ...]:
    """Return the guardrails without latencies that are only measured."""
    return tuple(each for each in guardrails if each.role != "measured")


def resolve_thresholds(guardrails: Sequence[PlanGuardrail], traffic: StableTraffic) -> tuple[PlanGuardrail, ...]:
    """Set the thresholds of latencies to stable's quantiles; keep other guardrails, and thresholds that are known.

    All become known at once, from the same answers: edges count by all thresholds or by none.
    """
    found = {
        each.metric: traffic.quantile_us(latency_quantile(each.metric))
        for each in latency_guardrails(guardrails)
        if each.threshold_microseconds is None
    }
    known = {metric: microseconds for metric, microseconds in found.items() if microseconds is not None}
    if len(known) < len(found):
        return tuple(guardrails)
    return tuple(
        _with_threshold(each, known[each.metric])
        if each.metric in known and each.threshold_microseconds is None
        else each
        for each in guardrails
    )


def _with_threshold(guardrail: PlanGuardrail, threshold_us: int) -> PlanGuardrail:
    allowed_us = max(round(threshold_us * guardrail.margin), MIN_MARGIN_US)
    if guardrail.role == "measured":
        # An arm wins if it is faster even with a millisecond more for each answer. By a fifth at most, so that some time is left.
        allowed_us = -min(MIN_MARGIN_US, threshold_us // 5)
    update = {"threshold_microseconds": threshold_us, "candidate_threshold_microseconds": threshold_us + allowed_us}
    return guardrail.model_copy(update=update)


def format_latency(microseconds: int) -> str:
    """Format a latency for people, with three digits."""
    return f"{microseconds / 1000:.3g} ms" if microseconds < 999_500 else f"{microseconds / 1e6:.3g} s"


def needs_threshold(guardrails: Sequence[PlanGuardrail]) -> bool:
    """Whether a latency threshold is still unknown."""
    return any(is_latency_metric(each.metric) and each.threshold_microseconds is None for each in guardrails)


def _parse_percent(percent: str) -> float:
    # Not `api.parse_percent`, which rounds the last digit of some decimals otherwise: plans are compared with those frozen before.
    return float(percent.removesuffix("%")) / 100
