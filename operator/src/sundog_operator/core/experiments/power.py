"""How long an experiment takes to be decided, how likely each end is, and whether its time is enough."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import CONTROL, ExperimentSpec, MetricStatus, parse_percent
from sundog_operator.core.experiments import allocation, winner
from sundog_operator.core.stats import group_sequential
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.power import experiment_simulation
from sundog_operator.core.stats.power.experiment_simulation import AdaptiveWeights, ControlBaseline, ExperimentDesign

LOOKS: Final = 200
"""At which a simulated experiment is looked at, evenly over its time."""

PLANNED_POWER: Final = 0.8
"""With which tests of planned looks are to find what is there, as is the custom."""

FEW_LOOKS: Final = 5

UNLIKELY_TEXT: Final = "is hardly decided before the experiment stops"
"""Said of a metric by its name, by which those are found again of which that is told."""

_SEED: Final = 1
_MOST_LOOKS: Final = 200
_OFTEN: Final = (timedelta(days=1), timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class ExperimentTraffic:
    """What comes to a service.

    Attributes:
        units_per_second: new units, of which the experiment gets its exposure; requests where each is a unit.
        base: what a unit of control is known to come to.
    """

    units_per_second: float
    base: ControlBaseline


@dataclass(frozen=True, slots=True)
class ExperimentForecast:
    """What becomes of an experiment in which one arm is better and the others are like control.

    Attributes:
        effect: by how much it is better, as a share of control's.
        units: of all arms, at which that arm is typically decided with the weights at first; infinite where it never is.
        one_look: units of all arms with which a test that is looked at once, at the end, finds it with `PLANNED_POWER`; infinite for none.
        few_looks: likewise the most that a test takes that is looked at `FEW_LOOKS` times, and spends as O'Brien and Fleming have it.
        seconds: until it is typically decided; infinite where it never is.
        right: the share of simulated experiments that it won. Of an effect of 0 nobody's win is right.
        wrong: the share that another arm won, or any that is not better.
        nobody: the share that found that no arm can win.
        median_s: until half of all were decided; infinite where fewer were.
        late_s: likewise until four fifths were.
    """

    effect: float
    units: float
    one_look: float
    few_looks: float
    seconds: float
    right: float
    wrong: float
    nobody: float
    median_s: float
    late_s: float

    @property
    def undecided(self) -> float:
        """The share that was not decided in time."""
        return max(0.0, 1 - self.right - self.wrong - self.nobody)


def units_per_second(spec: ExperimentSpec, traffic: ExperimentTraffic) -> float:
    """New units of the experiment."""
    return traffic.units_per_second * parse_percent(spec.exposure)


def horizon(spec: ExperimentSpec, traffic: ExperimentTraffic) -> timedelta:
    """How long it runs at most: to its duration, or until it has its units."""
    rate = units_per_second(spec, traffic)
    filling = spec.stop.max_units / rate if rate else math.inf
    return timedelta(seconds=min(spec.stop.max_duration.total_seconds(), filling))


def forecast_experiment(
    spec: ExperimentSpec,
    traffic: ExperimentTraffic,
    place: int,
    effect: float,
    *,
    runs: int,
    on_look: Callable[[int], None] = lambda _: None,
) -> ExperimentForecast:
    """Play an experiment as the spec has it. Guardrails are taken as passed, other success metrics as without an effect.

    Args:
        spec: with success metrics.
        traffic: the service's, which has some.
        place: of the success metric that is played.
        effect: by which share of control's value the first arm beside it is better.
        runs: how many experiments.
        on_look: called with each of `LOOKS` that is over.
    """
    design = _design(spec, place, horizon(spec, traffic))
    step_s = horizon(spec, traffic).total_seconds() / LOOKS
    effects = [effect, *[0.0] * (len(spec.arms) - 1)]
    played = experiment_simulation.simulate_experiments(
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
    won = [int(arm) for arm in played.winner]
    ends = sorted(step_s * int(look) if look else math.inf for look in played.ended)
    right = sum(arm == 0 for arm in won) if effect > 0 else 0
    return ExperimentForecast(
        effect=effect,
        units=units,
        one_look=one_look,
        few_looks=few_looks,
        seconds=units / units_per_second(spec, traffic),
        right=right / runs,
        wrong=(sum(arm != experiment_simulation.NO_WINNER for arm in won) - right) / runs,
        nobody=sum(map(bool, played.hopeless)) / runs,
        median_s=ends[(runs - 1) // 2],
        late_s=ends[math.ceil(0.8 * runs) - 1],
    )


def expected_duration(spec: ExperimentSpec, traffic: ExperimentTraffic, place: int) -> tuple[float, float]:
    """Units of all arms, and seconds, until an arm that is better by what is worth finding is typically decided; infinite for never."""
    design = _design(spec, place, horizon(spec, traffic))
    units = experiment_simulation.expected_units(design, traffic.base, planned_metrics(spec)[place].effect)
    return units, units / units_per_second(spec, traffic)


@functools.lru_cache
def _drift(looks: int, alpha: float) -> float:
    """What Z has to be expected to be for `PLANNED_POWER`, where each of the two directions errs with α, as a verdict's do."""
    bounds = group_sequential.spending_bounds(group_sequential.obrien_fleming, looks, 2 * alpha)
    return group_sequential.required_drift(bounds, PLANNED_POWER)


