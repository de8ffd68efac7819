"""`sundog experiment simulate`."""

from datetime import timedelta
from typing import Final

import click

from sundog_operator.shell.forecast import experiment, rollout
from sundog_operator.shell.forecast.options import ForecastOptions, NumberParam, forecast_options

_HOURS: Final = 24.0


@click.command(epilog="Example: sundog experiment simulate --rps 50 --errors 0.5%")
@forecast_options(
    "1, the largest allowed, 2 and 5",
    click.option(
        "--hours",
        type=NumberParam(0.05, 24 * 14),
        default=_HOURS,
        show_default=True,
        help="Simulate at most this many hours.",
    ),
)
def simulate(options: ForecastOptions, hours: float) -> None:
    """Simulate a rollout or an Experiment: its duration and the likelihood of each end. Needs no API server.

    The plan comes from the manifest, or is `rollout: {}` resolved for that traffic. Only errors of independent requests are simulated:
    latency and bursts take longer.

    With --rate, or --mean and --deviation, the manifest's Experiment is simulated by its success metric until its `stop`:
    one arm is better by each effect, the others equal control, and guardrails pass.
    """
    if options.is_experiment:
        experiment.print_simulation(options)
    else:
        rollout.print_simulation(options, timedelta(hours=hours))
