"""Forecasts of a rollout: of its last gate, or of all its gates, by the errors of a canary."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click
from rich.console import RenderableType

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, ModelDeployment, PlanGuardrail, Rollout, format_duration
from sundog_operator.core.forecast import gate_forecast, rollout_forecast
from sundog_operator.core.forecast.gate_forecast import GatePower
from sundog_operator.core.forecast.rollout_forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.ray.scaling import replicas_of_rollout
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze
from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.forecast import output
from sundog_operator.shell.forecast.options import ForecastOptions

_BETTER: Final = (0.5, 0.8, 1.0)
_WORSE: Final = (2.0, 3.0, 5.0)
_UNLIKELY: Final = 0.5
"""Warn if a candidate like stable is promoted with a lower likelihood."""

_DECIDED: Final = {"margin": "passes by the margin", "floor": "passes by the floor", "harm": "rolled back for harm"}


@dataclass(frozen=True, slots=True)
class _RolloutCase:
    """Plan that is simulated, its guardrail on errors, and the service's traffic."""

    plan: FrozenPlan
    errors: PlanGuardrail
    service: ServiceTraffic

    @property
    def limits(self) -> str:
        """Limits of the guardrail, as a part of a title."""
        return f"errorRate with a margin of {self.errors.margin:.0%}, a floor of {self.errors.floor:.2%}"

    @property
    def end_of_title(self) -> str:
        """Guardrails that a simulation of errors leaves out; empty without any."""
        names = ", ".join(outcome.name for outcome in self.plan.outcomes or ())
        return f"; outcomes are taken as passed: {names}" if names else ""


def _read_case(options: ForecastOptions) -> _RolloutCase:
    """Return the plan as it would be frozen with that traffic. Raises CommandFailed, and click.UsageError if an option is missing."""
    if options.rps is None or options.errors is None:
        raise click.UsageError("a rollout needs --rps and --errors; an Experiment needs -f with --rate or --mean")
    file = options.file
    rollout, replicas = (Rollout(), 1) if file is None else _read_rollout(file)
    if rollout.strategy != "canary":
        raise CommandFailed(
            f"{file}: spec.rollout.strategy: found {rollout.strategy}; expected canary, which has steps to simulate"
        )
    plan = freeze.resolve_plan(rollout, StableTraffic(options.rps), replicas)
    if not rollout_forecast.gated_steps(plan):
        raise CommandFailed(f"{file}: spec.rollout has no step with an evidence gate; expected one to simulate")
    errors = rollout_forecast.find_error_guardrail(plan)
    if errors is None:
        raise CommandFailed(
            f"{file}: spec.rollout.guardrails has no errorRate; expected it, as no other metric can be simulated"
        )
    return _RolloutCase(plan, errors, ServiceTraffic(options.rps, options.errors))


def _read_rollout(file: Path) -> tuple[Rollout, int]:
    """Return (rollout, replicas) of a manifest."""
    spec = output.read_only_object(file, ModelDeployment, "an Experiment needs --rate or --mean").spec
    return spec.rollout, replicas_of_rollout(spec)


def print_power(
    options: ForecastOptions, step: Mapping[str, object], guardrail: Mapping[str, object], alpha: float | None
) -> None:
    """Print the typical sample sizes of the last gate, and the likelihood of each end.

    Args:
        options: the options of all forecasts.
        step: fields of the gate's step that replace the plan's; those of None do not.
        guardrail: likewise, of the guardrail on errors.
        alpha: likewise, the error of each direction.
    """
    case = _override(_read_case(options), step, guardrail, alpha)
    found = output.simulate_effects(
        options.times or _effects(case, (*_BETTER, round(1 + case.errors.margin, 3), *_WORSE)),
        rollout_forecast.max_ticks(case.plan, gate_forecast.first_gate_deadline(case.plan)),
        lambda each, on_tick: gate_forecast.estimate_gate_power(
            case.plan, case.service, each, runs=options.runs, on_tick=on_tick
        ),
    )
    output.print_forecast(options.output, lambda: _gate_document(case, found), lambda: _gate_table(case, found))
    for warning in _warnings(case.plan, found):
        click.echo(warning, err=True)


def print_simulation(options: ForecastOptions, within: timedelta) -> None:
    """Print the likelihood and the time of each end of a rollout, of at most the given time."""
    case = _read_case(options)
    floor_times = case.errors.floor / case.service.errors if case.service.errors else 0.0
    found = output.simulate_effects(
        options.times or _effects(case, (1.0, round(1 + max(case.errors.margin, floor_times), 3), 2.0, 5.0)),
        rollout_forecast.max_ticks(case.plan, within),
        lambda each, on_tick: rollout_forecast.forecast_rollout(
            case.plan, case.service, each, runs=options.runs, within=within, on_tick=on_tick
        ),
    )
    output.print_forecast(options.output, lambda: _document(case, found), lambda: _table(case, found, within))


def _effects(case: _RolloutCase, multiples: Sequence[float]) -> list[float]:
    """Return the multiples of stable's error rate, each once; [1] if stable has no errors."""
    return sorted(set(multiples)) if case.service.errors else [1.0]