def estimate_peeking_errors(spec: ExperimentSpec, traffic: ExperimentTraffic) -> tuple[int, timedelta, float]:
    """What comes of a test for one look that is looked at all the time: (looks, time between two, how often it finds what is not there)."""
    longest = horizon(spec, traffic)
    every = next((each for each in _OFTEN if longest >= 2 * each), longest)
    looks = min(longest // every, _MOST_LOOKS)
    return looks, every, group_sequential.peeking_error_rate(looks, spec.alpha)


def planned_metrics(spec: ExperimentSpec) -> tuple[OutcomeMetric, ...]:
    """Those that an arm may win by, as they are judged."""
    return winner.parse_success_metrics(spec.metrics.success)


def find_undecidable_metric(
    spec: ExperimentSpec, units_per_second_of_all: float, bases: Mapping[str, ControlBaseline]
) -> str:
    """Which success metric is hardly decided in the time and the units of `stop` at the effect that its evidence is for; empty for none.

    Args:
        spec: as it is frozen.
        units_per_second_of_all: new units of the service, exposed or not.
        bases: what a unit of control comes to, by the metric's name; of those that are missing nothing is said.
    """
    for place, metric in enumerate(planned_metrics(spec)):
        base = bases.get(metric.name)
        if base is None or units_per_second_of_all <= 0:
            continue
        traffic = ExperimentTraffic(units_per_second_of_all, base)
        longest = horizon(spec, traffic)
        needed = experiment_simulation.expected_units(_design(spec, place, longest), base, metric.effect)
        coming = units_per_second(spec, traffic) * longest.total_seconds()
        if needed <= coming:
            continue
        takes = f"that takes some {needed:.3g} units" if math.isfinite(needed) else "no number of units decides that"
        which = "" if metric.minimum_effect else ", as where no minimumEffect is given,"
        return (
            f"{metric.name} {UNLIKELY_TEXT}: an effect of {100 * metric.effect:.3g} %{which} is to be found,"
            f" {takes}, and {coming:.3g} come in {format_rough_duration(longest.total_seconds())}"
        )
    return ""


def find_undecidable_guardrail(told: MetricStatus, lasted_s: float, left_s: float) -> str:
    """Whether a guardrail, which has to pass before an arm wins, hardly does before the experiment stops as it seems now; empty for no.

    Args:
        told: what is known of it.
        lasted_s: seconds for which its events were counted.
        left_s: seconds until the experiment stops.
    """
    events = sum(told.events)
    if told.eta is not None:
        takes_s = told.eta.total_seconds()
    elif told.needed is not None and events:
        # Longer than a status tells.
        takes_s = (told.needed / events - 1) * lasted_s
    else:
        return ""
    return f"{told.name} {UNLIKELY_TEXT}, in {format_rough_duration(left_s)}" if takes_s > left_s else ""


def _design(spec: ExperimentSpec, place: int, longest: timedelta) -> ExperimentDesign:
    metric, arms = planned_metrics(spec)[place], len(spec.arms)
    rule = allocation.freeze_allocation(spec.allocation, spec.stop.max_duration)
    return ExperimentDesign(
        metric=metric,
        shares=_shares(spec),
        alpha=spec.alpha,
        tests=arms * len(spec.metrics.success),
        adaptive=None
        if rule is None
        else AdaptiveWeights(rule.floor, rule.delta, math.ceil(LOOKS * (rule.pace / longest))),
    )


def _shares(spec: ExperimentSpec) -> Sequence[float]:
    names = [CONTROL, *(arm.name for arm in spec.arms)]
    return [spec.weights[name] / 100 for name in names] if spec.weights else [1 / len(names)] * len(names)
