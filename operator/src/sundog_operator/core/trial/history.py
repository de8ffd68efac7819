"""History of an attempt's evaluations: a few points, spread over all of its time. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import ArmStatus, ExperimentStatus, HistoryMetric, HistoryPoint, MetricStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats.findings import DecisionBasis, MetricVerdict
from sundog_operator.core.trial import phases

MAX_POINTS: Final = 32
"""Points to keep: about 7 KiB of a status, 150 KiB for an experiment with ten arms."""

_METRICS: Final = 24
"""A rollout has at most 22. Of an experiment, success metrics come first, then outcomes that are guardrails, then the others of its first
arms.
"""

POINT_INTERVAL: Final = timedelta(minutes=1)
"""Time between two points that differ only in numbers."""


def record_point(status: ExperimentStatus, metrics: Sequence[MetricStatus], now: datetime) -> ExperimentStatus:
    """Add a point to a status that is about to be written, if the point is worth keeping.

    Args:
        status: the status to write.
        metrics: the metrics of the latest evaluation.
        now: the time of that evaluation.
    """
    point = make_point(status, metrics, now)
    known = status.history
    if known and not phases.is_over(status) and not _differs(known[-1], point):
        return status
    return status.model_copy(update={"history": thin_points((*known, point))})


def make_point(status: ExperimentStatus, metrics: Sequence[MetricStatus], at: datetime) -> HistoryPoint:
    """Return the state at a time, in few digits, with only the metrics that have events."""
    arms = list(_arms(status))
    known = [each for each in metrics if each.ratio is not None or any(each.events)]
    of_rollout = status.plan.comparison is None
    shown = [_history_metric(each, of_rollout=of_rollout) for each in sorted(known, key=_rank)]
    return HistoryPoint(
        at=at,
        epoch=status.epoch.number,
        weight=round(100 - _stable_weight(status)),
        weights=None if of_rollout else tuple(arm.weight for arm in arms) or None,
        requests=tuple(arm.requests for arm in arms),
        errors=tuple(arm.errors for arm in arms),
        units=tuple(arm.units for arm in arms) if any(arm.units_from == "exposures" for arm in arms) else None,
        metrics=tuple(shown[:_METRICS]) or None,
    )


def _rank(metric: MetricStatus) -> int:
    if metric.role == "success":
        return 0
    # Guardrails of the edge have a basis.
    return 1 if metric.role == "guardrail" and not metric.basis else 2


def _stable_weight(status: ExperimentStatus) -> float:
    """Return the percent of traffic that neither a canary nor an arm gets."""
    return sum(arm.weight for arm in status.arms if arm.name in names.STABLE_ARMS)


def _arms(status: ExperimentStatus) -> Iterator[ArmStatus]:
    if status.plan.comparison is not None:
        return iter(status.arms)
    by_name = {arm.name: arm for arm in status.arms}
    return (by_name[name] for name in (names.STABLE, names.CANARY) if name in by_name)


def _history_metric(metric: MetricStatus, *, of_rollout: bool) -> HistoryMetric:
    lower, upper = (*metric.interval, None, None)[:2]
    values = metric.values if metric.role == "success" and metric.values else ()
    known = tuple(each.value for each in values if each.value is not None)
    deviations = tuple(each.deviation for each in values if each.deviation is not None)
    return HistoryMetric(
        name=metric.name,
        role=None if of_rollout else metric.role,
        arm=None if of_rollout and metric.arm == names.CANARY else metric.arm,
        ratio=_round(metric.ratio),
        lower=_round(lower),
        upper=_round(upper),
        basis=None if metric.basis in ("", DecisionBasis.ALL_STEPS) else metric.basis,
        verdict=None if metric.verdict == MetricVerdict.UNDECIDED else metric.verdict,
        units=tuple(each.count for each in values) if len(known) == 2 else None,
        values=known if len(known) == 2 else None,
        deviations=deviations if len(known) == len(deviations) == 2 else None,
    )


def _round(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.3g}")


def _differs(last: HistoryPoint, point: HistoryPoint) -> bool:
    """Whether more than numbers changed, or the interval is over."""
    return (
        point.at - last.at >= POINT_INTERVAL or _weights(point) != _weights(last) or _verdicts(point) != _verdicts(last)
    )


def _weights(point: HistoryPoint) -> tuple[float, ...]:
    return (point.weight, *(point.weights or ()))


def _verdicts(point: HistoryPoint) -> dict[tuple[str, str | None, str | None], str | None]:
    return {(each.name, each.role, each.arm): each.verdict for each in point.metrics or ()}


def thin_points(points: Sequence[HistoryPoint]) -> tuple[HistoryPoint, ...]:
    """Thin points to `MAX_POINTS`, spread over all of the time.

    The first, the newest and those with a weight change stay, and the last one of each day (UTC) as long as others can go, because a report
    compares days. Of the others, the ones closest to both neighbours are dropped.
    """
    kept = list(points)
    while len(kept) > MAX_POINTS:
        inner = range(1, len(kept) - 1)
        droppable = [index for index in inner if _weights(kept[index]) == _weights(kept[index - 1])]
        within_days = [index for index in droppable if kept[index].at.date() == kept[index + 1].at.date()]
        del kept[min(within_days or droppable or inner, key=lambda index: kept[index + 1].at - kept[index - 1].at)]
    return tuple(kept)
