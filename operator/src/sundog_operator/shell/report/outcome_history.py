"""Effects by day, power and probable winners of success metrics, from the history of an Experiment."""

import itertools
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    CONTROL,
    DEFAULT_ALPHA,
    ExperimentStatus,
    HistoryMetric,
    HistoryPoint,
    PlanOutcome,
)
from sundog_operator.core.analysis.outcome_status import make_metric
from sundog_operator.core.stats import mean_ratio, multiple_testing, thompson_sampling
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.trial.experiment import power, state
from sundog_operator.shell.report.model import ArmChance, OutcomeChances, PeriodEffect

_PERIODS: Final = (("day", timedelta(days=1), "%b %-d"), ("hour", timedelta(hours=1), "%H:00"))
"""Name, length and label of the periods; the longest one of which there are two is used."""

_ROUNDING: Final = 1e-3
"""Values in the history have three digits."""

Known = tuple[datetime, HistoryMetric]


def _known(points: Sequence[HistoryPoint], name: str, arm: str) -> list[Known]:
    """Return the points at which a success metric of an arm has values."""
    return [
        (point.at, metric)
        for point in points
        for metric in point.metrics or ()
        if (metric.name, metric.role, metric.arm) == (name, "success", arm) and metric.values and metric.units
    ]


def make_periods(
    status: ExperimentStatus, outcome: PlanOutcome, arm: str, points: Sequence[HistoryPoint], start: datetime
) -> tuple[str, tuple[PeriodEffect, ...]]:
    """Return the period's name, and the effect in each of them: of what was added between its first and its last evaluation."""
    known = _known(points, outcome.name, arm)
    # Neither the denominators of a ratio nor the dispersion of requests is kept.
    if outcome.type == "ratio" or outcome.metric is not None or len(known) < 2:
        return "day", ()
    first = state_since(status, start)
    lasted = known[-1][0] - first
    name, length, label = next((each for each in _PERIODS if lasted >= 2 * each[1]), _PERIODS[-1])
    ends = [own[-1] for own in _split(known, length)]
    metric, alpha = make_metric(outcome), status.plan.alpha or DEFAULT_ALPHA
    found = []
    # A history that an upgrade began later does not show in which period its first sums came.
    begin: list[tuple[datetime, HistoryMetric | None]] = [(first, None)] if known[0][0] - first < length else []
    for (begun, before), (at, own) in itertools.pairwise([*begin, *ends]):
        assert own is not None
        sums = _added(metric, own, before)
        effect = _period(sums, metric, alpha)
        if effect is not None:
            middle = begun + (at - begun) / 2
            text = f"{middle:{label}}".replace(" 0", " ")
            found.append(PeriodEffect(text, _seconds(start, begun), _seconds(start, at), *effect))
    return name, tuple(found)


def state_since(status: ExperimentStatus, start: datetime) -> datetime:
    """Return when the arms got their traffic; `start` if that is unknown."""
    return status.since or start


