"""The plan of `rollout: {}` as simulations play it."""

from sundog_operator.api import Rollout
from sundog_operator.core.analysis.forecast import error_guardrail, harm_tests, weighed_steps
from sundog_operator.core.rollout.freeze import early_alpha, resolved
from sundog_operator.core.rollout.resolve import Traffic
from sundog_operator.core.stats.power.rollout_simulation import Plan


def by_default(requests_per_second: float, *, units: bool = False) -> Plan:
    """Its gates of errors, of a service with so much traffic, and no warm-up; harm's error is shared among all that the plan looks at.

    With `units` requests of one user stay with a revision.
    """
    asked = {"unit": {"header": "x-user-id"}} if units else {}
    plan = resolved(Rollout.from_json(asked), Traffic(requests_per_second))
    errors = error_guardrail(plan)
    assert errors is not None
    weights = tuple(step.weight / 100 for step in weighed_steps(plan))
    return Plan(
        weights=weights,
        margin=errors.margin,
        floor=errors.floor,
        metrics=harm_tests(plan),
        early_alpha=early_alpha(plan),
    )
