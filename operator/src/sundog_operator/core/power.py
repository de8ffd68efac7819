"""How much it takes to decide the last gate of a plan, and how likely it is decided in its time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, FrozenPlan, PlanStep
from sundog_operator.core import forecast as forecasting
from sundog_operator.core.evidence import dispersion
from sundog_operator.core.evidence.typical import Typical, typical
from sundog_operator.core.evidence.verdicts import Limits
from sundog_operator.core.forecast import Forecast, Service

LONGEST: Final = timedelta(days=1)
"""For which a gate without a deadline is looked at."""

_LEAST_S: Final = dispersion.LEAST_BLOCKS * dispersion.LENGTHS_S[0]


@dataclass(frozen=True, slots=True)
class Power:
    """What one candidate comes to at a gate.

    Attributes:
        typical: what is expected to decide; None where nothing is.
        seconds: until then, the warm-up included, and for a gate what the step lasts at least; infinite where nothing decides.
        forecast: how often simulated rollouts were decided in the time that the gate has.
    """

    typical: Typical | None
    seconds: float
    forecast: Forecast


def last_gate(plan: FrozenPlan) -> FrozenPlan:
    """A plan of the last step alone that evidence gates, and what follows it. The plan has such a step."""
    step = forecasting.weighed_steps(plan)[-1]
    return plan.model_copy(update={"steps": (step, PlanStep(weight=100, gate="none"))})


def deadline(plan: FrozenPlan) -> timedelta:
    """How long a plan's first gate may take."""
    return forecasting.weighed_steps(plan)[0].max_duration or LONGEST


def power(
    plan: FrozenPlan,
    service: Service,
    times: float,
    *,
    runs: int,
    on_tick: Callable[[int], None] = lambda _: None,
) -> Power:
    """What a candidate comes to at the gate of a `last_gate`.

    Args:
        plan: of one step that is gated by evidence, with a guardrail on errors.
        service: the traffic.
        times: how many times as many of the candidate's requests fail as of stable's.
        runs: how many rollouts are simulated, for the likelihoods.
        on_tick: called with each ten seconds that are over.
    """
    (step,), errors = forecasting.weighed_steps(plan), forecasting.error_guardrail(plan)
    assert errors is not None
    limits = Limits(errors.margin, errors.floor, 1.0, plan.alpha or DEFAULT_ALPHA, len(plan.guardrails))
    found = typical(service.errors, times, step.weight / 100, limits)
    return Power(
        typical=found,
        seconds=math.inf if found is None else _seconds(found, plan, service, step),
        forecast=forecasting.forecast(plan, service, times, runs=runs, within=deadline(plan), on_tick=on_tick),
    )


def _seconds(found: Typical, plan: FrozenPlan, service: Service, step: PlanStep) -> float:
    counting = max(found.requests / service.requests_per_second, _LEAST_S)
    seconds = forecasting.warmup_s(plan, service, step) + counting
    # Harm waits for no step to be over.
    return seconds if found.by == "harm" else max(seconds, step.min_duration.total_seconds())
