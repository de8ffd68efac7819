"""Forecasts of an Experiment in which one arm is better and the others equal control."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from rich.console import Group, RenderableType

from sundog_operator.api import Experiment, ExperimentSpec, format_duration
from sundog_operator.core.edge import units as edge_units
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.power.experiment_simulation import ControlBaseline
from sundog_operator.core.trial.experiment import freeze, power
from sundog_operator.core.trial.experiment.power import ExperimentForecast, ExperimentTraffic
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.forecast import options as forecast_options

_DAY_S: Final = 86_400.0
_ROLLOUT_OPTIONS: Final = ("errors", "times", "hours", "weight", "margin", "floor", "alpha", "max_duration")
_PERIODS: Final = {timedelta(days=1): "day", timedelta(hours=1): "hour"}
_UNLIKELY: Final = 0.5
"""Warn if an arm that is better by the minimum effect wins with a lower likelihood."""


@dataclass(frozen=True, slots=True)
class ExperimentAssumptions:
    """Assumptions of the user about a success metric of control and about the better arm."""

    rate: float | None
    mean: float | None
    deviation: float | None
    units: float | None
    metric: str | None
    effects: Sequence[float]

    @property
    def is_given(self) -> bool:
        """Report whether the forecast is for an Experiment."""
        return self.rate is not None or self.mean is not None


_OPTIONS: Final = (
    click.option(
        "--rate",
        type=forecast_options.PercentParam(),
        help="Experiment: control's rate of the success metric, such as 3% of its units.",
    ),
    click.option(
        "--mean",
        type=forecast_options.NumberParam(max=1e12),
        help="Experiment: control's mean of the success metric by unit, or its ratio; above 0.",
    ),
    click.option(
        "--deviation",
        type=forecast_options.NumberParam(0, 1e12, min_open=True),
        help="With --mean: standard deviation of the units; for a ratio, of (value - ratio * denominator) / mean denominator;"
        " with a covariate, of what it leaves.",
    ),
    click.option(
        "--units",
        type=forecast_options.NumberParam(1, 1e10),
        help="Experiment: new units a day, if units stay with an arm. Else use --rps.",
    ),
    click.option("--metric", help="Experiment: name of the success metric. Default: the first."),
    click.option(
        "--effect",
        "effects",
        type=forecast_options.PercentParam(100_000),
        multiple=True,
        help="Experiment: relative effect of the better arm; may be repeated. Default: 0 %, and half to twice minimumEffect.",
    ),
)


def experiment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an Experiment, as its argument `assumptions`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        names = ("rate", "mean", "deviation", "units", "metric", "effects")
        assumptions = ExperimentAssumptions(*(options.pop(name) for name in names))
        _reject_mixed_options(assumptions, names)
        command(*args, assumptions=assumptions, **options)

    result: Callable[..., None] = wrapped
    for option in reversed(_OPTIONS):
        result = option(result)
    return result


def _reject_mixed_options(assumptions: ExperimentAssumptions, names: Sequence[str]) -> None:
    """Raise click.UsageError if options of a rollout and of an Experiment are mixed."""
    context = click.get_current_context()
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is not ParameterSource.COMMANDLINE:
            continue
        if assumptions.is_given and option.name in _ROLLOUT_OPTIONS:
            raise click.UsageError(f"{option.opts[0]} is for a rollout; --rate and --mean are for an Experiment")
        if not assumptions.is_given and option.name in names:
            raise click.UsageError(f"{option.opts[0]} is for an Experiment, which also needs --rate or --mean")


def print_power(
    assumptions: ExperimentAssumptions, file: Path | None, rps: float | None, runs: int, output: str
) -> None:
    """Print the typical sample sizes and the likelihood of each end."""
    spec, index, traffic = _read(assumptions, file, rps)
    found = _simulate(assumptions, spec, index, traffic, runs)
    forecast_options.print_forecast(
        output, lambda: _document(spec, index, traffic, found), lambda: _power_table(spec, index, traffic, found)
    )
    metric = power.planned_metrics(spec)[index]
    for each in found:
        if each.effect >= (metric.minimum_effect or math.inf) and each.right < _UNLIKELY:
            click.echo(
                f"warning: an arm that is {100 * each.effect:.3g} % better wins within"
                f" {format_duration(power.horizon(spec, traffic))} with a likelihood of only {each.right:.0%}",
                err=True,
            )


def print_simulation(
    assumptions: ExperimentAssumptions, file: Path | None, rps: float | None, runs: int, output: str
) -> None:
    """Print the likelihood and the time of each end."""
    spec, index, traffic = _read(assumptions, file, rps)
    found = _simulate(assumptions, spec, index, traffic, runs)
    forecast_options.print_forecast(
        output, lambda: _document(spec, index, traffic, found), lambda: _ends_table(spec, index, traffic, found)
    )


def _read(
    assumptions: ExperimentAssumptions, file: Path | None, rps: float | None
) -> tuple[ExperimentSpec, int, ExperimentTraffic]:
    """Return (experiment, index of the success metric, traffic). Raises CommandFailed and click.UsageError."""
    if file is None:
        raise click.UsageError("--rate and --mean are for an Experiment; give its manifest with -f")
    spec = forecast_options.read_only_object(file, Experiment).spec
    metrics = power.planned_metrics(spec)
    names = [each.name for each in metrics]
    if not metrics:
        raise CommandFailed(f"{file}: spec.metrics.success is empty; expected a metric to win by")
    if assumptions.metric is not None and assumptions.metric not in names:
        is_guardrail = any(each.name == assumptions.metric for each in spec.metrics.outcome_guardrails)
        problem = (
            f"{assumptions.metric} is a guardrail, and forecasts assume that guardrails pass"
            if is_guardrail
            else f"spec.metrics.success has no {assumptions.metric}"
        )
        raise CommandFailed(f"{file}: {problem}; expected one of {', '.join(names)}")
    if freeze.resolve_win_rule(spec) == "noHarm":
        raise CommandFailed(
            f"{file}: {_describe_rule(spec)}, by which an arm wins without being better; expected anyMetric or everyMetric. Forecasts are"
            " about arms that are better"
        )
    index = 0 if assumptions.metric is None else names.index(assumptions.metric)
    return (
        spec,
        index,
        ExperimentTraffic(
            _units_per_second(assumptions, spec, metrics[index], rps), _base(assumptions, metrics[index])
        ),
    )


def _describe_rule(spec: ExperimentSpec) -> str:
    """Return the field that sets when an arm wins, and the rule."""
    rule = freeze.resolve_win_rule(spec)
    return f"spec.winBy: found {rule}" if spec.win_by else f"spec.preset: found {spec.preset} (winBy {rule})"


def _metrics_beside(spec: ExperimentSpec, index: int) -> Sequence[str]:
    """Return the other success metrics by which an arm has to be better before it wins."""
    if freeze.resolve_win_rule(spec) != "everyMetric":
        return []
    return [each.name for place, each in enumerate(power.planned_metrics(spec)) if place != index]


def _base(assumptions: ExperimentAssumptions, metric: OutcomeMetric) -> ControlBaseline:
    if metric.type == "rate":
        if assumptions.rate is None:
            raise click.UsageError(f"{metric.name} is a rate; give control's rate with --rate")
        _require_positive("--rate", assumptions.rate, metric)
        return ControlBaseline(assumptions.rate)
    if assumptions.mean is None or assumptions.deviation is None:
        raise click.UsageError(f"{metric.name} is a {metric.type}; give control's with --mean and --deviation")
    _require_positive("--mean", assumptions.mean, metric)
    return ControlBaseline(assumptions.mean, assumptions.deviation)


def _require_positive(option: str, value: float, metric: OutcomeMetric) -> None:
    if not value > 0:
        raise click.UsageError(
            f"{option}: found {value:g} for {metric.name}; expected more than 0, because effects are relative to control's {metric.type}"
        )


def _units_per_second(
    assumptions: ExperimentAssumptions, spec: ExperimentSpec, metric: OutcomeMetric, rps: float | None
) -> float:
    if metric.counted == "events" and edge_units.resolve_unit(spec.unit) != edge_units.PER_REQUEST:
        raise CommandFailed(
            f"{metric.name} counts requests, and those of one unit depend on each other; no forecast knows how much. Expected an"
            " Experiment without spec.unit"
        )
    if edge_units.resolve_unit(spec.unit) == edge_units.PER_REQUEST:
        if rps is None:
            raise click.UsageError("each request is a unit; give --rps")
        return rps
    if assumptions.units is None:
        raise click.UsageError("units stay with an arm; give the number of new units a day with --units")
    return assumptions.units / _DAY_S


def _simulate(
    assumptions: ExperimentAssumptions, spec: ExperimentSpec, index: int, traffic: ExperimentTraffic, runs: int
) -> list[ExperimentForecast]:
    return forecast_options.simulate_effects(
        _effects(assumptions, power.planned_metrics(spec)[index], traffic.base),
        power.LOOKS,
        lambda effect, on_look: power.forecast_experiment(spec, traffic, index, effect, runs=runs, on_look=on_look),
        name=lambda effect: f"{100 * effect:.3g} % better",
    )


def _effects(assumptions: ExperimentAssumptions, metric: OutcomeMetric, base: ControlBaseline) -> Sequence[float]:
    """Return the user's effects, else some around the minimum effect. Raises click.UsageError for a rate beyond 0 or 100 %."""
    largest = _largest_effect(metric, base)
    for effect in assumptions.effects:
        if effect > largest:
            raise click.UsageError(
                f"--effect {100 * effect:.3g}%: {metric.name} is {base.value:.3g} in control; expected at most {100 * largest:.3g}%"
            )
    return assumptions.effects or [
        each * metric.effect for each in (0.0, 0.5, 1.0, 2.0) if each * metric.effect <= largest
    ]


