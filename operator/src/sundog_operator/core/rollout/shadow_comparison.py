"""What a tick is told of a candidate that gets copies of requests, and whether it is to get some."""

from dataclasses import dataclass
from typing import Final

from sundog_operator.api import ExperimentStatus, MetricStatus, PlanShadow, ShadowStatus

SHADOW: Final = "shadow"
"""The gate of a step that compares copies, and the role of what it is judged by."""


NO_COPY_ANSWERED: Final = "no copy of a request was answered yet"
_MOST_TOLD: Final = 1024


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """The copies of the current step, as they compare now.

    Attributes:
        status: what is known, for the rollout's status.
        metrics: the same as metrics.
        passed: whether the step may end.
        failed: what the candidate does otherwise than it may; empty for nothing.
        silent: whether nothing came back yet.
    """

    status: ShadowStatus
    metrics: tuple[MetricStatus, ...]
    passed: bool = False
    failed: str = ""
    silent: bool = True


def active_shadow(status: ExperimentStatus) -> PlanShadow | None:
    """What the step that the rollout is at copies and compares; None where it does not, a command opened its gate, or counting has not
    begun anew since another one.
    """
    return None if needs_restart(status) else _asked(status)


def needs_restart(status: ExperimentStatus) -> bool:
    """Whether the rollout is at a step that copies, and what is counted still is another one's."""
    step = status.step
    if step is None or _asked(status) is None:
        return False
    is_first = not any(each.shadow is not None for each in status.plan.steps[: step.index - 1])
    return not is_first and (status.shadow is None or status.shadow.step != step.index)


def _asked(status: ExperimentStatus) -> PlanShadow | None:
    step = status.step
    if status.phase != "Running" or step is None or step.gate != SHADOW or not 0 < step.index <= len(status.plan.steps):
        return None
    return status.plan.steps[step.index - 1].shadow


def restarted_status(status: ExperimentStatus) -> ShadowStatus:
    """Nothing of the step that is begun, since the epoch in force; of the step before what it came to."""
    before = status.shadow
    number = status.step.index if status.step else 0
    earlier = (before.earlier or ()) if before else ()
    if before is not None and before.message:
        of = before.step or next(
            index for index, step in enumerate(status.plan.steps, start=1) if step.shadow is not None
        )
        earlier = (*earlier, f"step {of}: {before.message}"[:_MOST_TOLD])
    return ShadowStatus(step=number, epoch=status.epoch.number, earlier=earlier, message=NO_COPY_ANSWERED)
