"""Forecasts of an Experiment in which one arm is better and the others equal control."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Group, RenderableType

from sundog_operator.api import Experiment, ExperimentSpec, format_duration
from sundog_operator.core.edge import units as edge_units
from sundog_operator.core.forecast import experiment_forecast
from sundog_operator.core.forecast.experiment_forecast import ExperimentForecast, ExperimentTraffic
from sundog_operator.core.forecast.experiment_simulation import ControlBaseline
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.trial.experiment import freeze
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.forecast import output
from sundog_operator.shell.forecast.options import ForecastOptions

_DAY_S: Final = 86_400.0
_UNLIKELY: Final = 0.5
"""Warn if an arm that is better by the minimum effect wins with a lower likelihood."""


@dataclass(frozen=True, slots=True)
class _ExperimentCase:
    """Experiment, the index of its success metric that decides, and the service's traffic."""

    spec: ExperimentSpec
    index: int
    traffic: ExperimentTraffic

    @property
    def metric(self) -> OutcomeMetric:
        """The success metric as it is tested."""
        return experiment_forecast.planned_metrics(self.spec)[self.index]

    @property
    def longest(self) -> str:
        """The longest time that the Experiment runs."""
        return format_duration(experiment_forecast.horizon(self.spec, self.traffic))

    @property
    def metrics_beside(self) -> Sequence[str]:
        """Other success metrics by which an arm has to be better before it wins."""
        if freeze.resolve_win_rule(self.spec) != "everyMetric":
            return []
        metrics = experiment_forecast.planned_metrics(self.spec)
        return [each.name for place, each in enumerate(metrics) if place != self.index]


def print_power(options: ForecastOptions) -> None:
    """Print the typical sample sizes and the likelihood of each end."""
    case = _read_case(options)
    found = _simulate(case, options)
    output.print_forecast(options.output, lambda: _document(case, found), lambda: _power_table(case, found))
    for each in found:
        if each.effect >= (case.metric.minimum_effect or math.inf) and each.right < _UNLIKELY:
            click.echo(
                f"warning: an arm that is {100 * each.effect:.3g} % better wins within {case.longest} with a likelihood of only"
                f" {each.right:.0%}",
                err=True,
            )


def print_simulation(options: ForecastOptions) -> None:
    """Print the likelihood and the time of each end."""
    case = _read_case(options)
    found = _simulate(case, options)
    output.print_forecast(options.output, lambda: _document(case, found), lambda: _ends_table(case, found))


def _read_case(options: ForecastOptions) -> _ExperimentCase:
    """Return the Experiment of the manifest with the user's assumptions. Raises CommandFailed and click.UsageError."""
    file, name = options.file, options.metric
    if file is None:
        raise click.UsageError("--rate and --mean are for an Experiment; give its manifest with -f")
    spec = output.read_only_object(file, Experiment).spec
    metrics = experiment_forecast.planned_metrics(spec)
    names = [each.name for each in metrics]
    if not metrics:
        raise CommandFailed(f"{file}: spec.metrics.success is empty; expected a metric to win by")
    if name is not None and name not in names:
        is_guardrail = any(each.name == name for each in spec.metrics.outcome_guardrails)
        problem = (
            f"{name} is a guardrail, and forecasts assume that guardrails pass"
            if is_guardrail
            else f"spec.metrics.success has no {name}"
        )
        raise CommandFailed(f"{file}: {problem}; expected one of {', '.join(names)}")
    if freeze.resolve_win_rule(spec) == "noHarm":
        raise CommandFailed(
            f"{file}: {_describe_rule(spec)}, by which an arm wins without being better; expected anyMetric or everyMetric. Forecasts are"
            " about arms that are better"
        )
    index = 0 if name is None else names.index(name)
    metric = metrics[index]
    traffic = ExperimentTraffic(_units_per_second(options, spec, metric), _base(options, metric))
    return _ExperimentCase(spec, index, traffic)


def _describe_rule(spec: ExperimentSpec) -> str:
    """Return the field that sets when an arm wins, and the rule."""
    rule = freeze.resolve_win_rule(spec)
    return f"spec.winBy: found {rule}" if spec.win_by else f"spec.preset: found {spec.preset} (winBy {rule})"


def _base(options: ForecastOptions, metric: OutcomeMetric) -> ControlBaseline:
    if metric.type == "rate":
        if options.rate is None:
            raise click.UsageError(f"{metric.name} is a rate; give control's rate with --rate")
        _require_positive("--rate", options.rate, metric)
        return ControlBaseline(options.rate)
    if options.mean is None or options.deviation is None:
        raise click.UsageError(f"{metric.name} is a {metric.type}; give control's with --mean and --deviation")
    _require_positive("--mean", options.mean, metric)
    return ControlBaseline(options.mean, options.deviation)


def _require_positive(option: str, value: float, metric: OutcomeMetric) -> None:
    if not value > 0:
        raise click.UsageError(
            f"{option}: found {value:g} for {metric.name}; expected more than 0, because effects are relative to control's {metric.type}"
        )


