"""What a rollout is likely to come to, before it begins: its gates of evidence, played in simulated traffic."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanGuardrail, PlanStep
from sundog_operator.core.rollout import freeze, state
from sundog_operator.core.rollout.resolve import ERROR_RATE
from sundog_operator.core.stats.power import rollout_simulation
from sundog_operator.core.stats.power.rollout_simulation import SimulatedPlan, SteadyTraffic

_LOOKS_EVERY: Final = 3
"""Ticks: to look more often makes the answer no other, and takes longer."""

_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class ServiceTraffic:
    """The traffic of a service: requests per second, and the share of stable's that fail."""

    requests_per_second: float
    errors: float


@dataclass(frozen=True, slots=True)
class RolloutForecast:
    """What became of simulated rollouts of one candidate.

    Attributes:
        times: its failures, by those of stable.
        promoted: the share of rollouts that promoted it.
        rolled_back: the share that rolled it back for harm.
        median_minutes: until half of all were decided; infinite where fewer were.
        late_minutes: likewise until four fifths were.
        failed: failures of the candidate that callers saw in a median rollout.
    """

    times: float
    promoted: float
    rolled_back: float
    median_minutes: float
    p80_minutes: float
    failed: float

    @property
    def undecided(self) -> float:
        """The share that was not decided in time."""
        # Where both make 1, floats may make a little less than nothing of the rest.
        return max(0.0, 1 - self.promoted - self.rolled_back)


def gated_steps(plan: FrozenPlan) -> list[PlanStep]:
    """The steps that evidence gates."""
    return [step for step in plan.steps if step.gate == "evidence"]


def find_error_guardrail(plan: FrozenPlan) -> PlanGuardrail | None:
    """What a plan's gates ask of errors; None where they ask nothing."""
    return next((each for each in plan.guardrails if each.metric == ERROR_RATE and each.role == "guardrail"), None)


def max_ticks(plan: FrozenPlan, within: timedelta) -> int:
    """How many steps of time a simulation takes at most. The plan has steps gated by evidence."""
    longest = sum((step.max_duration or within for step in gated_steps(plan)), timedelta())
    return math.ceil(min(longest, within).total_seconds() / rollout_simulation.TICK_S)


def warmup_s(plan: FrozenPlan, service: ServiceTraffic, step: PlanStep) -> float:
    """Seconds of a step that are no evidence yet."""
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
    """Play a plan. Its errors alone are simulated; those of latency take as long or longer.

    Args:
        plan: with a step that is gated by evidence.
        service: the traffic.
        times: how many times as many of the candidate's requests fail as of stable's.
        runs: how many rollouts.
        within: for how long at most.
        on_tick: called with each ten seconds that are over.
    """
    limit = max_ticks(plan, within)
    outcomes = rollout_simulation.simulate_rollouts(
        _simulated(plan, service),
        SteadyTraffic(service.requests_per_second, service.errors, times),
        runs=runs,
        ticks=limit,
        seed=_SEED,
        every=_LOOKS_EVERY,
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
    """Among how many the error of harm is shared, as the test of all counts has it: more by as much as the first blocks have of it."""
    return len(plan.guardrails) * (plan.harm_shares or 1) / (1 - (plan.early_harm or 0.0))


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
