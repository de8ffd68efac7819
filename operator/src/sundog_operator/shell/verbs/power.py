"""`sundog experiment power`."""

from datetime import timedelta

import click

from sundog_operator.api import parse_duration
from sundog_operator.shell.forecast import experiment, rollout
from sundog_operator.shell.forecast.options import ForecastOptions, NumberParam, PercentParam, forecast_options


class _DurationParam(click.ParamType[timedelta]):
    """A duration above 0, such as 30m."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            found = parse_duration(str(value))
        except ValueError as err:
            self.fail(str(err), param, ctx)
        if not found:
            self.fail(f"{value!r}: expected a duration above 0", param, ctx)
        return found


@click.command(epilog="Example: sundog experiment power --rps 50 --errors 0.5%")
@forecast_options(
    "several from 0.5 to 5",
    click.option("--weight", type=click.IntRange(1, 99), help="The candidate's weight at the gate, in percent."),
    click.option("--margin", type=PercentParam(10_000), help="The margin, such as 25%. Default: the plan's margin."),
    click.option(
        "--floor",
        type=PercentParam(),
        help="The floor in percent of all requests, such as 0.5%; 0% is none. Default: the plan's floor.",
    ),
    click.option("--alpha", type=NumberParam(0, 0.5, min_open=True), help="The error of each direction."),
    click.option("--max-duration", type=_DurationParam(), help="The gate's longest duration, such as 30m or 1d."),
)
def power(
    options: ForecastOptions,
    weight: int | None,
    margin: float | None,
    floor: float | None,
    alpha: float | None,
    max_duration: timedelta | None,
) -> None:
    """Estimate the data that a rollout's last gate or an Experiment needs, and the likelihood of a decision in time. Needs no API server.

    The plan comes from the manifest, or is `rollout: {}` resolved for that traffic; options override it. Numbers are typical: half of all
    rollouts need more. Likelihoods are simulated. Only errors of independent requests count: latency and bursts take longer.

    With --rate, or --mean and --deviation, the estimate is for the success metric of the manifest's Experiment:
    one arm is better by each effect, the others equal control, and guardrails pass.
    """
    if options.is_experiment:
        experiment.print_power(options)
        return
    step = {"weight": weight, "max_duration": max_duration}
    rollout.print_power(options, step, {"margin": margin, "floor": floor}, alpha)
