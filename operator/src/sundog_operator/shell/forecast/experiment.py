"""What verbs that look ahead say of an Experiment: one arm that is better, beside others that are like control."""

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
from rich.table import Table

from sundog_operator.api import Experiment, ExperimentSpec, format_duration
from sundog_operator.core.edge import units as edge_units
from sundog_operator.core.experiments import power
from sundog_operator.core.experiments.power import ExperimentForecast, ExperimentTraffic
from sundog_operator.core.stats.outcome_counts import OutcomeMetric
from sundog_operator.core.stats.power.experiment_simulation import ControlBaseline
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.forecast import options as forecast_options

_A_DAY_S: Final = 86_400.0
_OF_ROLLOUTS: Final = ("errors", "times", "hours", "weight", "margin", "floor", "alpha", "max_duration")
_EACH: Final = {timedelta(days=1): "day", timedelta(hours=1): "hour"}
_UNLIKELY: Final = 0.5
"""Below which likelihood of winning an arm that is better by what is worth finding is warned of."""


@dataclass(frozen=True, slots=True)
class ExperimentAssumptions:
    """What is said of control and of the better arm, and of which metric."""

    rate: float | None
    mean: float | None
    deviation: float | None
    units: float | None
    metric: str | None
    effects: Sequence[float]

    @property
    def given(self) -> bool:
        """Whether an Experiment is meant."""
        return self.rate is not None or self.mean is not None


_OPTIONS: Final = (
    click.option(
        "--rate",
        type=forecast_options.PercentParam(),
        help="Of an Experiment: the share of control's units that the success metric counts, such as 3%.",
    ),
    click.option("--mean", type=float, help="Of an Experiment whose success metric is a mean: control's, by unit."),
    click.option("--deviation", type=click.FloatRange(0, min_open=True), help="With --mean: by how much units vary."),
    click.option(
        "--units",
        type=click.FloatRange(1, 1e10),
        help="Of an Experiment: new units a day, where units stay with an arm; else --rps tells it.",
    ),
    click.option("--metric", help="Of an Experiment: which success metric; by default the first."),
    click.option(
        "--effect",
        "effects",
        type=forecast_options.PercentParam(100_000),
        multiple=True,
        help="Of an Experiment: by how much the better arm is better; may be repeated. By default none, and half to twice minimumEffect.",
    ),
)


def experiment_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an Experiment, as its argument `asked`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> None:
        names = ("rate", "mean", "deviation", "units", "metric", "effects")
        asked = ExperimentAssumptions(*(given.pop(name) for name in names))
        _refuse_others(asked, names)
        command(*args, asked=asked, **given)

    found: Callable[..., None] = wrapped
    for option in reversed(_OPTIONS):
        found = option(found)
    return found


def _refuse_others(asked: ExperimentAssumptions, names: Sequence[str]) -> None:
    """Raises click.UsageError for an option of a rollout beside those of an Experiment, and the other way round."""
    context = click.get_current_context()
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is not ParameterSource.COMMANDLINE:
            continue
        if asked.given and option.name in _OF_ROLLOUTS:
            raise click.UsageError(f"{option.opts[0]} is about a rollout; --rate and --mean are about an Experiment")
        if not asked.given and option.name in names:
            raise click.UsageError(f"{option.opts[0]} is about an Experiment; give --rate or --mean as well")


def print_power(asked: ExperimentAssumptions, file: Path | None, rps: float | None, runs: int, output: str) -> None:
    """Print what typically decides, and how likely each end is."""
    spec, place, traffic = _read(asked, file, rps)
    found = _played(asked, spec, place, traffic, runs)
    forecast_options.print_forecast(
        output, lambda: _document(spec, place, traffic, found), lambda: _power_table(spec, place, traffic, found)
    )
    metric = power.planned_metrics(spec)[place]
    for each in found:
        if each.effect >= (metric.minimum_effect or math.inf) and each.right < _UNLIKELY:
            click.echo(
                f"warning: an arm that is better by {100 * each.effect:.3g} % wins with a likelihood of {each.right:.0%} only within"
                f" {format_duration(power.horizon(spec, traffic))}",
                err=True,
            )


def print_simulation(
    asked: ExperimentAssumptions, file: Path | None, rps: float | None, runs: int, output: str
) -> None:
    """Print how likely each end is, and when it comes."""
    spec, place, traffic = _read(asked, file, rps)
    found = _played(asked, spec, place, traffic, runs)
    forecast_options.print_forecast(
        output, lambda: _document(spec, place, traffic, found), lambda: _ends_table(spec, place, traffic, found)
    )


def _read(
    asked: ExperimentAssumptions, file: Path | None, rps: float | None
) -> tuple[ExperimentSpec, int, ExperimentTraffic]:
    """The experiment, the place of the metric that is meant, and the traffic. Raises CommandFailed for what does not go together."""
    if file is None:
        raise click.UsageError("--rate and --mean are about an Experiment; give its manifest with -f")
    spec = forecast_options.read_only_object(file, Experiment).spec
    found = power.planned_metrics(spec)
    names = [each.name for each in found]
    if not found:
        raise CommandFailed(f"{file}: spec.metrics.success has no metric; there is nothing to win by")
    if asked.metric is not None and asked.metric not in names:
        raise CommandFailed(f"{file}: spec.metrics.success has no {asked.metric}; there are {', '.join(names)}")
    place = 0 if asked.metric is None else names.index(asked.metric)
    return spec, place, ExperimentTraffic(_units_per_second(asked, spec, rps), _base(asked, found[place]))


