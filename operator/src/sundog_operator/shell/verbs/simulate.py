"""`sundog experiment simulate`."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import RenderableType

from sundog_operator.api import FrozenPlan, PlanGuardrail, format_duration
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.shell.forecast import experiment, options
from sundog_operator.shell.forecast.experiment import ExperimentAssumptions
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION

_HOURS: Final = 24.0


@click.command(epilog="Example: sundog experiment simulate --rps 50 --errors 0.5%")
@options.FILE_OPTION
@options.RPS_OPTION
@options.ERRORS_OPTION
@click.option(
    "--times",
    type=options.NumberParam(0, 1000),
    multiple=True,
    help="The candidate's error rate as a multiple of stable's; may be repeated. Default: 1, the largest allowed, 2 and 5.",
)
@click.option(
    "--hours",
    type=options.NumberParam(0.05, 24 * 14),
    default=_HOURS,
    show_default=True,
    help="Simulate at most this many hours.",
)
@options.RUNS_OPTION
@experiment.experiment_options
@TEXT_OUTPUT_OPTION
def simulate(
    file: Path | None,
    rps: float | None,
    errors: float | None,
    times: Sequence[float],
    hours: float,
    assumptions: ExperimentAssumptions,
    runs: int,
    output: str,
) -> None:
    """Simulate a rollout or an Experiment: its duration and the likelihood of each end. Needs no API server.

    The plan comes from the manifest, or is `rollout: {}` resolved for that traffic. Only errors of independent requests are simulated:
    latency and bursts take longer.

    With --rate, or --mean and --deviation, the manifest's Experiment is simulated by its success metric until its `stop`:
    one arm is better by each effect, the others equal control, and guardrails pass.
    """
    if assumptions.is_given:
        experiment.print_simulation(assumptions, file, rps, runs, output)
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
    options.print_forecast(output, lambda: _document(plan, found), lambda: _render(plan, found, within))


def _candidates(guardrail: PlanGuardrail, service: ServiceTraffic) -> list[float]:
    """Return multiples of stable's error rate: as good as stable, as bad as gates allow, and worse; [1] if stable has no errors."""
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


def _render(plan: FrozenPlan, found: Sequence[RolloutForecast], within: timedelta) -> RenderableType:
    errors = forecasting.find_error_guardrail(plan)
    assert errors is not None
    title = (
        f"{' → '.join(f'{step.weight} %' for step in plan.steps)}, errorRate with a margin of {errors.margin:.0%}, a floor of"
        f" {errors.floor:.2%}, at most {within.total_seconds() / 3600:g} h"
    )
    bakes = [format_duration(each.min_duration) for each in plan.steps if each.gate == BAKE]
    title += "".join(f"; times end when the gates pass, before the bake of {duration}" for duration in bakes)
    title += options.describe_unsimulated_outcomes(plan)
    rows = (
        (
            f"{each.times:g} × stable's",
            *options.format_likelihoods(each),
            options.render_likelihood_bar(each.promoted, each.rolled_back),
            options.format_minutes(each.median_minutes),
            options.format_minutes(each.p80_minutes),
            f"{each.failed:.0f}",
        )
        for each in found
    )
    columns = ("ERRORS", "PROMOTED", "ROLLED BACK", "UNDECIDED", "", "MEDIAN", "80 %", "FAILED")
    return options.make_table(title, columns, rows)
