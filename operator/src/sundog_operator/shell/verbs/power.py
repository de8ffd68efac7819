"""`sundog experiment power`."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import RenderableType

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, format_duration, parse_duration
from sundog_operator.core.forecast import gate_forecast as powers
from sundog_operator.core.forecast import rollout_forecast as forecasting
from sundog_operator.core.forecast.gate_forecast import GatePower
from sundog_operator.core.forecast.rollout_forecast import ServiceTraffic
from sundog_operator.shell.forecast import experiment, options
from sundog_operator.shell.forecast.experiment import ExperimentAssumptions
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION

_BETTER: Final = (0.5, 0.8, 1.0)
_WORSE: Final = (2.0, 3.0, 5.0)
_UNLIKELY: Final = 0.5
"""Warn if a candidate like stable is promoted with a lower likelihood."""

_DECIDED: Final = {"margin": "passes by the margin", "floor": "passes by the floor", "harm": "rolled back for harm"}


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
@options.FILE_OPTION
@options.RPS_OPTION
@options.ERRORS_OPTION
@click.option(
    "--times",
    type=options.NumberParam(0, 1000),
    multiple=True,
    help="The candidate's error rate as a multiple of stable's; may be repeated. Default: several from 0.5 to 5.",
)
@click.option("--weight", type=click.IntRange(1, 99), help="The candidate's weight at the gate, in percent.")
@click.option(
    "--margin", type=options.PercentParam(10_000), help="The margin, such as 25%. Default: the plan's margin."
)
@click.option(
    "--floor",
    type=options.PercentParam(),
    help="The floor in percent of all requests, such as 0.5%; 0% is none. Default: the plan's floor.",
)
@click.option("--alpha", type=options.NumberParam(0, 0.5, min_open=True), help="The error of each direction.")
@click.option("--max-duration", type=_DurationParam(), help="The gate's longest duration, such as 30m or 1d.")
@options.RUNS_OPTION
@experiment.experiment_options
@TEXT_OUTPUT_OPTION
def power(
    file: Path | None,
    rps: float | None,
    errors: float | None,
    times: Sequence[float],
    weight: int | None,
    margin: float | None,
    floor: float | None,
    alpha: float | None,
    max_duration: timedelta | None,
    assumptions: ExperimentAssumptions,
    runs: int,
    output: str,
) -> None:
    """Estimate the data that a rollout's last gate or an Experiment needs, and the likelihood of a decision in time. Needs no API server.

    The plan comes from the manifest, or is `rollout: {}` resolved for that traffic; options override it. Numbers are typical: half of all
    rollouts need more. Likelihoods are simulated. Only errors of independent requests count: latency and bursts take longer.

    With --rate, or --mean and --deviation, the estimate is for the success metric of the manifest's Experiment:
    one arm is better by each effect, the others equal control, and guardrails pass.
    """
    if assumptions.is_given:
        experiment.print_power(assumptions, file, rps, runs, output)
        return
    service = options.make_service(rps, errors)
    plan = powers.make_last_gate_plan(options.read_plan(file, service.requests_per_second))
    plan = _override_plan(
        plan, {"weight": weight, "max_duration": max_duration}, {"margin": margin, "floor": floor}, alpha
    )
    guardrail = forecasting.find_error_guardrail(plan)
    assert guardrail is not None
    found = options.simulate_effects(
        times or _effects(guardrail, service),
        forecasting.max_ticks(plan, powers.first_gate_deadline(plan)),
        lambda each, on_tick: powers.estimate_gate_power(plan, service, each, runs=runs, on_tick=on_tick),
    )
    options.print_forecast(output, lambda: _document(plan, found), lambda: _render(plan, guardrail, found))
    for warning in _warnings(plan, found):
        click.echo(warning, err=True)


def _override_plan(
    plan: FrozenPlan, step: dict[str, object], guardrail: dict[str, object], alpha: float | None
) -> FrozenPlan:
    """Return a plan with the given fields of its gate and of its guardrail on errors; None keeps the plan's value."""
    changes, limits = (
        {name: value for name, value in fields.items() if value is not None} for fields in (step, guardrail)
    )
    gate, *others = plan.steps
    errors = forecasting.find_error_guardrail(plan)
    return plan.model_copy(
        update={
            "steps": (gate.model_copy(update=changes), *others),
            "guardrails": tuple(each.model_copy(update=limits) if each is errors else each for each in plan.guardrails),
            "alpha": plan.alpha if alpha is None else alpha,
        }
    )