def _base(asked: ExperimentAssumptions, metric: OutcomeMetric) -> ControlBaseline:
    if metric.type == "rate":
        if asked.rate is None:
            raise click.UsageError(f"{metric.name} is a rate; give control's with --rate")
        return ControlBaseline(asked.rate)
    if asked.mean is None or asked.deviation is None:
        raise click.UsageError(f"{metric.name} is a mean; give control's with --mean and --deviation")
    return ControlBaseline(asked.mean, asked.deviation)


def _units_per_second(asked: ExperimentAssumptions, spec: ExperimentSpec, rps: float | None) -> float:
    if edge_units.resolve_unit(spec.unit) == edge_units.PER_REQUEST:
        if rps is None:
            raise click.UsageError("each request is a unit; give --rps")
        return rps
    if asked.units is None:
        raise click.UsageError("units stay with an arm; give with --units how many new ones come a day")
    return asked.units / _A_DAY_S


def _played(
    asked: ExperimentAssumptions, spec: ExperimentSpec, place: int, traffic: ExperimentTraffic, runs: int
) -> list[ExperimentForecast]:
    return forecast_options.simulate_effects(
        _effects(asked, power.planned_metrics(spec)[place], traffic.base),
        power.LOOKS,
        lambda effect, on_look: power.forecast_experiment(spec, traffic, place, effect, runs=runs, on_look=on_look),
        name=lambda effect: f"{100 * effect:.3g} % better",
    )


def _effects(asked: ExperimentAssumptions, metric: OutcomeMetric, base: ControlBaseline) -> Sequence[float]:
    """Those that are asked for, else some around what is worth finding. Raises click.UsageError for a rate beyond 0 or 100 %."""
    most = _most(metric, base)
    for effect in asked.effects:
        if effect > most:
            raise click.UsageError(
                f"{metric.name} of {base.value:.3g} of the units cannot be {100 * effect:.3g} % better; at most {100 * most:.3g} % is left"
            )
    return asked.effects or [each * metric.effect for each in (0.0, 0.5, 1.0, 2.0) if each * metric.effect <= most]


def _most(metric: OutcomeMetric, base: ControlBaseline) -> float:
    """By how much an arm can be better; a mean by any."""
    if metric.type == "mean" or not base.value:
        return math.inf
    return 1.0 if metric.sign < 0 else 1 / base.value - 1


def _document(
    spec: ExperimentSpec, place: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> dict[str, object]:
    looks, every, wrong = power.estimate_peeking_errors(spec, traffic)
    return {
        "metric": power.planned_metrics(spec)[place].name,
        "alpha": spec.alpha,
        "maxDuration": format_duration(power.horizon(spec, traffic)),
        "peeking": {"looks": looks, "every": format_duration(every), "wrong": round(wrong, 4)},
        "effects": [
            {
                "effect": round(each.effect, 6),
                "units": _whole(each.units),
                "oneLook": _whole(each.one_look),
                "fiveLooks": _whole(each.few_looks),
                "minutes": forecast_options.finite_or_none(each.seconds / 60),
                "wins": each.right,
                "wrongWins": each.wrong,
                "noWinner": each.nobody,
                "undecided": round(each.undecided, 6),
                "medianMinutes": forecast_options.finite_or_none(each.median_s / 60),
                "lateMinutes": forecast_options.finite_or_none(each.late_s / 60),
            }
            for each in found
        ],
    }


def _whole(units: float) -> int | None:
    """For JSON, which knows no infinity."""
    return round(units) if math.isfinite(units) else None


def _power_table(
    spec: ExperimentSpec, place: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
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
    return Group(_table(spec, place, traffic, names, rows), *_yardsticks(spec, place, traffic, found))


def _yardsticks(
    spec: ExperimentSpec, place: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
) -> Iterator[str]:
    """What tests of planned looks would take, and what looking at one all the time would cost."""
    worth = power.planned_metrics(spec)[place].effect
    of = min((each for each in found if each.effect), key=lambda each: abs(each.effect - worth), default=None)
    if of is None:
        return
    yield (
        f"Looked at once, at the end, a test finds {100 * of.effect:.3g} % four times out of five with {of.one_look:.0f} units; with"
        f" {power.FEW_LOOKS} looks (O'Brien-Fleming), with {of.few_looks:.0f} at most."
    )
    looks, every, wrong = power.estimate_peeking_errors(spec, traffic)
    if looks > 1:
        yield (
            f"Looked at each {_EACH[every]}, {looks} times, the former finds what is not there in {wrong:.0%} of all experiments,"
            f" not in {spec.alpha:.0%}: here you may look at any time."
        )


def _ends_table(
    spec: ExperimentSpec, place: int, traffic: ExperimentTraffic, found: Sequence[ExperimentForecast]
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
    return _table(spec, place, traffic, names, rows)


def _table(
    spec: ExperimentSpec,
    place: int,
    traffic: ExperimentTraffic,
    names: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
) -> RenderableType:
    metric = power.planned_metrics(spec)[place]
    title = (
        f"{len(spec.arms)} beside control, {metric.name} to {metric.goal}, {spec.exposure} of the units, alpha {spec.alpha:g},"
        f" {spec.allocation.mode} weights, {format_duration(power.horizon(spec, traffic))} at most"
    )
    table = Table(box=None, header_style="", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "EFFECT") else "right")
    for row in rows:
        table.add_row(*row)
    return Group(title, table)


def _likelihoods(each: ExperimentForecast) -> tuple[RenderableType, ...]:
    shares = (f"{share:.0%}" for share in (each.right, each.wrong, each.nobody, each.undecided))
    return *shares, forecast_options.render_likelihood_bar(each.right, each.wrong, each.nobody)
