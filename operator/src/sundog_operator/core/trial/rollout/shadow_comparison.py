"""Shadow comparison: an input of the state machine, and whether the current step copies requests."""

from dataclasses import dataclass
from typing import Final

from sundog_operator.api import ExperimentStatus, MetricStatus, PlanShadow, ShadowStatus

SHADOW: Final = "shadow"
"""The gate of a step that compares copies, and the role of its metrics."""


NO_COPY_ANSWERED: Final = "no copy of a request was answered yet"
_MESSAGE_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Results of the current step's copies.

    Attributes:
        status: the results, for the rollout's status.
        metrics: the same as metrics.
        passed: whether the step may end.
        failed: what the canary does worse than allowed; empty if nothing.
        silent: whether no copy was answered yet.
    """

    status: ShadowStatus
    metrics: tuple[MetricStatus, ...]
    passed: bool = False
    failed: str = ""
    silent: bool = True


def active_shadow(status: ExperimentStatus) -> PlanShadow | None:
    """Return the shadow of the current step; None if it has none, a command opened its gate, or its counting has not begun."""
    return None if needs_restart(status) else _current_shadow(status)


def needs_restart(status: ExperimentStatus) -> bool:
    """Whether the current step copies requests while the counts are still those of another shadow step."""
    step = status.step
    if step is None or _current_shadow(status) is None:
        return False
    is_first = not any(each.shadow is not None for each in status.plan.steps[: step.index - 1])
    return not is_first and (status.shadow is None or status.shadow.step != step.index)


def _current_shadow(status: ExperimentStatus) -> PlanShadow | None:
    step = status.step
    if status.phase != "Running" or step is None or step.gate != SHADOW or not 0 < step.index <= len(status.plan.steps):
        return None
    return status.plan.steps[step.index - 1].shadow


def restarted_status(status: ExperimentStatus) -> ShadowStatus:
    """Return an empty status of the new step from the current epoch on; keep the result of the step before."""
    before = status.shadow
    number = status.step.index if status.step else 0
    earlier = (before.earlier or ()) if before else ()
    if before is not None and before.message:
        number_before = before.step or next(
            index for index, step in enumerate(status.plan.steps, start=1) if step.shadow is not None
        )
        earlier = (*earlier, f"step {number_before}: {before.message}"[:_MESSAGE_LIMIT])
    return ShadowStatus(step=number, epoch=status.epoch.number, earlier=earlier, message=NO_COPY_ANSWERED)
