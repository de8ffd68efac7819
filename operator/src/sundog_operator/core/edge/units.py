"""What a service assigns to its arms: the unit of a spec, as a plan freezes it and as the split document says it."""

from typing import Any, Final

from sundog_operator.api import FrozenPlan, PlanUnit, Unit

PER_REQUEST: Final = PlanUnit(kind="request")


def resolve_unit(unit: Unit) -> PlanUnit:
    """The unit that a spec asks for; each request where it names none."""
    if unit.header is not None:
        return PlanUnit(kind="header", name=unit.header)
    if unit.cookie is not None:
        return PlanUnit(kind="cookie", name=unit.cookie)
    if unit.jwt_claim is not None:
        return PlanUnit(kind="jwtClaim", name=unit.jwt_claim)
    return PlanUnit(kind="jsonPath", name=unit.json_path) if unit.json_path is not None else PER_REQUEST


def frozen_unit(plan: FrozenPlan) -> PlanUnit:
    """The unit of a frozen plan, which an earlier version told as `unitHeader`."""
    if plan.unit is not None:
        return plan.unit
    return PlanUnit(kind="header", name=plan.unit_header) if plan.unit_header else PER_REQUEST


def is_sticky(plan: FrozenPlan) -> bool:
    """Whether what comes of one unit goes to one arm."""
    return frozen_unit(plan) != PER_REQUEST


def make_unit_fields(unit: PlanUnit) -> dict[str, Any]:
    """The unit as the split document has it."""
    return {"kind": unit.kind, "name": unit.name} if unit.name else {"kind": unit.kind}
