"""The plan of `rollout: {}` for simulations."""

from sundog_operator.api import Rollout
from sundog_operator.core.analysis.forecast import find_error_guardrail, gated_steps, harm_test_count
from sundog_operator.core.stats.power.rollout_simulation import SimulatedPlan
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout.freeze import early_alpha, resolve_plan


def by_default(requests_per_second: float, *, units: bool = False) -> SimulatedPlan:
    """Return the plan's error-rate gates for a service with so much traffic, without warm-up. All harm tests of the plan share their error.

    With `units` requests of one user stay with a revision.
    """
    asked = {"unit": {"header": "x-user-id"}} if units else {}
    plan = resolve_plan(Rollout.from_json(asked), StableTraffic(requests_per_second))
    errors = find_error_guardrail(plan)
    assert errors is not None
    weights = tuple(step.weight / 100 for step in gated_steps(plan))
    return SimulatedPlan(
        weights=weights,
        margin=errors.margin,
        floor=errors.floor,
        metrics=harm_test_count(plan),
        early_alpha=early_alpha(plan),
    )
