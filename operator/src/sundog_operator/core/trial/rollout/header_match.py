"""Requests that go to the canary by their headers, whatever its weight."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import ExperimentStatus, PlanHeader

HEADERS: Final = "headers"
"""The gate of a step with headers: it opens once every edge routes by them."""


def active_headers(status: ExperimentStatus) -> tuple[PlanHeader, ...]:
    """Return the headers that send requests to the canary now; empty if only weights decide."""
    step = status.step
    if status.phase != "Running" or step is None or not 0 < step.index <= len(status.plan.steps):
        return ()
    return status.plan.steps[step.index - 1].headers or ()


def format_headers(headers: Sequence[PlanHeader]) -> str:
    """Format headers for people, such as `x-canary: true and x-team: ranking`."""
    return " and ".join(f"{each.name}: {each.value}" for each in headers)
