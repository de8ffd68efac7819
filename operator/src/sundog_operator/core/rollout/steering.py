"""Commands of a user: promote, skip, pause and resume."""

from datetime import datetime

from sundog_operator.api import (
    ExperimentStatus,
    PauseStatus,
    PlanStep,
)
from sundog_operator.core.rollout import (
    baseline_outage,
    prometheus_checks,
    steps_without_evidence,
)
from sundog_operator.core.rollout.commands import RolloutCommand
from sundog_operator.core.rollout.freeze import BAKE
from sundog_operator.core.rollout.state import (
    DEADLINE_EXCEEDED,
    DECIDING_GATES,
    INCONCLUSIVE,
    MANUAL,
    NO_DATA,
    PAUSABLE_GATES,
    PENDING,
    RUNNING,
    current_step,
)
from sundog_operator.core.rollout.transitions import enter, stop, ungated


def execute_command(status: ExperimentStatus, command: RolloutCommand, now: datetime) -> ExperimentStatus:
    """Run an accepted command. Its id stays in the status, so that a crash before the next write does not run it twice."""
    marked = status.model_copy(update={"last_command": command.id})
    match command.verb:
        case "pause":
            return _pause(marked, now)
        case "resume":
            return resume(marked, now)
        case "abort":
            return stop(marked, "Aborted", f"by command {command.id}", now)
        case "promote":
            return _promote(_waited_for(marked, now), full=command.full)
        case "skip" if can_skip(marked):
            return _skip(marked)
        case _:
            return marked


def _pause(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Stand still by command. What waits for somebody already keeps its cause, for by it `resume` knows whose time begins anew.

    What would go on by itself stands still until `resume`, and has stood still since it was paused.
    """
    if status.paused is not None and not baseline_outage.is_paused_for_baseline(status):
        return status
    since = now if status.paused is None else status.paused.since
    return status.model_copy(update={"paused": PauseStatus(reason=MANUAL, since=since)})


def resume(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Go on. A step that took too long gets its time anew, or it would be paused again at once; a pause by hand took none of it."""
    paused, step = status.paused, status.step
    if paused is not None and step is not None and step.since is not None and step.gate in PAUSABLE_GATES:
        late = paused.reason in (INCONCLUSIVE, NO_DATA)
        begun = max(paused.since, step.since)
        # What is held meanwhile gets that time back when the hold ends.
        ended = now if step.held_since is None else max(step.held_since, begun)
        step = step.model_copy(update={"since": now if late else step.since + (ended - begun)})
    return prometheus_checks.reset_inconclusive(
        _waited_for(status, now).model_copy(update={"paused": None, "step": step})
    )


def _waited_for(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """With its time to become ready anew, where that was what it is paused for, or passed while it was."""
    waited = status.paused is not None and (status.paused.reason == DEADLINE_EXCEEDED or status.phase == PENDING)
    return status.model_copy(update={"resumed_at": now}) if waited else status


def _promote(status: ExperimentStatus, *, full: bool) -> ExperimentStatus:
    """Pass the gate of the current step; of the last one, or with `full`, all that is left. A pause ends with it."""
    last = len(status.plan.steps)
    running = prometheus_checks.reset_inconclusive(status.model_copy(update={"phase": RUNNING, "paused": None}))
    index = status.step.index if status.step else 0
    following = last if full or index >= last else index + 1
    command = "promote --full" if full else "promote"
    known = steps_without_evidence.record_skipped(running, range(max(index, 1), following), command)
    entered = enter(known, following, f"by command {command}")
    return ungated(entered) if full or index >= last else entered


def can_skip(status: ExperimentStatus) -> bool:
    """Whether the current step may be left out, as `why_not_skipped` tells."""
    return not skip_refusal(status)


def skip_refusal(status: ExperimentStatus) -> str:
    """Why the current step may not be left out; empty where it may.

    Another one follows that has not all traffic, nor all but what stable keeps in a bake. Where evidence or a person was to decide, one of
    both has yet to: times, replicas and what else ends by itself would lead to all traffic, and nobody had said that it may.
    """
    index = status.step.index if status.step else 0
    if not index:
        return "the candidate is not ready yet: there is no step to skip"
    place = f"step {index} of {len(status.plan.steps)}"
    following = status.plan.steps[index:]
    if not following or _is_the_end(following[0]):
        end = f"the bake at {following[0].weight} %" if following and following[0].gate == BAKE else "all traffic"
        return f"what follows on {place} is {end}: promote leads there"
    skipped = current_step(status)
    decides = any(step.gate in DECIDING_GATES and not _is_the_end(step) for step in following)
    if skipped.gate in DECIDING_GATES and not decides:
        end = "the bake" if any(step.gate == BAKE for step in following) else "all traffic"
        return f"{place} is the last that evidence or a person decides, and {end} would follow by itself: promote passes it"
    return ""


def _is_the_end(step: PlanStep) -> bool:
    return step.weight >= 100 or step.gate == BAKE


def _skip(status: ExperimentStatus) -> ExperimentStatus:
    """Leave out what is left of the current step. A pause that is not for this step stays: nothing was decided of its cause."""
    if status.paused is not None and status.paused.reason in (INCONCLUSIVE, NO_DATA):
        status = prometheus_checks.reset_inconclusive(status.model_copy(update={"paused": None}))
    index = status.step.index if status.step else 0
    known = steps_without_evidence.record_skipped(status, range(max(index, 1), index + 1), "skip")
    return enter(known, index + 1, "by command skip")
