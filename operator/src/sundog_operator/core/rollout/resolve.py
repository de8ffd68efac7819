"""What a spec leaves to the service's own traffic: steps, guardrails, and the latency that a candidate is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    DEFAULT_MAX_DURATION,
    DEFAULT_MIN_DURATION,
    MAX_LATENCY_GUARDRAILS,
    MetricGuardrail,
    PlanGuardrail,
    PlanStep,
    Rollout,
    RolloutGuardrail,
    is_latency_metric,
    parse_duration,
)

BUSY_RPS: Final = 50.0
"""Requests per second from which small weights and high quantiles can be judged in minutes."""

VERY_BUSY_RPS: Final = 1000.0
MIN_TIMED_ANSWERS: Final = 100
"""Answers of stable that it takes to know a quantile. Which one exactly is found decides nothing: both arms are held to it."""

MIN_MARGIN_US: Final = 1000
"""Of a latency: two processes of one model differ by some tenths of a millisecond for as long as they live, either way."""

ERROR_RATE: Final = "errorRate"
REJECTIONS: Final = "rejections"
RETRIES: Final = "retries"
ERROR_MARGIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class StableTraffic:
    """Stable's traffic, as the edges have counted it.

    Attributes:
        requests_per_second: of the last hour at most; None where too little was seen.
        latencies: how many answers took how long, by bucket.
        edges_us: upper edges of the buckets but the last, in microseconds.
        error_rate: the share of stable's requests that failed, in the time of `requests_per_second`.
    """

    requests_per_second: float | None = None
    latencies: Sequence[int] = ()
    edges_us: Sequence[int] = ()
    error_rate: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is so much that small differences show soon."""
        return self.requests_per_second is not None and self.requests_per_second >= BUSY_RPS

    def quantile_us(self, share: float) -> int | None:
        """The upper edge of the bucket that has a quantile of the latency, in microseconds; None while too few answers were timed."""
        total, reached = sum(self.latencies), 0
        if total < MIN_TIMED_ANSWERS:
            return None
        for count, edge in zip(self.latencies, self.edges_us, strict=False):
            reached += count
            if reached >= share * total:
                return edge
        return None


def default_steps(traffic: StableTraffic) -> tuple[PlanStep, ...]:
    """The steps before 100 % of a rollout that names none."""
    first = (1,) if (traffic.requests_per_second or 0) >= VERY_BUSY_RPS else ()
    weights = (*first, 5, 25, 50) if traffic.is_busy else (25, 50)
    return tuple(
        PlanStep(weight=weight, gate="evidence", min_duration=DEFAULT_MIN_DURATION, max_duration=DEFAULT_MAX_DURATION)
        for weight in weights
    )


def resolve_guardrails(rollout: Rollout, traffic: StableTraffic) -> tuple[PlanGuardrail, ...]:
    """What a candidate is judged by. A latency that a list of guardrails leaves out is looked at for harm, unless the list disables it."""
    # What Prometheus is asked for stands beside the metrics, and in the place of none.
    named = [each for each in rollout.guardrails if each.metric is not None]
    given, known = [each for each in named if each.enabled], {each.metric for each in named}
    defaults = [each for each in _defaults(traffic) if each.metric not in known]
    if not given:
        return add_harm_guardrails(defaults, traffic)
    room = MAX_LATENCY_GUARDRAILS - sum(is_latency_metric(each.metric or "") for each in given)
    return add_harm_guardrails(
        given, traffic, [each for each in defaults if is_latency_metric(each.metric or "")][:room]
    )


def add_harm_guardrails(
    given: Sequence[MetricGuardrail], traffic: StableTraffic, harm_alone: Sequence[MetricGuardrail] = ()
) -> tuple[PlanGuardrail, ...]:
    """Guardrails as frozen, and those that no gate waits for. Errors, rejections and retries are always looked at for harm."""
    kept = (_frozen(each, traffic).model_copy(update={"role": "harm", "floor": 0.0}) for each in harm_alone)
    judged = resolve_thresholds([*(_frozen(each, traffic) for each in given), *kept], traffic)
    known = {each.metric for each in judged}
    hidden = (
        PlanGuardrail(metric=metric, role="harm", margin=ERROR_MARGIN)
        for metric in (ERROR_RATE, REJECTIONS, RETRIES)
        if metric not in known
    )
    return (*judged, *hidden)


