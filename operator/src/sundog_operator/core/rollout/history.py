"""What was known at the looks of an attempt: a few points, spread over all of its time, for those who look at it later. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import ArmStatus, ExperimentStatus, HistoryMetric, HistoryPoint, MetricStatus
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import state
from sundog_operator.core.stats.findings import DecisionBasis, MetricVerdict

MAX_POINTS: Final = 32
"""Points that are kept: some 7 KiB of a status, of an experiment with ten arms a hundred."""

_METRICS: Final = 24
"""A rollout has 12 at most; of an experiment what an arm wins by is kept first, then what is of its first arms."""

_FIRST: Final = "success"

POINT_INTERVAL: Final = timedelta(minutes=1)
"""Between two looks that differ in nothing but numbers."""


def record_point(status: ExperimentStatus, metrics: Sequence[MetricStatus], now: datetime) -> ExperimentStatus:
    """A status that is about to be written, with what is known now where that is worth keeping.

    Args:
        status: as it will be.
        metrics: what the evidence says, of the latest look.
        now: when that was.
    """
    point = make_point(status, metrics, now)
    known = status.history
    if known and not state.is_over(status) and not _differs(known[-1], point):
        return status
    return status.model_copy(update={"history": thin_points((*known, point))})


def make_point(status: ExperimentStatus, metrics: Sequence[MetricStatus], at: datetime) -> HistoryPoint:
    """What is known at a time, in few digits; of metrics those that happened."""
    arms = list(_arms(status))
    known = [each for each in metrics if each.ratio is not None or any(each.events)]
    of_rollout = status.plan.comparison is None
    happened = [_metric(each, of_rollout=of_rollout) for each in sorted(known, key=lambda each: each.role != _FIRST)]
    return HistoryPoint(
        at=at,
        epoch=status.epoch.number,
        weight=round(100 - _outside(status)),
        weights=None if of_rollout else tuple(arm.weight for arm in arms) or None,
        requests=tuple(arm.requests for arm in arms),
        errors=tuple(arm.errors for arm in arms),
        metrics=tuple(happened[:_METRICS]) or None,
    )


def _outside(status: ExperimentStatus) -> float:
    """Percent of the traffic that no candidate and no arm gets."""
    return sum(arm.weight for arm in status.arms if arm.name in names.STABLE_ARMS)


def _arms(status: ExperimentStatus) -> Iterator[ArmStatus]:
    if status.plan.comparison is not None:
        return iter(status.arms)
    by_name = {arm.name: arm for arm in status.arms}
    return (by_name[name] for name in (names.STABLE, names.CANARY) if name in by_name)


def _metric(told: MetricStatus, *, of_rollout: bool) -> HistoryMetric:
    lower, upper = (*told.interval, None, None)[:2]
    return HistoryMetric(
        name=told.name,
        role=None if of_rollout else told.role,
        arm=None if of_rollout and told.arm == names.CANARY else told.arm,
        ratio=_short(told.ratio),
        lower=_short(lower),
        upper=_short(upper),
        basis=None if told.basis in ("", DecisionBasis.ALL_STEPS) else told.basis,
        verdict=None if told.verdict == MetricVerdict.UNDECIDED else told.verdict,
    )


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.3g}")


def _differs(last: HistoryPoint, point: HistoryPoint) -> bool:
    """Whether anything but numbers has changed, or a while is over."""
    return (
        point.at - last.at >= POINT_INTERVAL or _weights(point) != _weights(last) or _verdicts(point) != _verdicts(last)
    )


def _weights(point: HistoryPoint) -> tuple[float, ...]:
    return (point.weight, *(point.weights or ()))


def _verdicts(point: HistoryPoint) -> dict[tuple[str, str | None, str | None], str | None]:
    return {(each.name, each.role, each.arm): each.verdict for each in point.metrics or ()}


def thin_points(points: Sequence[HistoryPoint]) -> tuple[HistoryPoint, ...]:
    """At most `MOST` of them, spread over all of the time.

    The first, the newest and those at which a weight changed stay; of the others those go that are closest to both their neighbours.
    """
    kept = list(points)
    while len(kept) > MAX_POINTS:
        inner = range(1, len(kept) - 1)
        spare = [index for index in inner if _weights(kept[index]) == _weights(kept[index - 1])]
        del kept[min(spare or inner, key=lambda index: kept[index + 1].at - kept[index - 1].at)]
    return tuple(kept)
