"""Options of the commands that estimate rollouts and Experiments."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from sundog_operator.shell.output import TEXT_OUTPUT_OPTION
from sundog_operator.shell.url_options import LocalPath

_ROLLOUT_OPTIONS: Final = ("errors", "times", "hours", "weight", "margin", "floor", "alpha", "max_duration")


class PercentParam(click.ParamType[float]):
    """A share such as 0.5%, below `limit` percent."""

    name = "percentage"

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share as a number from 0 on."""
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not text.endswith("%") or not 0 <= share < self._limit / 100:
            self.fail(f"{text!r} is not a percentage from 0% to below {self._limit}%", param, ctx)
        return share


class NumberParam(click.FloatRange):
    """A finite number of a range. Click takes `nan` for a number of each range, and `inf` for one of an open range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class ForecastOptions:
    """Options of all forecasts: traffic and runs, and assumptions about a rollout's revisions or an Experiment's success metric."""

    file: Path | None
    rps: float | None
    errors: float | None
    times: Sequence[float]
    runs: int
    rate: float | None
    mean: float | None
    deviation: float | None
    units: float | None
    metric: str | None
    effects: Sequence[float]
    output: str

    @property
    def is_experiment(self) -> bool:
        """Report whether the forecast is for an Experiment."""
        return self.rate is not None or self.mean is not None


_SERVICE: Final = (
    click.option(
        "-f",
        "--filename",
        "file",
        type=LocalPath(allow_dash=True),
        help="A manifest with a ModelDeployment or an Experiment.",
    ),
    click.option("--rps", type=NumberParam(0.01, 100_000), help="Requests per second of the service."),
    click.option("--errors", type=PercentParam(), help="Rollout: stable's error rate, such as 0.5%."),
)

_RUNS: Final = click.option(
    "--runs",
    type=click.IntRange(10, 10_000),
    default=200,
    show_default=True,
    help="Number of simulations of each case.",
)

_EXPERIMENT: Final = {
    "rate": click.option(
        "--rate",
        type=PercentParam(),
        help="Experiment: control's rate of the success metric, such as 3% of its units.",
    ),
    "mean": click.option(
        "--mean",
        type=NumberParam(max=1e12),
        help="Experiment: control's mean of the success metric by unit, or its ratio; above 0.",
    ),
    "deviation": click.option(
        "--deviation",
        type=NumberParam(0, 1e12, min_open=True),
        help="With --mean: standard deviation of the units; for a ratio, of (value - ratio * denominator) / mean denominator;"
        " with a covariate, of what it leaves.",
    ),
    "units": click.option(
        "--units",
        type=NumberParam(1, 1e10),
        help="Experiment: new units a day, if units stay with an arm. Else use --rps.",
    ),
    "metric": click.option("--metric", help="Experiment: name of the success metric. Default: the first."),
    "effects": click.option(
        "--effect",
        "effects",
        type=PercentParam(100_000),
        multiple=True,
        help="Experiment: relative effect of the better arm; may be repeated. Default: 0 %, and half to twice minimumEffect.",
    ),
}


def forecast_options(default_times: str, *own: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Any]:
    """Return a decorator that gives a command the options of all forecasts, as its argument `options`.

    Args:
        default_times: the multiples of stable's error rate that are taken by default, in words.
        own: further options of the command.
    """
    times = click.option(
        "--times",
        type=NumberParam(0, 1000),
        multiple=True,
        help=f"The candidate's error rate as a multiple of stable's; may be repeated. Default: {default_times}.",
    )

    def decorate(command: Callable[..., None]) -> Any:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            options = ForecastOptions(**{each.name: given.pop(each.name) for each in fields(ForecastOptions)})
            _reject_mixed_options(options)
            command(options, **given)

        result: Any = wrapped
        for option in reversed((*_SERVICE, times, *own, _RUNS, *_EXPERIMENT.values(), TEXT_OUTPUT_OPTION)):
            result = option(result)
        return result

    return decorate


def _reject_mixed_options(options: ForecastOptions) -> None:
    """Raise click.UsageError if options of a rollout and of an Experiment are mixed."""
    context = click.get_current_context()
    for option in context.command.params:
        if context.get_parameter_source(option.name or "") is not ParameterSource.COMMANDLINE:
            continue
        if options.is_experiment and option.name in _ROLLOUT_OPTIONS:
            raise click.UsageError(f"{option.opts[0]} is for a rollout; --rate and --mean are for an Experiment")
        if not options.is_experiment and option.name in _EXPERIMENT:
            raise click.UsageError(f"{option.opts[0]} is for an Experiment, which also needs --rate or --mean")