def _defaults(traffic: StableTraffic) -> tuple[RolloutGuardrail, ...]:
    if traffic.is_busy:
        return RolloutGuardrail(metric=ERROR_RATE), RolloutGuardrail(metric="latencyP99", margin="10%")
    return RolloutGuardrail(metric=ERROR_RATE), RolloutGuardrail(metric="latencyP95", margin="25%")


def _frozen(guardrail: MetricGuardrail, traffic: StableTraffic) -> PlanGuardrail:
    if guardrail.metric is None:
        raise ValueError("a guardrail without a metric of the edge is refused where specs are read")
    is_rate = guardrail.metric == ERROR_RATE
    margin = _share(guardrail.margin or ("25%" if is_rate else "10%"))
    if is_rate:
        floor = _share(guardrail.floor or ("0.5%" if traffic.is_busy else "1%"))
        ceiling = None if guardrail.max is None else _share(guardrail.max)
        return PlanGuardrail(metric=guardrail.metric, margin=margin, floor=floor, max=ceiling)
    floor = _latency_floor(guardrail.metric) if guardrail.floor is None else _share(guardrail.floor)
    longest = None if guardrail.max is None else parse_duration(guardrail.max) // timedelta(microseconds=1)
    return PlanGuardrail(metric=guardrail.metric, margin=margin, floor=floor, max_microseconds=longest)


def _latency_floor(metric: str) -> float:
    """A tenth of the answers that are long by definition. Where nothing is long any more, as at night, no ratio could pass."""
    return round((1 - latency_quantile(metric)) / 10, 6)


def latency_quantile(metric: str) -> float:
    """The share of answers that a latency is about, such as 0.99."""
    return int(metric.removeprefix("latencyP")) / 100


def latency_guardrails(guardrails: Sequence[PlanGuardrail]) -> tuple[PlanGuardrail, ...]:
    """Those of a plan, in the order in which edges are told of them and count what takes long."""
    return tuple(each for each in guardrails if is_latency_metric(each.metric))


def resolve_thresholds(guardrails: Sequence[PlanGuardrail], traffic: StableTraffic) -> tuple[PlanGuardrail, ...]:
    """Latencies with the time that stable takes no longer than, as their names say how often; others, and known ones, as they are.

    All become known at once, by the same answers: edges count by all of them or by none.
    """
    found = {
        each.metric: traffic.quantile_us(latency_quantile(each.metric))
        for each in latency_guardrails(guardrails)
        if each.threshold_microseconds is None
    }
    known = {metric: microseconds for metric, microseconds in found.items() if microseconds is not None}
    if len(known) < len(found):
        return tuple(guardrails)
    return tuple(_known(each, known[each.metric]) if each.metric in known else each for each in guardrails)


def _known(guardrail: PlanGuardrail, found: int) -> PlanGuardrail:
    update = {
        "threshold_microseconds": found,
        "candidate_threshold_microseconds": found + max(round(found * guardrail.margin), MIN_MARGIN_US),
    }
    return guardrail.model_copy(update=update)


def format_latency(microseconds: int) -> str:
    """A latency for people, in three digits."""
    return f"{microseconds / 1000:.3g} ms" if microseconds < 999_500 else f"{microseconds / 1e6:.3g} s"


def needs_threshold(guardrails: Sequence[PlanGuardrail]) -> bool:
    """Whether it is not known yet what a long answer is."""
    return any(is_latency_metric(each.metric) and each.threshold_microseconds is None for each in guardrails)


def _share(percent: str) -> float:
    return float(percent.removesuffix("%")) / 100