def _largest_effect(metric: OutcomeMetric, base: ControlBaseline) -> float:
    """Return the largest possible effect; infinity for a mean or a ratio."""
    if metric.type != "rate":
        return math.inf
    return 1.0 if metric.sign < 0 else 1 / base.value - 1


def _document(
    spec: ExperimentSpec, index: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> dict[str, object]:
    looks, every, wrong = power.estimate_peeking_errors(spec, traffic)
    return {
        "metric": power.planned_metrics(spec)[index].name,
        "needsAlso": list(_metrics_beside(spec, index)),
        "alpha": spec.alpha,
        "maxDuration": format_duration(power.horizon(spec, traffic)),
        "peeking": {"looks": looks, "every": format_duration(every), "wrong": round(wrong, 4)},
        "effects": [
            {
                "effect": round(each.effect, 6),
                "units": _round_or_none(each.units),
                "oneLook": _round_or_none(each.one_look),
                "fiveLooks": _round_or_none(each.few_looks),
                "minutes": forecast_options.finite_or_none(each.seconds / 60),
                "wins": each.right,
                "wrongWins": each.wrong,
                "noWinner": each.no_winner,
                "undecided": round(each.undecided, 6),
                "medianMinutes": forecast_options.finite_or_none(each.median_s / 60),
                "lateMinutes": forecast_options.finite_or_none(each.late_s / 60),
            }
            for each in found
        ],
    }


def _round_or_none(units: float) -> int | None:
    """Return a whole number, or None for infinity, which JSON cannot hold."""
    return round(units) if math.isfinite(units) else None


def _power_table(
    spec: ExperimentSpec, index: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> RenderableType:
    rows = (
        (
            f"{100 * each.effect:.3g} % better",
            f"{each.units:.0f}" if math.isfinite(each.units) else "never decided",
            forecast_options.format_minutes(each.seconds / 60),
            *_likelihoods(each),
        )
        for each in found
    )
    names = ("EFFECT", "UNITS", "TIME", "WINS", "WRONG", "NO WINNER", "UNDECIDED", "")
    return Group(_make_table(spec, index, traffic, names, rows), *_compare_fixed_tests(spec, index, traffic, found))


def _compare_fixed_tests(
    spec: ExperimentSpec, index: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> Iterator[str]:
    """Yield the sample sizes of tests with planned evaluations, and the error of evaluating such a test all the time."""
    minimum = power.planned_metrics(spec)[index].effect
    nearest = min((each for each in found if each.effect), key=lambda each: abs(each.effect - minimum), default=None)
    if nearest is None:
        return
    yield (
        f"A test with one evaluation at the end finds {100 * nearest.effect:.3g} % with 80 % power in {nearest.one_look:.0f} units;"
        f" one with {power.FEW_LOOKS} evaluations (O'Brien-Fleming) needs at most {nearest.few_looks:.0f}."
    )
    looks, every, wrong = power.estimate_peeking_errors(spec, traffic)
    if looks > 1:
        yield (
            f"Evaluated every {_PERIODS[every]}, {looks} times, the first test is wrong in {wrong:.0%} of all experiments"
            f" instead of {spec.alpha:.0%}. Sundog's bounds hold at every evaluation."
        )


def _ends_table(
    spec: ExperimentSpec, index: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> RenderableType:
    rows = (
        (
            f"{100 * each.effect:.3g} % better",
            *_likelihoods(each),
            forecast_options.format_minutes(each.median_s / 60),
            forecast_options.format_minutes(each.late_s / 60),
        )
        for each in found
    )
    names = ("EFFECT", "WINS", "WRONG", "NO WINNER", "UNDECIDED", "", "MEDIAN", "80 %")
    return _make_table(spec, index, traffic, names, rows)


def _make_table(
    spec: ExperimentSpec,
    index: int,
    traffic: ExperimentTraffic,
    columns: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
) -> RenderableType:
    metric = power.planned_metrics(spec)[index]
    arms = f"{len(spec.arms)} arm{'s' if len(spec.arms) > 1 else ''}"
    title = (
        f"{arms} and control, {metric.name} to {metric.goal}, {spec.exposure} of the units, alpha {spec.alpha:g},"
        f" {spec.allocation.mode} weights, at most {format_duration(power.horizon(spec, traffic))}"
    )
    if beside := _metrics_beside(spec, index):
        title += (
            f"\nOf {metric.name} alone: by winBy everyMetric an arm wins once it is better by each success metric,"
            f" also by {', '.join(beside)}."
        )
    return forecast_options.make_table(title, columns, rows)


def _likelihoods(each: ExperimentForecast) -> tuple[RenderableType, ...]:
    shares = (f"{share:.0%}" for share in (each.right, each.wrong, each.no_winner, each.undecided))
    return *shares, forecast_options.render_likelihood_bar(each.right, each.wrong, each.no_winner)