def _effects(guardrail: PlanGuardrail, service: ServiceTraffic) -> list[float]:
    """Return multiples of stable's error rate: better, alike, at the margin, and worse; [1] if stable has no errors."""
    return sorted({*_BETTER, round(1 + guardrail.margin, 3), *_WORSE}) if service.errors else [1.0]


def _document(plan: FrozenPlan, found: Sequence[GatePower]) -> dict[str, object]:
    gate, guardrail = plan.steps[0], forecasting.find_error_guardrail(plan)
    assert guardrail is not None
    return {
        "weight": gate.weight,
        "margin": guardrail.margin,
        "floor": guardrail.floor,
        "alpha": plan.alpha,
        **({} if plan.harm_shares is None else {"harmShares": plan.harm_shares}),
        "maxDuration": format_duration(powers.first_gate_deadline(plan)),
        "candidates": [
            {
                "times": each.forecast.times,
                "decides": each.typical.by if each.typical else None,
                "events": round(each.typical.events, 1) if each.typical else None,
                "requests": round(each.typical.requests) if each.typical else None,
                "minutes": options.finite_or_none(each.seconds / 60),
                "passed": each.forecast.promoted,
                "rolledBack": each.forecast.rolled_back,
                "undecided": round(each.forecast.undecided, 6),
            }
            for each in found
        ],
    }


def _render(plan: FrozenPlan, guardrail: PlanGuardrail, found: Sequence[GatePower]) -> RenderableType:
    title = (
        f"The gate at {plan.steps[0].weight} %, errorRate with a margin of {guardrail.margin:.0%}, a floor of {guardrail.floor:.2%},"
        f" alpha {plan.alpha:g}{_format_harm_alpha(plan)}, at most {format_duration(powers.first_gate_deadline(plan))}"
        f"{options.describe_unsimulated_outcomes(plan)}"
    )
    columns = ("ERRORS", "TYPICALLY", "EVENTS", "REQUESTS", "TIME", "PASSED", "ROLLED BACK", "UNDECIDED", "")
    return options.make_table(title, columns, map(_make_row, found))


def _make_row(each: GatePower) -> tuple[RenderableType, ...]:
    decided = each.typical
    return (
        f"{each.forecast.times:g} × stable's",
        _DECIDED[decided.by] if decided else "never decided",
        f"{decided.events:.0f}" if decided else "–",
        f"{decided.requests:.0f}" if decided else "–",
        options.format_minutes(each.seconds / 60),
        *options.format_likelihoods(each.forecast),
        options.render_likelihood_bar(each.forecast.promoted, each.forecast.rolled_back),
    )


def _format_harm_alpha(plan: FrozenPlan) -> str:
    """Format the part of alpha that shadow steps leave for harm by traffic; empty without shadow steps."""
    return "" if plan.harm_shares is None else f" ({(plan.alpha or DEFAULT_ALPHA) / plan.harm_shares:.3g} for harm)"


def _warnings(plan: FrozenPlan, found: Sequence[GatePower]) -> Iterator[str]:
    """Yield a warning for each candidate no worse than stable that is unlikely to be promoted in time."""
    for each in found:
        if each.forecast.times <= 1 and each.forecast.promoted < _UNLIKELY:
            yield (
                f"warning: a candidate with {each.forecast.times:g} times stable's errors passes within"
                f" {format_duration(powers.first_gate_deadline(plan))} with a likelihood of only {each.forecast.promoted:.0%};"
                f" otherwise onInconclusive decides, here {plan.on_inconclusive}"
            )