def _override(
    case: _RolloutCase, step: Mapping[str, object], guardrail: Mapping[str, object], alpha: float | None
) -> _RolloutCase:
    """Return the plan's last gate alone, with the given fields that are not None."""
    plan = gate_forecast.make_last_gate_plan(case.plan)
    changes, limits = (
        {name: value for name, value in changed.items() if value is not None} for changed in (step, guardrail)
    )
    (gate, *others), errors = plan.steps, case.errors.model_copy(update=limits)
    guardrails = tuple(errors if each is case.errors else each for each in plan.guardrails)
    update: dict[str, Any] = {"steps": (gate.model_copy(update=changes), *others), "guardrails": guardrails}
    if alpha is not None:
        update["alpha"] = alpha
    return _RolloutCase(plan.model_copy(update=update), errors, case.service)


def _gate_document(case: _RolloutCase, found: Sequence[GatePower]) -> dict[str, object]:
    plan = case.plan
    return {
        "weight": plan.steps[0].weight,
        "margin": case.errors.margin,
        "floor": case.errors.floor,
        "alpha": plan.alpha,
        **({} if plan.harm_shares is None else {"harmShares": plan.harm_shares}),
        "maxDuration": format_duration(gate_forecast.first_gate_deadline(plan)),
        "candidates": [
            {
                "times": each.forecast.times,
                "decides": each.typical.by if each.typical else None,
                "events": round(each.typical.events, 1) if each.typical else None,
                "requests": round(each.typical.requests) if each.typical else None,
                "minutes": output.finite_or_none(each.seconds / 60),
                "passed": each.forecast.promoted,
                "rolledBack": each.forecast.rolled_back,
                "undecided": round(each.forecast.undecided, 6),
            }
            for each in found
        ],
    }


def _gate_table(case: _RolloutCase, found: Sequence[GatePower]) -> RenderableType:
    plan = case.plan
    # Shadow steps leave a part of alpha for harm by traffic.
    of_harm = "" if plan.harm_shares is None else f" ({(plan.alpha or DEFAULT_ALPHA) / plan.harm_shares:.3g} for harm)"
    title = (
        f"The gate at {plan.steps[0].weight} %, {case.limits}, alpha {plan.alpha:g}{of_harm},"
        f" at most {format_duration(gate_forecast.first_gate_deadline(plan))}{case.end_of_title}"
    )
    columns = ("ERRORS", "TYPICALLY", "EVENTS", "REQUESTS", "TIME", "PASSED", "ROLLED BACK", "UNDECIDED", "")
    rows = (
        (
            f"{each.forecast.times:g} × stable's",
            _DECIDED[each.typical.by] if each.typical else "never decided",
            f"{each.typical.events:.0f}" if each.typical else "–",
            f"{each.typical.requests:.0f}" if each.typical else "–",
            output.format_minutes(each.seconds / 60),
            *_likelihoods(each.forecast),
        )
        for each in found
    )
    return output.make_table(title, columns, rows)


def _likelihoods(forecast: RolloutForecast) -> tuple[RenderableType, ...]:
    return output.format_likelihoods(forecast.promoted, forecast.rolled_back, forecast.undecided)


def _warnings(plan: FrozenPlan, found: Sequence[GatePower]) -> Iterator[str]:
    """Yield a warning for each candidate no worse than stable that is unlikely to be promoted in time."""
    for each in found:
        if each.forecast.times <= 1 and each.forecast.promoted < _UNLIKELY:
            yield (
                f"warning: a candidate with {each.forecast.times:g} times stable's errors passes within"
                f" {format_duration(gate_forecast.first_gate_deadline(plan))} with a likelihood of only {each.forecast.promoted:.0%};"
                f" otherwise onInconclusive decides, here {plan.on_inconclusive}"
            )


def _document(case: _RolloutCase, found: Sequence[RolloutForecast]) -> dict[str, object]:
    return {
        "steps": [step.weight for step in case.plan.steps],
        "candidates": [
            {
                "times": each.times,
                "promoted": each.promoted,
                "rolledBack": each.rolled_back,
                "undecided": round(each.undecided, 6),
                "medianMinutes": output.finite_or_none(each.median_minutes),
                "lateMinutes": output.finite_or_none(each.p80_minutes),
                "failedRequests": each.failed,
            }
            for each in found
        ],
    }


def _table(case: _RolloutCase, found: Sequence[RolloutForecast], within: timedelta) -> RenderableType:
    steps = " → ".join(f"{step.weight} %" for step in case.plan.steps)
    bakes = [format_duration(each.min_duration) for each in case.plan.steps if each.gate == freeze.BAKE]
    title = f"{steps}, {case.limits}, at most {within.total_seconds() / 3600:g} h"
    title += "".join(f"; times end when the gates pass, before the bake of {duration}" for duration in bakes)
    rows = (
        (
            f"{each.times:g} × stable's",
            *_likelihoods(each),
            output.format_minutes(each.median_minutes),
            output.format_minutes(each.p80_minutes),
            f"{each.failed:.0f}",
        )
        for each in found
    )
    columns = ("ERRORS", "PROMOTED", "ROLLED BACK", "UNDECIDED", "", "MEDIAN", "80 %", "FAILED")
    return output.make_table(title + case.end_of_title, columns, rows)
