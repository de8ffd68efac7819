"""A plan in words."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sundog_operator.api import FrozenPlan, PlanStep, format_duration

_GATES: Final = {"manual": "manual gate", "evidence": "evidence", "webhook": "a webhook confirms", "none": "no gate"}


def arrows(steps: Sequence[PlanStep]) -> str:
    """Steps in one line, such as `25 % (manual gate) → 100 %`."""
    return " → ".join(
        f"{step.weight} %" + ("" if step.gate == "none" else f" ({_gate(step.gate, step.min_duration)})")
        for step in steps
    )


def judged_by(plan: FrozenPlan) -> str:
    """What its gates of evidence wait for, such as `errorRate within 25 %, latencyP95 within 25 %`; empty where there are none."""
    return ", ".join(
        f"{each.metric} within {each.margin * 100:g} %" for each in plan.guardrails if each.role == "guardrail"
    )


def _gate(gate: str, duration: timedelta) -> str:
    return f"for {format_duration(duration)}" if gate == "time" else _GATES.get(gate, gate)
