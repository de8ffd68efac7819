"""The unit of assignment: resolved from a spec, frozen in a plan and written into the split document."""

from typing import Any, Final

from sundog_operator.api import FrozenPlan, PlanUnit, Unit

PER_REQUEST: Final = PlanUnit(kind="request")


def resolve_unit(unit: Unit) -> PlanUnit:
    """Return the unit of a spec; each request where the spec names none."""
    if unit.header is not None:
        return PlanUnit(kind="header", name=unit.header)
    if unit.cookie is not None:
        return PlanUnit(kind="cookie", name=unit.cookie)
    if unit.jwt_claim is not None:
        return PlanUnit(kind="jwtClaim", name=unit.jwt_claim)
    return PlanUnit(kind="jsonPath", name=unit.json_path) if unit.json_path is not None else PER_REQUEST


def frozen_unit(plan: FrozenPlan) -> PlanUnit:
    """Return the unit of a frozen plan. An older release stored it as `unitHeader`."""
    if plan.unit is not None:
        return plan.unit
    return PlanUnit(kind="header", name=plan.unit_header) if plan.unit_header else PER_REQUEST


def is_sticky(plan: FrozenPlan) -> bool:
    """Return whether all requests of one unit go to one arm."""
    return frozen_unit(plan) != PER_REQUEST


def make_unit_fields(unit: PlanUnit) -> dict[str, Any]:
    """Return the unit as the split document has it."""
    return {"kind": unit.kind, "name": unit.name} if unit.name else {"kind": unit.kind}