def _split(known: Sequence[Known], length: timedelta) -> Iterator[list[Known]]:
    """Yield the points of each period of UTC time."""
    for _, own in itertools.groupby(known, lambda each: each[0].timestamp() // length.total_seconds()):
        yield list(own)


def _seconds(start: datetime, at: datetime) -> float:
    return max((at - start) / timedelta(seconds=1), 0.0)


def _sums(metric: OutcomeMetric, own: HistoryMetric | None, side: int) -> tuple[int, float, float]:
    """Return (units, Σy, Σy²) of control or of the arm until a point."""
    if own is None or not own.units or not own.values:
        return 0, 0.0, 0.0
    units, value = own.units[side], own.values[side]
    if metric.type == "rate":
        hits = float(round(value * units))
        return units, hits, hits
    deviation = own.deviations[side] if own.deviations else 0.0
    return units, value * units, units * (value**2 + deviation**2)


def _added(
    metric: OutcomeMetric, own: HistoryMetric, before: HistoryMetric | None
) -> tuple[tuple[int, float, float], ...]:
    """Return what was added between two points, for control and for the arm."""
    found = []
    for side in (0, 1):
        units, total, squares = (
            new - old for new, old in zip(_sums(metric, own, side), _sums(metric, before, side), strict=True)
        )
        found.append((int(units), float(total), float(squares)))
    return tuple(found)


def _period(
    sums: Sequence[tuple[int, float, float]], metric: OutcomeMetric, alpha: float
) -> tuple[tuple[int, int], tuple[float, float], float | None, float | None, float | None] | None:
    """Return units, values, ratio and the ends of its interval; None without units of both."""
    (control, own_total, _), (arm, other_total, _) = sums
    # Late outcomes of earlier units, or an epoch that is no evidence any more, leave sums that no units of the period can have.
    if min(control, arm) < 1 or not all(_is_possible(metric, *own) for own in sums):
        return None
    values = own_total / control, other_total / arm
    ratio = values[1] / values[0] if values[0] > 0 else None
    # Units without a value are not known; those of a mean count as if all had one, which shortens its burn-in.
    (control_sums, arm_sums) = (
        (units, total if metric.type == "rate" else units, total, squares) for units, total, squares in sums
    )
    bar = multiple_testing.log_e_threshold(alpha)
    lower, upper = mean_ratio.compare_sums(control_sums, arm_sums, metric.deviation, bar)
    has_interval = math.isfinite(lower) and math.isfinite(upper)
    return (control, arm), values, ratio, lower if has_interval else None, upper if has_interval else None


def _is_possible(metric: OutcomeMetric, units: int, total: float, squares: float) -> bool:
    """Whether so many units can have these sums of values and squares."""
    return (
        0 <= total <= units if metric.type == "rate" else squares >= 0 and total**2 <= units * squares * (1 + _ROUNDING)
    )


def make_chances(status: ExperimentStatus, points: Sequence[HistoryPoint], start: datetime) -> Iterator[OutcomeChances]:
    """Yield the chances of each success metric of outcomes, for the lanes of a report."""
    comparison = status.plan.comparison
    if comparison is None:
        return
    success = [each for each in comparison.outcomes if each.role == "success"]
    arms = [arm.name for arm in state.treatment_arms(status)]
    level = (status.plan.alpha or DEFAULT_ALPHA) / max(1, len(success) * len(arms))
    for outcome in (each for each in success if each.metric is None):
        metric = make_metric(outcome)
        by_arm = {arm: dict(_known(points, outcome.name, arm)) for arm in arms}
        times = sorted({at for own in by_arm.values() for at in own})
        rows: dict[str, list[ArmChance]] = {name: [] for name in (CONTROL, *arms)}
        for at in times:
            present = {arm: own[at] for arm, own in by_arm.items() if at in own}
            best = _probability_best(metric, present)
            for name, chances in rows.items():
                known = present.get(name)
                if name == CONTROL or known is not None:
                    chances.append(ArmChance(_seconds(start, at), _power(metric, known, level), best.get(name)))
        if times:
            lanes = tuple(tuple(rows.get(arm.name, ())) for arm in status.arms)
            yield OutcomeChances(outcome.name, metric.effect, lanes)


def _deviation(metric: OutcomeMetric, own: HistoryMetric, side: int) -> float:
    value = own.values[side] if own.values else 0.0
    if metric.type == "rate":
        return math.sqrt(max(value * (1 - value), 0.0))
    return own.deviations[side] if own.deviations else 0.0


def _power(metric: OutcomeMetric, own: HistoryMetric | None, level: float) -> float | None:
    if own is None or not own.units or not own.values:
        return None
    units, deviation = (own.units[0], own.units[1]), _deviation(metric, own, 0)
    return power.reached_power(metric, units, own.values[0], deviation, level)


def _probability_best(metric: OutcomeMetric, present: dict[str, HistoryMetric]) -> dict[str, float]:
    """Return the probability to be best of control and of each arm with values; empty if one of them is certain."""
    if not present:
        return {}
    first = next(iter(present.values()))
    sides = {CONTROL: (first, 0), **{arm: (own, 1) for arm, own in present.items()}}
    values, variances = [], []
    for own, side in sides.values():
        units = own.units[side] if own.units else 0
        values.append(own.values[side] if own.values else 0.0)
        variances.append(_deviation(metric, own, side) ** 2 / max(units, 1))
    if min(variances) <= 0:
        return {}
    return dict(zip(sides, thompson_sampling.chances_to_be_best(values, variances, metric.sign), strict=True))
