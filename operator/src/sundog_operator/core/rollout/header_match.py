"""Requests that go to a candidate by their headers, whatever its weight."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import ExperimentStatus, PlanHeader

HEADERS: Final = "headers"
"""The gate of a step that begins it: it opens once every edge sends them there."""


def active_headers(status: ExperimentStatus) -> tuple[PlanHeader, ...]:
    """The headers with which requests go to the candidate now; none where nothing but weights decides."""
    step = status.step
    if status.phase != "Running" or step is None or not 0 < step.index <= len(status.plan.steps):
        return ()
    return status.plan.steps[step.index - 1].headers or ()


def format_headers(headers: Sequence[PlanHeader]) -> str:
    """Headers for people, such as `x-canary: true and x-team: ranking`."""
    return " and ".join(f"{each.name}: {each.value}" for each in headers)
