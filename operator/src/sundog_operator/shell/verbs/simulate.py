"""`sundog experiment simulate`."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import RenderableType
from rich.table import Table

from sundog_operator.api import FrozenPlan, PlanGuardrail, format_duration
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.rollout.freeze import BAKE
from sundog_operator.shell.forecast import experiment, options
from sundog_operator.shell.forecast.experiment import ExperimentAssumptions

_HOURS: Final = 24.0


@click.command()
@options.FILE_OPTION
@options.RPS_OPTION
@options.ERRORS_OPTION
@click.option(
    "--times",
    type=click.FloatRange(0, 1000),
    multiple=True,
    help="How many times as many of the candidate's fail; may be repeated. By default once, the most that is allowed, 2 and 5 times.",
)
@click.option(
    "--hours", type=click.FloatRange(0.05, 24 * 14), default=_HOURS, show_default=True, help="For how long at most."
)
@options.RUNS_OPTION
@experiment.experiment_options
@options.FORECAST_OUTPUT_OPTION
def simulate(
    file: Path | None,
    rps: float | None,
    errors: float | None,
    times: Sequence[float],
    hours: float,
    asked: ExperimentAssumptions,
    runs: int,
    output: str,
) -> None:
    """Simulate a rollout, or an Experiment: how long it takes, and how likely each end is.

    The plan is that of the manifest, or `rollout: {}` resolved for that traffic. Errors alone are simulated, of requests that are
    independent of each other: latency and bursts take longer. Nothing is asked of a server.

    With --rate, or --mean and --deviation, the Experiment in the manifest is played, by its success metric and for as long as its `stop`
    lets it: one arm is better by each effect, the others are like control, and guardrails pass.
    """
    if asked.given:
        experiment.print_simulation(asked, file, rps, runs, output)
        return
    service = options.make_service(rps, errors)
    plan = options.read_plan(file, service.requests_per_second)
    guardrail = forecasting.find_error_guardrail(plan)
    assert guardrail is not None
    within = timedelta(hours=hours)
    found = options.simulate_effects(
        times or _candidates(guardrail, service),
        forecasting.max_ticks(plan, within),
        lambda each, on_tick: forecasting.forecast_rollout(
            plan, service, each, runs=runs, within=within, on_tick=on_tick
        ),
    )
    options.print_forecast(output, lambda: _document(plan, found), lambda: _shown(plan, found, within))


def _candidates(guardrail: PlanGuardrail, service: ServiceTraffic) -> list[float]:
    """As good as stable, as bad as gates may let pass, and worse. Of a service without errors no number of times is more."""
    if not service.errors:
        return [1.0]
    return sorted({1.0, round(1 + max(guardrail.margin, guardrail.floor / service.errors), 3), 2.0, 5.0})


def _document(plan: FrozenPlan, found: Sequence[RolloutForecast]) -> dict[str, object]:
    return {
        "steps": [step.weight for step in plan.steps],
        "candidates": [
            {
                "times": each.times,
                "promoted": each.promoted,
                "rolledBack": each.rolled_back,
                "undecided": round(each.undecided, 6),
                "medianMinutes": options.finite_or_none(each.median_minutes),
                "lateMinutes": options.finite_or_none(each.p80_minutes),
                "failedRequests": each.failed,
            }
            for each in found
        ],
    }


def _shown(plan: FrozenPlan, found: Sequence[RolloutForecast], within: timedelta) -> RenderableType:
    errors = forecasting.find_error_guardrail(plan)
    assert errors is not None
    title = (
        f"{' → '.join(f'{step.weight} %' for step in plan.steps)}, errorRate with a margin of {errors.margin:.0%}, a floor of"
        f" {errors.floor:.2%}, for {within.total_seconds() / 3600:g} h at most"
    )
    baked = [format_duration(each.min_duration) for each in plan.steps if each.gate == BAKE]
    title += "".join(f"; until the gates have opened, before the bake of {time}" for time in baked)
    table = Table(title=title, title_style="", title_justify="left", box=None, header_style="", padding=(0, 2, 0, 0))
    for name in ("ERRORS", "PROMOTED", "ROLLED BACK", "UNDECIDED", "", "MEDIAN", "80 %", "FAILED"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "ERRORS") else "right")
    for each in found:
        table.add_row(
            f"{each.times:g} × stable's",
            *options.format_likelihoods(each),
            options.render_likelihood_bar(each.promoted, each.rolled_back),
            options.format_minutes(each.median_minutes),
            options.format_minutes(each.p80_minutes),
            f"{each.failed:.0f}",
        )
    return table
