"""`sundog experiment power`."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from rich.console import RenderableType
from rich.table import Table

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, format_duration, parse_duration
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis import power as powers
from sundog_operator.core.analysis.forecast import ServiceTraffic
from sundog_operator.core.analysis.power import GatePower
from sundog_operator.shell.forecast import experiment, options
from sundog_operator.shell.forecast.experiment import ExperimentAssumptions

_BETTER: Final = (0.5, 0.8, 1.0)
_WORSE: Final = (2.0, 3.0, 5.0)
_UNLIKELY: Final = 0.5
"""Below which likelihood of being decided a candidate like stable is warned of."""

_DECIDED: Final = {"margin": "passes by the margin", "floor": "passes by the floor", "harm": "rolled back for harm"}


class _Time(click.ParamType[timedelta]):
    """A duration such as 30m, above 0."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            found = parse_duration(str(value))
        except ValueError as err:
            self.fail(str(err), param, ctx)
        if not found:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return found


@click.command()
@options.FILE_OPTION
@options.RPS_OPTION
@options.ERRORS_OPTION
@click.option(
    "--times",
    type=click.FloatRange(0, 1000),
    multiple=True,
    help="The effect: how many times as many of the candidate's fail; may be repeated. By default some from half to 5 times.",
)
@click.option("--weight", type=click.IntRange(1, 99), help="The candidate's percent of the traffic at the gate.")
@click.option(
    "--margin", type=options.PercentParam(10_000), help="How much worse it may be, such as 25%, instead of the plan's."
)
@click.option(
    "--floor", type=options.PercentParam(), help="Of all requests, such as 0.5%, instead of the plan's; 0% is none."
)
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), help="The error of each direction.")
@click.option("--max-duration", type=_Time(), help="How long the gate may take, such as 30m or 1d.")
@options.RUNS_OPTION
@experiment.experiment_options
@options.FORECAST_OUTPUT_OPTION
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
    asked: ExperimentAssumptions,
    runs: int,
    output: str,
) -> None:
    """Tell how much it takes to decide: of a rollout's last gate, or of an Experiment, and how likely it is in its time.

    The plan is that of the manifest, or `rollout: {}` resolved for that traffic, with what else is given instead of its own. Numbers are
    typical: half of all rollouts need more. Likelihoods are simulated. It is about errors alone, of requests that are independent of each
    other: latency and bursts take longer. Nothing is asked of a server.

    With --rate, or --mean and --deviation, it is about the success metric of the Experiment in the manifest: one arm is better by each
    effect, the others are like control, and guardrails pass.
    """
    if asked.given:
        experiment.print_power(asked, file, rps, runs, output)
        return
    service = options.make_service(rps, errors)
    plan = powers.make_last_gate_plan(options.read_plan(file, service.requests_per_second))
    plan = _with(plan, {"weight": weight, "max_duration": max_duration}, {"margin": margin, "floor": floor}, alpha)
    guardrail = forecasting.find_error_guardrail(plan)
    assert guardrail is not None
    found = options.simulate_effects(
        times or _effects(guardrail, service),
        forecasting.max_ticks(plan, powers.first_gate_deadline(plan)),
        lambda each, on_tick: powers.estimate_gate_power(plan, service, each, runs=runs, on_tick=on_tick),
    )
    options.print_forecast(output, lambda: _document(plan, found), lambda: _shown(plan, guardrail, found))
    for warning in _warnings(plan, found):
        click.echo(warning, err=True)


def _with(plan: FrozenPlan, step: dict[str, object], guardrail: dict[str, object], alpha: float | None) -> FrozenPlan:
    """A plan with what was given of its gate and of its guardrail on errors."""
    changes, limits = (
        {name: value for name, value in given.items() if value is not None} for given in (step, guardrail)
    )
    gate, *others = plan.steps
    judged = forecasting.find_error_guardrail(plan)
    return plan.model_copy(
        update={
            "steps": (gate.model_copy(update=changes), *others),
            "guardrails": tuple(each.model_copy(update=limits) if each is judged else each for each in plan.guardrails),
            "alpha": plan.alpha if alpha is None else alpha,
        }
    )


def _effects(guardrail: PlanGuardrail, service: ServiceTraffic) -> list[float]:
    """Better, alike, at the margin, and worse. Of a service without errors no number of times is more."""
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


def _shown(plan: FrozenPlan, guardrail: PlanGuardrail, found: Sequence[GatePower]) -> RenderableType:
    title = (
        f"The gate at {plan.steps[0].weight} %, errorRate with a margin of {guardrail.margin:.0%}, a floor of {guardrail.floor:.2%},"
        f" alpha {plan.alpha:g}{_shared(plan)}, {format_duration(powers.first_gate_deadline(plan))} at most"
    )
    table = Table(title=title, title_style="", title_justify="left", box=None, header_style="", padding=(0, 2, 0, 0))
    for name in ("ERRORS", "TYPICALLY", "EVENTS", "REQUESTS", "TIME", "PASSED", "ROLLED BACK", "UNDECIDED", ""):
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "ERRORS", "TYPICALLY") else "right")
    for each in found:
        decided = each.typical
        table.add_row(
            f"{each.forecast.times:g} × stable's",
            _DECIDED[decided.by] if decided else "never decided",
            f"{decided.events:.0f}" if decided else "–",
            f"{decided.requests:.0f}" if decided else "–",
            options.format_minutes(each.seconds / 60),
            *options.format_likelihoods(each.forecast),
            options.render_likelihood_bar(each.forecast.promoted, each.forecast.rolled_back),
        )
    return table


def _shared(plan: FrozenPlan) -> str:
    """What shadow steps leave of alpha for harm by traffic; nothing without any."""
    return "" if plan.harm_shares is None else f" ({(plan.alpha or DEFAULT_ALPHA) / plan.harm_shares:.3g} for harm)"


def _warnings(plan: FrozenPlan, found: Sequence[GatePower]) -> Iterator[str]:
    """Where a candidate that is as good as stable will hardly be promoted in time."""
    for each in found:
        if each.forecast.times <= 1 and each.forecast.promoted < _UNLIKELY:
            yield (
                f"warning: a candidate with {each.forecast.times:g} times stable's errors passes within"
                f" {format_duration(powers.first_gate_deadline(plan))} with a likelihood of {each.forecast.promoted:.0%}"
                " only; what takes longer does"
                f" what onInconclusive says, here {plan.on_inconclusive}"
            )