def _units_per_second(options: ForecastOptions, spec: ExperimentSpec, metric: OutcomeMetric) -> float:
    is_per_request = edge_units.resolve_unit(spec.unit) == edge_units.PER_REQUEST
    if metric.counted == "events" and not is_per_request:
        raise CommandFailed(
            f"{metric.name} counts requests, and those of one unit depend on each other; no forecast knows how much. Expected an"
            " Experiment without spec.unit"
        )
    if is_per_request:
        if options.rps is None:
            raise click.UsageError("each request is a unit; give --rps")
        return options.rps
    if options.units is None:
        raise click.UsageError("units stay with an arm; give the number of new units a day with --units")
    return options.units / _DAY_S


def _simulate(case: _ExperimentCase, options: ForecastOptions) -> list[ExperimentForecast]:
    return output.simulate_effects(
        _effects(case, options.effects),
        experiment_forecast.LOOKS,
        lambda effect, on_look: experiment_forecast.forecast_experiment(
            case.spec, case.traffic, case.index, effect, runs=options.runs, on_look=on_look
        ),
        name=lambda effect: f"{100 * effect:.3g} % better",
    )


def _effects(case: _ExperimentCase, given: Sequence[float]) -> Sequence[float]:
    """Return the user's effects, else some around the minimum effect. Raises click.UsageError for a rate beyond 0 or 100 %."""
    metric, base = case.metric, case.traffic.base
    largest = math.inf
    if metric.type == "rate":
        largest = 1.0 if metric.sign < 0 else 1 / base.value - 1
    for effect in given:
        if effect > largest:
            raise click.UsageError(
                f"--effect {100 * effect:.3g}%: {metric.name} is {base.value:.3g} in control; expected at most {100 * largest:.3g}%"
            )
    usual = (each * metric.effect for each in (0.0, 0.5, 1.0, 2.0))
    return given or [each for each in usual if each <= largest]


def _document(case: _ExperimentCase, found: Sequence[ExperimentForecast]) -> dict[str, object]:
    return {
        "metric": case.metric.name,
        "needsAlso": list(case.metrics_beside),
        "alpha": case.spec.alpha,
        "maxDuration": case.longest,
        "effects": [
            {
                "effect": round(each.effect, 6),
                "units": _round_or_none(each.units),
                "oneLook": _round_or_none(each.one_look),
                "minutes": output.finite_or_none(each.seconds / 60),
                "wins": each.right,
                "wrongWins": each.wrong,
                "noWinner": each.no_winner,
                "undecided": round(each.undecided, 6),
                "medianMinutes": output.finite_or_none(each.median_s / 60),
                "lateMinutes": output.finite_or_none(each.late_s / 60),
            }
            for each in found
        ],
    }


def _round_or_none(units: float) -> int | None:
    """Return a whole number, or None for infinity, which JSON cannot hold."""
    return round(units) if math.isfinite(units) else None


def _power_table(case: _ExperimentCase, found: Sequence[ExperimentForecast]) -> RenderableType:
    rows = (
        (
            f"{100 * each.effect:.3g} % better",
            f"{each.units:.0f}" if math.isfinite(each.units) else "never decided",
            output.format_minutes(each.seconds / 60),
            *_likelihoods(each),
        )
        for each in found
    )
    names = ("EFFECT", "UNITS", "TIME", "WINS", "WRONG", "NO WINNER", "UNDECIDED", "")
    return Group(_make_table(case, names, rows), *_compare_fixed_test(case, found))


def _compare_fixed_test(case: _ExperimentCase, found: Sequence[ExperimentForecast]) -> Iterator[str]:
    """Yield the sample size of a test with a single evaluation, if an effect was simulated."""
    minimum = case.metric.effect
    nearest = min((each for each in found if each.effect), key=lambda each: abs(each.effect - minimum), default=None)
    if nearest is not None:
        yield (
            f"A test with one evaluation at the end finds {100 * nearest.effect:.3g} % with 80 % power"
            f" in {nearest.one_look:.0f} units."
        )


def _ends_table(case: _ExperimentCase, found: Sequence[ExperimentForecast]) -> RenderableType:
    rows = (
        (
            f"{100 * each.effect:.3g} % better",
            *_likelihoods(each),
            output.format_minutes(each.median_s / 60),
            output.format_minutes(each.late_s / 60),
        )
        for each in found
    )
    return _make_table(case, ("EFFECT", "WINS", "WRONG", "NO WINNER", "UNDECIDED", "", "MEDIAN", "80 %"), rows)


def _make_table(
    case: _ExperimentCase, columns: Sequence[str], rows: Iterable[Sequence[RenderableType]]
) -> RenderableType:
    metric, spec = case.metric, case.spec
    arms = f"{len(spec.arms)} arm{'s' if len(spec.arms) > 1 else ''}"
    title = (
        f"{arms} and control, {metric.name} to {metric.goal}, {spec.exposure} of the units, alpha {spec.alpha:g},"
        f" {spec.allocation.mode} weights, at most {case.longest}"
    )
    if beside := case.metrics_beside:
        title += (
            f"\nOf {metric.name} alone: by winBy everyMetric an arm wins once it is better by each success metric,"
            f" also by {', '.join(beside)}."
        )
    return output.make_table(title, columns, rows)


def _likelihoods(each: ExperimentForecast) -> tuple[RenderableType, ...]:
    return output.format_likelihoods(each.right, each.wrong, each.no_winner, each.undecided)
