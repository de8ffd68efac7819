"""Forecast of a rollout before it begins: its evidence gates in simulated traffic."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, PlanStep
from sundog_operator.core.stats.power import rollout_simulation
from sundog_operator.core.stats.power.rollout_simulation import SimulatedPlan, SteadyTraffic
from sundog_operator.core.trial.default_plan import ERROR_RATE
from sundog_operator.core.trial.rollout import freeze, state

_EVALUATION_TICKS: Final = 3
"""Ticks between evaluations. More evaluations give the same result and take longer."""

_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """Traffic of a service: requests per second, and the share of stable's requests that fail."""

    requests_per_second: float
    errors: float


@dataclass(frozen=True, slots=True)
class RolloutForecast:
    """Result of simulated rollouts of one canary.

    Attributes:
        times: its failure rate divided by stable's.
        promoted: share of rollouts that promoted it.
        rolled_back: share that rolled it back for harm.
        median_minutes: time until half of all were decided; infinite if fewer were.
        p80_minutes: likewise for four fifths.
        failed: failures of the canary that callers got in a median rollout.
    """

    times: float
    promoted: float
    rolled_back: float
    median_minutes: float
    p80_minutes: float
    failed: float

    @property
    def undecided(self) -> float:
        """Return the share that was not decided in time."""
        # If the others sum to 1, rounding could make the rest negative.
        return max(0.0, 1 - self.promoted - self.rolled_back)


def gated_steps(plan: FrozenPlan) -> list[PlanStep]:
    """Return the steps with an evidence gate."""
    return [step for step in plan.steps if step.gate == "evidence"]


def find_error_guardrail(plan: FrozenPlan) -> PlanGuardrail | None:
    """Return the guardrail on errors that gates wait for; None if there is none."""
    return next((each for each in plan.guardrails if each.metric == ERROR_RATE and each.role == "guardrail"), None)


def max_ticks(plan: FrozenPlan, within: timedelta) -> int:
    """Return the maximum number of simulation ticks. The plan has steps with an evidence gate."""
    longest = sum((step.max_duration or within for step in gated_steps(plan)), timedelta())
    return math.ceil(min(longest, within).total_seconds() / rollout_simulation.TICK_S)


def warmup_s(plan: FrozenPlan, service: ServiceTraffic, step: PlanStep) -> float:
    """Return the warm-up of a step in seconds."""
    filling = plan.warmup_requests / (service.requests_per_second * step.weight / 100)
    return min(plan.warmup_duration.total_seconds(), filling)


def forecast_rollout(
    plan: FrozenPlan,
    service: ServiceTraffic,
    times: float,
    *,
    runs: int,
    within: timedelta,
    on_tick: Callable[[int], None] = lambda _: None,
) -> RolloutForecast:
    """Simulate a plan with its errors alone; latencies take as long or longer.

    Args:
        plan: a plan with an evidence gate.
        service: the traffic.
        times: failure rate of the canary divided by stable's.
        runs: number of rollouts.
        within: time limit.
        on_tick: called after each ten simulated seconds.
    """
    limit = max_ticks(plan, within)
    outcomes = rollout_simulation.simulate_rollouts(
        _simulated(plan, service),
        SteadyTraffic(service.requests_per_second, service.errors, times),
        runs=runs,
        ticks=limit,
        seed=_SEED,
        every=_EVALUATION_TICKS,
        on_tick=on_tick,
    )
    minutes, failed = sorted(outcomes.minutes.tolist()), sorted(outcomes.failed.tolist())
    return RolloutForecast(
        times=times,
        promoted=float(outcomes.promoted.mean()),
        rolled_back=float(outcomes.rolled_back.mean()),
        median_minutes=minutes[(runs - 1) // 2],
        p80_minutes=minutes[math.ceil(0.8 * runs) - 1],
        failed=failed[(runs - 1) // 2],
    )


def harm_test_count(plan: FrozenPlan) -> float:
    """Return how many tests share the harm error, more by the share that the test of the first blocks has."""
    tests = len(plan.guardrails) + len(plan.outcomes or ())
    return tests * (plan.harm_shares or 1) / (1 - (plan.early_harm or 0.0))


def _simulated(plan: FrozenPlan, service: ServiceTraffic) -> SimulatedPlan:
    steps, errors = gated_steps(plan), find_error_guardrail(plan)
    assert errors is not None
    least = min(step.min_duration for step in steps).total_seconds()
    return SimulatedPlan(
        weights=[step.weight / 100 for step in steps],
        margin=errors.margin,
        floor=errors.floor,
        alpha=plan.alpha or DEFAULT_ALPHA,
        metrics=harm_test_count(plan),
        early_alpha=freeze.early_alpha(plan),
        least_ticks=math.ceil(least / rollout_simulation.TICK_S),
        warmup_ticks=math.ceil(warmup_s(plan, service, steps[0]) / rollout_simulation.TICK_S),
        following=[state.weight_after(plan.steps, step.weight) / 100 for step in steps],
    )
