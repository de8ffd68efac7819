"""Power of a plan's gates: the requests and time that they need, and how likely they decide in time."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, PlanStep, format_duration
from sundog_operator.core.analysis import forecast
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.stats import dispersion, error_shares
from sundog_operator.core.stats.event_counts import MetricLimits
from sundog_operator.core.stats.power.expected_sample_size import ExpectedSampleSize, estimate_sample_size
from sundog_operator.core.trial.rollout import state

DEFAULT_GATE_DURATION: Final = timedelta(days=1)
"""Time to simulate a gate without deadline."""

_LEAST_S: Final = dispersion.MIN_BLOCKS * dispersion.LENGTHS_S[0]


@dataclass(frozen=True, slots=True)
class GatePower:
    """Result of one canary at a gate.

    Attributes:
        typical: expected sample size and decision; None if nothing decides.
        seconds: time until then, with the warm-up, and for a gate at least the step's minimum; infinite if nothing decides.
        forecast: results of simulated rollouts within the gate's time.
    """

    typical: ExpectedSampleSize | None
    seconds: float
    forecast: RolloutForecast


def make_last_gate_plan(plan: FrozenPlan) -> FrozenPlan:
    """Return a plan with only the last evidence step and the weight after it. The plan has such a step."""
    step = forecast.gated_steps(plan)[-1]
    following = PlanStep(weight=state.weight_after(plan.steps, step.weight), gate="none")
    return plan.model_copy(update={"steps": (step, following)})


def first_gate_deadline(plan: FrozenPlan) -> timedelta:
    """Return how long a plan's first evidence gate may take."""
    return forecast.gated_steps(plan)[0].max_duration or DEFAULT_GATE_DURATION


def estimate_gate_power(
    plan: FrozenPlan,
    service: ServiceTraffic,
    times: float,
    *,
    runs: int,
    on_tick: Callable[[int], None] = lambda _: None,
) -> GatePower:
    """Estimate the result of a canary at the gate of a plan from `make_last_gate_plan`.

    Args:
        plan: a plan with one evidence gate and a guardrail on errors.
        service: the traffic.
        times: failure rate of the canary divided by stable's.
        runs: number of simulated rollouts.
        on_tick: called after each ten simulated seconds.
    """
    (step,), errors = forecast.gated_steps(plan), forecast.find_error_guardrail(plan)
    assert errors is not None
    found = _typical(plan, errors, service, times, step, state.weight_after(plan.steps, step.weight))
    return GatePower(
        typical=found,
        seconds=math.inf if found is None else _seconds(found, plan, service, step),
        forecast=forecast.forecast_rollout(
            plan, service, times, runs=runs, within=first_gate_deadline(plan), on_tick=on_tick
        ),
    )


def _typical(
    plan: FrozenPlan, errors: PlanGuardrail, service: ServiceTraffic, times: float, step: PlanStep, following: int
) -> ExpectedSampleSize | None:
    alpha = plan.alpha or DEFAULT_ALPHA
    tests = forecast.harm_test_count(plan)
    share = error_shares.epoch_error_share(1) if following == 100 else 1.0
    limits = MetricLimits(errors.margin, errors.floor, following / 100, alpha, tests, share)
    return estimate_sample_size(service.errors, times, step.weight / 100, limits)


def _seconds(found: ExpectedSampleSize, plan: FrozenPlan, service: ServiceTraffic, step: PlanStep) -> float:
    counting = max(found.requests / service.requests_per_second, _LEAST_S)
    seconds = forecast.warmup_s(plan, service, step) + counting
    # Harm does not wait for the end of a step.
    return seconds if found.by == "harm" else max(seconds, step.min_duration.total_seconds())


@functools.lru_cache(maxsize=1024)
def find_undecidable_step(plan: FrozenPlan) -> str:
    """Return which step a canary like stable will hardly pass in time, at the traffic in the frozen plan; empty if none.

    Only errors are considered. Empty too if that traffic is unknown, or if the plan has no guardrail on errors. The result is cached,
    because it takes tens of milliseconds and is needed at each write of a rollout.
    """
    errors, rps, rate = forecast.find_error_guardrail(plan), plan.requests_per_second, plan.error_rate
    if errors is None or not rps or rate is None:
        return ""
    service = ServiceTraffic(rps, rate)
    for index, step in enumerate(plan.steps, start=1):
        if step.gate != "evidence" or step.max_duration is None:
            continue
        found = _typical(plan, errors, service, 1.0, step, state.weight_after(plan.steps, step.weight))
        seconds = math.inf if found is None else _seconds(found, plan, service, step)
        if seconds > step.max_duration.total_seconds():
            return (
                f"step {index} at {step.weight} % is unlikely to be decided within its {format_duration(step.max_duration)}: at"
                f" {rps:.3g} requests/s with {rate:.2%} failures, {_describe_time(seconds)}"
            )
    return ""


def _describe_time(seconds: float) -> str:
    """Describe an estimated time, in one unit."""
    if math.isinf(seconds):
        return "no amount of data decides"
    units = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)))
    found = timedelta(seconds=seconds)
    name, unit = next((each for each in units if found >= 2 * each[1]), units[-1])
    return f"it takes about {math.ceil(found / unit)}{name}"
