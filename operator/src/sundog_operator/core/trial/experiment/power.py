"""Power of an experiment: its expected duration, the probability of each end, and whether its time suffices."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import NormalDist
from typing import Final

from sundog_operator.api import CONTROL, ExperimentSpec, MetricStatus, parse_percent
from sundog_operator.core.stats import group_sequential
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.power import experiment_simulation
from sundog_operator.core.stats.power.experiment_simulation import AdaptiveWeights, ControlBaseline, ExperimentDesign
from sundog_operator.core.trial.experiment import allocation, freeze, winner

LOOKS: Final = 200
"""Looks of a simulated experiment, evenly over its time."""

PLANNED_POWER: Final = 0.8
"""Power of the group-sequential tests that the forecast compares with; the usual value."""

FEW_LOOKS: Final = 5

UNLIKELY_TEXT: Final = "is unlikely to be decided before the experiment stops"
"""Text after a metric's name; conditions find such metrics by it."""

_SEED: Final = 1
_MOST_LOOKS: Final = 200
_OFTEN: Final = (timedelta(days=1), timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class ExperimentTraffic:
    """Traffic of a service.

    Attributes:
        units_per_second: new units, of which the experiment gets its exposure; requests where each request is a unit.
        base: the known value of a unit of control.
    """

    units_per_second: float
    base: ControlBaseline


@dataclass(frozen=True, slots=True)
class ExperimentForecast:
    """Forecast of an experiment in which one arm is better and the others equal control.

    Attributes:
        effect: the arm's effect relative to control.
        units: units of all arms at which that arm is typically decided with the first weights; infinite for never.
        one_look: units of all arms with which a test with a single look, at the end, has `PLANNED_POWER`; infinite for never.
        few_looks: units of all arms of a group-sequential test with `FEW_LOOKS` looks and O'Brien-Fleming spending, at most.
        seconds: seconds until the arm is typically decided; infinite for never.
        right: the share of simulated experiments that the arm won. With an effect of 0, no win is right.
        wrong: the share that an arm won that is not better.
        no_winner: the share that ended because no arm can win.
        median_s: seconds until half of all were decided; infinite where fewer were.
        late_s: seconds until four fifths were decided, likewise.
    """

    effect: float
    units: float
    one_look: float
    few_looks: float
    seconds: float
    right: float
    wrong: float
    no_winner: float
    median_s: float
    late_s: float

    @property
    def undecided(self) -> float:
        """Share that was not decided in time."""
        return max(0.0, 1 - self.right - self.wrong - self.no_winner)


def units_per_second(spec: ExperimentSpec, traffic: ExperimentTraffic) -> float:
    """Return the experiment's new units per second."""
    return traffic.units_per_second * parse_percent(spec.exposure)


def horizon(spec: ExperimentSpec, traffic: ExperimentTraffic) -> timedelta:
    """Return the longest time that it runs: to its duration, or until it has its units and their conversion windows have passed."""
    of_metrics = [each.window for each in (*spec.metrics.success, *spec.metrics.secondary)]
    of_guardrails = [each.window for each in spec.metrics.outcome_guardrails]
    windows = [each for each in (*of_metrics, *of_guardrails) if each is not None]
    return _time_of_units(spec, traffic, max(windows, default=timedelta()))


def _time_of_units(spec: ExperimentSpec, traffic: ExperimentTraffic, window: timedelta) -> timedelta:
    """Return the longest time until it has its units and their conversion window has passed; at most its duration."""
    rate = units_per_second(spec, traffic)
    filling_s = spec.stop.max_units / rate if rate else math.inf
    return timedelta(seconds=min(spec.stop.max_duration.total_seconds(), filling_s + window.total_seconds()))


def forecast_experiment(
    spec: ExperimentSpec,
    traffic: ExperimentTraffic,
    metric_index: int,
    effect: float,
    *,
    runs: int,
    on_look: Callable[[int], None] = lambda _: None,
) -> ExperimentForecast:
    """Simulate an experiment by its spec. Guardrails pass, and other success metrics have no effect.

    Args:
        spec: a spec with success metrics.
        traffic: the service's traffic, above 0.
        metric_index: index of the simulated success metric.
        effect: the first arm's effect relative to control.
        runs: number of simulated experiments.
        on_look: called with the number of each finished look, of `LOOKS`.
    """
    longest, window = _evidence_time(spec, traffic, metric_index)
    design = _design(spec, metric_index, longest)
    step_s = longest.total_seconds() / LOOKS
    effects = [effect, *[0.0] * (len(spec.arms) - 1)]
    simulated = experiment_simulation.simulate_experiments(
        design,
        experiment_simulation.make_unit_model(
            design.metric, traffic.base, units_per_second(spec, traffic) * step_s, effects
        ),
        runs=runs,
        looks=LOOKS,
        seed=_SEED,
        on_look=on_look,
    )
    units = experiment_simulation.expected_units(design, traffic.base, effect)
    one_look, few_looks = (
        experiment_simulation.group_sequential_units(
            design, traffic.base, effect, _drift(looks, design.alpha / design.tests)
        )
        for looks in (1, FEW_LOOKS)
    )
    won = [int(arm) for arm in simulated.winner]
    window_s = window.total_seconds()
    ends = sorted(window_s + step_s * int(look) if look else math.inf for look in simulated.ended)
    right = sum(arm == 0 for arm in won) if effect > 0 else 0
    return ExperimentForecast(
        effect=effect,
        units=units,
        one_look=one_look,
        few_looks=few_looks,
        seconds=window_s + units / units_per_second(spec, traffic),
        right=right / runs,
        wrong=(sum(arm != experiment_simulation.NO_WINNER for arm in won) - right) / runs,
        no_winner=sum(map(bool, simulated.hopeless)) / runs,
        median_s=ends[(runs - 1) // 2],
        late_s=ends[math.ceil(0.8 * runs) - 1],
    )


def expected_units(spec: ExperimentSpec, base: ControlBaseline, metric_index: int) -> float:
    """Return units of all arms at which an arm with the minimum effect is typically decided; infinite for never."""
    design = _design(spec, metric_index, spec.stop.max_duration)
    return experiment_simulation.expected_units(design, base, planned_metrics(spec)[metric_index].effect)


def expected_duration(spec: ExperimentSpec, traffic: ExperimentTraffic, metric_index: int) -> tuple[float, float]:
    """Return units of all arms and seconds until an arm with the minimum effect is typically decided; infinite for never."""
    units = expected_units(spec, traffic.base, metric_index)
    _, window = _evidence_time(spec, traffic, metric_index)
    return units, window.total_seconds() + units / units_per_second(spec, traffic)


def _evidence_time(spec: ExperimentSpec, traffic: ExperimentTraffic, metric_index: int) -> tuple[timedelta, timedelta]:
    """Return how long units come that count for a metric before the end, and its conversion window, which each has to pass."""
    window = spec.metrics.success[metric_index].window or timedelta()
    # Only a spec that is refused has a window as long as its duration.
    return max(_time_of_units(spec, traffic, window) - window, timedelta(seconds=1)), window


@functools.lru_cache
def _drift(looks: int, alpha: float) -> float:
    """Return the drift of Z that gives `PLANNED_POWER` where each direction has the error α."""
    bounds = group_sequential.spending_bounds(group_sequential.obrien_fleming, looks, 2 * alpha)
    return group_sequential.required_drift(bounds, PLANNED_POWER)


def estimate_peeking_errors(spec: ExperimentSpec, traffic: ExperimentTraffic) -> tuple[int, timedelta, float]:
    """Return (looks, time between looks, false positive rate) of a fixed-sample test that is applied all the time."""
    longest = horizon(spec, traffic)
    every = next((each for each in _OFTEN if longest >= 2 * each), longest)
    looks = min(longest // every, _MOST_LOOKS)
    return looks, every, group_sequential.peeking_error_rate(looks, spec.alpha)


def planned_metrics(spec: ExperimentSpec) -> tuple[OutcomeMetric, ...]:
    """Return the success metrics as they are tested."""
    return winner.parse_success_metrics(spec.metrics.success)


def find_undecidable_metric(
    spec: ExperimentSpec,
    units_per_second_of_all: float,
    bases: Mapping[str, ControlBaseline],
    *,
    is_bound: bool = False,
) -> str:
    """Return a sentence about a success metric that is unlikely to be decided within `stop` at its minimum effect; empty for none.

    The sentence has the units and the time that the effect needs, and the units that come.

    Args:
        spec: the frozen spec.
        units_per_second_of_all: new units of the service, exposed or not.
        bases: value of a unit of control, by metric name; metrics without one are skipped.
        is_bound: there are at most so many units.
    """
    if freeze.resolve_win_rule(spec) == "noHarm":
        # An arm then wins without being better.
        return ""
    for place, metric in enumerate(planned_metrics(spec)):
        base = bases.get(metric.name)
        if base is None or units_per_second_of_all <= 0:
            continue
        traffic = ExperimentTraffic(units_per_second_of_all, base)
        longest, window = _evidence_time(spec, traffic, place)
        needed = expected_units(spec, base, place)
        rate = units_per_second(spec, traffic)
        coming = rate * longest.total_seconds()
        if needed <= coming:
            continue
        effect = f"an effect of {100 * metric.effect:.3g} %{'' if metric.minimum_effect else ' (the default)'}"
        least, most = ("at least ", "at most ") if is_bound else ("", "")
        needs = (
            f"{effect} needs about {needed:.3g} units, {least}{format_rough_duration(needed / rate + window.total_seconds())} at this rate"
            if math.isfinite(needed)
            else f"no number of units detects {effect}"
        )
        return (
            f"{metric.name} {UNLIKELY_TEXT}: {needs};"
            f" {most}{3600 * rate:.3g} come in an hour, {coming:.3g} in {format_rough_duration(longest.total_seconds())}"
        )
    return ""


def find_metric_without_time(metric: MetricStatus, lasted_s: float, left_s: float) -> str:
    """Return a sentence if a metric with an estimate is unlikely to be decided before the experiment stops; empty otherwise.

    A guardrail has to pass before an arm wins.

    Args:
        metric: the present status of a guardrail, or of a success metric of the edge.
        lasted_s: seconds in which its events were counted.
        left_s: seconds until the experiment stops.
    """
    events = sum(metric.events)
    if metric.eta is not None:
        takes_s = metric.eta.total_seconds()
    elif metric.needed is not None and events:
        # The time is longer than a status can show.
        takes_s = (metric.needed / events - 1) * lasted_s
    else:
        return ""
    if takes_s <= left_s:
        return ""
    takes, left = format_rough_duration(takes_s), format_rough_duration(left_s)
    return f"{metric.name} {UNLIKELY_TEXT}: it takes about {takes} at this rate; it stops in {left}"


def reached_power(metric: OutcomeMetric, units: tuple[int, int], value: float, deviation: float, level: float) -> float:
    """Return the probability that so many units show the metric's minimum effect at one look; at least that over all looks.

    Source: the drift of z against the bound of the one-sided normal mixture, as `mean_ratio.Contrast.log_e` has it.

    Args:
        metric: the metric with its minimum effect.
        units: of control and of the arm.
        value: control's rate, mean or ratio.
        deviation: standard deviation of a unit.
        level: error of the test.
    """
    control, arm = units
    if min(control, arm) < 1 or not value > 0 or not deviation > 0:
        return 0.0
    time = control * arm / (control + arm)
    # The mixture of a rate has the scale of a log ratio.
    scale = metric.scale * value / deviation if metric.type == "rate" else metric.deviation
    spread = time * scale**2
    bound = math.sqrt((1 + 1 / spread) * max(math.log1p(spread) + 2 * math.log(1 / (2 * level)), 0.0))
    return NormalDist().cdf(metric.effect * value * math.sqrt(time) / deviation - bound)


def _design(spec: ExperimentSpec, metric_index: int, longest: timedelta) -> ExperimentDesign:
    metric, arms = planned_metrics(spec)[metric_index], len(spec.arms)
    rule = allocation.freeze_allocation(spec.allocation, spec.stop.max_duration)
    return ExperimentDesign(
        metric=metric,
        shares=_shares(spec),
        alpha=spec.alpha,
        tests=arms * len(spec.metrics.success),
        adaptive=None
        if rule is None
        else AdaptiveWeights(rule.floor, rule.delta, math.ceil(LOOKS * (rule.min_interval / longest))),
    )


def _shares(spec: ExperimentSpec) -> Sequence[float]:
    names = [CONTROL, *(arm.name for arm in spec.arms)]
    return [spec.weights[name] / 100 for name in names] if spec.weights else [1 / len(names)] * len(names)
