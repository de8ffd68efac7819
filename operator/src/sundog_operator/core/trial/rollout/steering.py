"""Commands of users: promote, skip, pause and resume."""

from datetime import datetime

from sundog_operator.api import (
    ExperimentStatus,
    PauseStatus,
    PlanStep,
)
from sundog_operator.api.reasons import Cause, EndReason, PauseReason
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.phases import PENDING, RUNNING
from sundog_operator.core.trial.rollout import prometheus_checks, steps_without_evidence
from sundog_operator.core.trial.rollout.commands import RolloutCommand
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.core.trial.rollout.state import DECIDING_GATES, PAUSABLE_GATES, current_step, step_index
from sundog_operator.core.trial.rollout.transitions import enter_step, open_gate, stop


def execute_command(status: ExperimentStatus, command: RolloutCommand, now: datetime) -> ExperimentStatus:
    """Run an accepted command. The status keeps its id, so that a crash before the next write does not run it twice."""
    marked = status.model_copy(update={"last_command": command.id})
    match command.verb:
        case "pause":
            return _pause(marked, now)
        case "resume":
            return resume(marked, now)
        case "abort":
            return stop(marked, Cause(EndReason.ABORTED, "by command"), now)
        case "promote":
            return _promote(_restart_deadline(marked, now), full=command.full)
        case "skip" if not skip_refusal(marked):
            return _skip(marked)
        case _:
            return marked


def _pause(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Pause by command. A rollout that waits for a user keeps its reason, because `resume` needs it to restart the right deadline.

    A pause that would end without a user stays until `resume`, and lasts since its beginning.
    """
    if status.paused is not None and not baseline_outage.is_paused_for_baseline(status):
        return status
    since = now if status.paused is None else status.paused.since
    return status.model_copy(update={"paused": PauseStatus(reason=PauseReason.MANUAL, since=since)})


def resume(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Resume. A step that took too long starts its time again, or it would pause at once. A manual pause takes no time of a step."""
    paused, step = status.paused, status.step
    if paused is not None and step is not None and step.since is not None and step.gate in PAUSABLE_GATES:
        late = paused.reason in (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA) and step.gate != "time"
        begun = max(paused.since, step.since)
        # The end of a hold gives the step the time that it lasted during the pause.
        ended = now if step.held_since is None else max(step.held_since, begun)
        step = step.model_copy(update={"since": now if late else step.since + (ended - begun)})
    return prometheus_checks.reset_inconclusive(
        _restart_deadline(status, now).model_copy(update={"paused": None, "step": step})
    )


def _restart_deadline(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Restart the progress deadline if the rollout is paused for it, or if it passed during a pause before the first step."""
    waited = status.paused is not None and (
        status.paused.reason == PauseReason.PROGRESS_DEADLINE_EXCEEDED or status.phase == PENDING
    )
    return status.model_copy(update={"resumed_at": now}) if waited else status


def _promote(status: ExperimentStatus, *, full: bool) -> ExperimentStatus:
    """Pass the gate of the current step; at the last step, or with `full`, promote. This also ends a pause."""
    last = len(status.plan.steps)
    running = prometheus_checks.reset_inconclusive(status.model_copy(update={"phase": RUNNING, "paused": None}))
    index = step_index(status)
    following = last if full or index >= last else index + 1
    command = "promote --full" if full else "promote"
    known = steps_without_evidence.record_skipped(running, range(max(index, 1), following), command)
    entered = enter_step(known, following, f"by command {command}")
    return open_gate(entered) if full or index >= last else entered


def skip_refusal(status: ExperimentStatus) -> str:
    """Return why the current step must not be skipped; empty if it may be skipped.

    Another step must follow that is neither all traffic nor a bake. After an evidence gate or a manual gate, another such gate must follow:
    otherwise steps that end without a decision would lead to all traffic.
    """
    index = step_index(status)
    if not index:
        return "the canary is not ready yet: there is no step to skip"
    position = f"step {index} of {len(status.plan.steps)}"
    following = status.plan.steps[index:]
    if not following or _is_bake_or_all_traffic(following[0]):
        end = f"the bake at {following[0].weight} %" if following and following[0].gate == BAKE else "all traffic"
        return f"{end} follows {position}; use promote instead"
    skipped = current_step(status)
    decides = any(step.gate in DECIDING_GATES and not _is_bake_or_all_traffic(step) for step in following)
    if skipped.gate in DECIDING_GATES and not decides:
        end = "the bake" if any(step.gate == BAKE for step in following) else "all traffic"
        reason = f"is the last step that evidence or a person decides, and {end} would follow without a decision"
        return f"{position} {reason}; use promote instead"
    return ""


def _is_bake_or_all_traffic(step: PlanStep) -> bool:
    return step.weight >= 100 or step.gate == BAKE


def _skip(status: ExperimentStatus) -> ExperimentStatus:
    """Skip the rest of the current step. A pause for another reason than this step stays, because its cause remains."""
    if status.paused is not None and status.paused.reason in (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA):
        status = prometheus_checks.reset_inconclusive(status.model_copy(update={"paused": None}))
    index = step_index(status)
    known = steps_without_evidence.record_skipped(status, range(max(index, 1), index + 1), "skip")
    return enter_step(known, index + 1, "by command skip")
