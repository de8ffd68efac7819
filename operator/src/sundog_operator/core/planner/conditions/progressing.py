"""Condition `Progressing`: the candidate, its step, or why there is none."""

from sundog_operator.api import ExperimentStatus, LastRollout, RevisionStatus
from sundog_operator.api.conditions import Conclusion
from sundog_operator.api.reasons import DeploymentReason, PauseReason
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.rollout import held_back_revisions, outcome
from sundog_operator.core.trial.rollout import explanations, windows


def evaluate_progressing(context: PlanContext) -> Conclusion:
    """Return whether a rollout or a deployment goes on."""
    progress, candidate = context.progress, context.status.candidate
    paused = progress.paused if progress is not None else None
    is_deadline_pause = paused is not None and paused.reason == PauseReason.PROGRESS_DEADLINE_EXCEEDED
    if candidate is not None and candidate.retry_at is not None and not is_deadline_pause:
        message = f"revision {candidate.revision}: retry at {candidate.retry_at:%Y-%m-%dT%H:%M:%SZ}"
        return Conclusion("True", DeploymentReason.RETRYING, message)
    if progress is not None and candidate is not None:
        return _rollout_progressing(context, progress, candidate)
    if candidate is not None:
        message = f"revision {candidate.revision} is being deployed{_window_text(context, candidate)}"
        return Conclusion("True", DeploymentReason.DEPLOYING, message)
    return _not_progressing(context)


def _rollout_progressing(context: PlanContext, progress: ExperimentStatus, candidate: RevisionStatus) -> Conclusion:
    """Return the conclusion of a rollout with a plan: its step, a queued revision, and the message of a dry run."""
    step = progress.step
    prefix = f"{progress.plan.reason}: " if progress.plan.reason else f"revision {candidate.revision}, "
    suffix = f"; revision {context.status.queued} waits until this rollout has ended" if context.status.queued else ""
    suffix += f"; {context.dry_run_message}" if context.dry_run_message else ""
    idle = context.status.idle
    if idle is not None and idle.state == "AtZero":
        suffix += "; no request comes, so both revisions are at zero: the next one starts them"
    if context.is_giving_back:
        return Conclusion("True", DeploymentReason.ROLLING_BACK, f"{prefix}{step.reason if step else ''}{suffix}")
    if step is not None:
        text = f"step {step.index} of {step.of}: {step.reason}"
    elif progress.paused is not None:
        text = explanations.describe_pause(progress)
    else:
        text = f"waits for revision {candidate.revision}"
    is_paused = progress.paused is not None or context.is_held or context.window_opens_at is not None
    return Conclusion(
        "True", DeploymentReason.PAUSED if is_paused else DeploymentReason.ROLLING_OUT, f"{prefix}{text}{suffix}"
    )


def _not_progressing(context: PlanContext) -> Conclusion:
    """Return the conclusion without a candidate: a dry run, a queued or held-back revision, or none of these."""
    if context.dry_run_message:
        return Conclusion("False", DeploymentReason.DRY_RUN, context.dry_run_message)
    if context.status.queued is not None and context.experiment is not None:
        message = f"revision {context.status.queued} waits until Experiment {context.experiment.name} has ended"
        return Conclusion("False", DeploymentReason.EXPERIMENT_RUNNING, message)
    if context.status.queued is not None:
        draining = ", ".join(str(retiring.revision) for retiring in context.status.retiring)
        message = f"revision {context.status.queued} waits until the replicas of revision {draining} are gone"
        return Conclusion(
            "True", DeploymentReason.QUEUED, message if draining else f"revision {context.status.queued} starts next"
        )
    if (hold := context.hold) is not None:
        return Conclusion("False", hold.outcome, f"revision {hold.revision}: {describe_hold(context, hold)}")
    if context.capacity_shortage is not None and context.status.stable is not None:
        return Conclusion("False", *context.capacity_shortage)
    return Conclusion("False", DeploymentReason.COMPLETE if context.status.stable else DeploymentReason.NOT_STARTED, "")


def describe_hold(context: PlanContext, hold: LastRollout) -> str:
    """Return why a revision is held back, and the outcome of a later rollback."""
    last = context.status.last_rollout
    if (
        last is None
        or last.revision == hold.revision
        or last.at < hold.at
        or not held_back_revisions.is_failed_rollout(last)
    ):
        return hold.reason
    return f"{hold.reason}; revision {last.revision}: {last.reason}"


def _window_text(context: PlanContext, candidate: RevisionStatus) -> str:
    """Return the window that a candidate without steps waits for, as the end of a sentence; may be empty."""
    opening = outcome.window_opening_for(context, candidate)
    return f", {windows.describe_closed_windows(opening)}" if opening is not None else ""
