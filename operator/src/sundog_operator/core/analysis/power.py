"""How much it takes to decide the gates of a plan, and how likely that is in their time."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, PlanStep, format_duration
from sundog_operator.core.analysis import forecast as forecasting
from sundog_operator.core.analysis.forecast import RolloutForecast, ServiceTraffic
from sundog_operator.core.rollout import state
from sundog_operator.core.stats import dispersion, multiple_testing
from sundog_operator.core.stats.event_counts import MetricLimits
from sundog_operator.core.stats.power.expected_sample_size import ExpectedSampleSize, estimate_sample_size

DEFAULT_GATE_DURATION: Final = timedelta(days=1)
"""For which a gate without a deadline is looked at."""

_LEAST_S: Final = dispersion.MIN_BLOCKS * dispersion.LENGTHS_S[0]


@dataclass(frozen=True, slots=True)
class GatePower:
    """What one candidate comes to at a gate.

    Attributes:
        typical: what is expected to decide; None where nothing is.
        seconds: until then, the warm-up included, and for a gate what the step lasts at least; infinite where nothing decides.
        forecast: how often simulated rollouts were decided in the time that the gate has.
    """

    typical: ExpectedSampleSize | None
    seconds: float
    forecast: RolloutForecast


def make_last_gate_plan(plan: FrozenPlan) -> FrozenPlan:
    """A plan of the last step alone that evidence gates, and the weight that it leads to. The plan has such a step."""
    step = forecasting.gated_steps(plan)[-1]
    following = PlanStep(weight=state.weight_after(plan.steps, step.weight), gate="none")
    return plan.model_copy(update={"steps": (step, following)})


def first_gate_deadline(plan: FrozenPlan) -> timedelta:
    """How long a plan's first gate may take."""
    return forecasting.gated_steps(plan)[0].max_duration or DEFAULT_GATE_DURATION


def estimate_gate_power(
    plan: FrozenPlan,
    service: ServiceTraffic,
    times: float,
    *,
    runs: int,
    on_tick: Callable[[int], None] = lambda _: None,
) -> GatePower:
    """What a candidate comes to at the gate of a `last_gate`.

    Args:
        plan: of one step that is gated by evidence, with a guardrail on errors.
        service: the traffic.
        times: how many times as many of the candidate's requests fail as of stable's.
        runs: how many rollouts are simulated, for the likelihoods.
        on_tick: called with each ten seconds that are over.
    """
    (step,), errors = forecasting.gated_steps(plan), forecasting.find_error_guardrail(plan)
    assert errors is not None
    found = _typical(plan, errors, service, times, step, state.weight_after(plan.steps, step.weight))
    return GatePower(
        typical=found,
        seconds=math.inf if found is None else _seconds(found, plan, service, step),
        forecast=forecasting.forecast_rollout(
            plan, service, times, runs=runs, within=first_gate_deadline(plan), on_tick=on_tick
        ),
    )


def _typical(
    plan: FrozenPlan, errors: PlanGuardrail, service: ServiceTraffic, times: float, step: PlanStep, following: int
) -> ExpectedSampleSize | None:
    alpha = plan.alpha or DEFAULT_ALPHA
    tests = forecasting.harm_test_count(plan)
    share = multiple_testing.epoch_error_share(1) if following == 100 else 1.0
    limits = MetricLimits(errors.margin, errors.floor, following / 100, alpha, tests, share)
    return estimate_sample_size(service.errors, times, step.weight / 100, limits)


def _seconds(found: ExpectedSampleSize, plan: FrozenPlan, service: ServiceTraffic, step: PlanStep) -> float:
    counting = max(found.requests / service.requests_per_second, _LEAST_S)
    seconds = forecasting.warmup_s(plan, service, step) + counting
    # Harm waits for no step to be over.
    return seconds if found.by == "harm" else max(seconds, step.min_duration.total_seconds())


@functools.lru_cache(maxsize=1024)
def find_undecidable_step(plan: FrozenPlan) -> str:
    """Which step a candidate like stable will hardly pass in its time, at the traffic with which the plan was frozen; empty for none.

    Of errors alone; empty as well where that traffic is not known, or the plan asks nothing of errors. It is kept, for it takes tens of
    milliseconds, and is asked at each write of a rollout.
    """
    errors, rps, rate = forecasting.find_error_guardrail(plan), plan.requests_per_second, plan.error_rate
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
                f"step {index} at {step.weight} % is hardly decided in its {format_duration(step.max_duration)}: at"
                f" {rps:.3g} requests/s, of which {rate:.2%} fail, {_told(seconds)}"
            )
    return ""


def _told(seconds: float) -> str:
    """A guess for people, who read it in one unit."""
    if math.isinf(seconds):
        return "nothing decides"
    units = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)))
    found = timedelta(seconds=seconds)
    name, unit = next((each for each in units if found >= 2 * each[1]), units[-1])
    return f"that takes some {math.ceil(found / unit)}{name}"
