"""Execution of the commands in a ModelDeployment's annotation, each accepted or rejected once."""

from dataclasses import replace
from typing import Any, Final

from sundog_operator.api import LastCommand
from sundog_operator.api.reasons import Cause, DeploymentReason, EndReason, PauseReason
from sundog_operator.core import events, revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.planner.rollout import candidate as planner_candidate
from sundog_operator.core.planner.rollout import candidate_placement, deadline, evaluation, outcome
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import commands, explanations, state, steering, windows
from sundog_operator.core.trial.rollout.commands import RolloutCommand

_BY_COMMAND: Final = "by command"
"""Part of a reason; `status.lastCommand` has the command."""
FORWARD_VERBS: Final = ("promote", "skip")
"""Commands that advance traffic."""

MAX_COMMAND_IDS: Final = 20
"""Used ids in the status. An old annotation that a Git repository restores must not run again."""


def execute_command(context: PlanContext) -> PlanContext:
    """Execute the command in the annotation, unless it was executed before."""
    text = (context.observed.deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND)
    if not text:
        return context
    command = commands.parse_command(text)
    last = context.status.last_command
    if last is not None and (last.id, last.verb, last.revision or 0) == (command.id, command.verb, command.revision):
        return context
    was_run = _was_run(context, command)
    if not was_run and command.verb == "promote" and _is_paused_for_sample_ratio(context):
        context = replace(context, evaluation=evaluation.evaluate_rollout(context)[1])
    problem = (
        _find_id_reuse(context, command) or command.problem or ("" if was_run else _find_refusal(context, command))
    )
    result = "Rejected" if problem else "Accepted"
    # A rollback has parts that only the status has.
    if not problem and (not was_run or command.verb == "rollback"):
        context = _run(context, command)
    recorded: dict[str, Any] = {
        "id": command.id,
        "verb": command.verb,
        "revision": command.revision or None,
        "result": result,
    }
    earlier = tuple(ident for ident in context.status.command_ids if ident != command.id)
    return context.set(
        last_command=LastCommand(**recorded, message=problem[:1024], at=context.now),
        command_ids=(*earlier, command.id)[-MAX_COMMAND_IDS:],
    ).report(events.command_handled(command.verb, command.id, result, problem))


def _find_id_reuse(context: PlanContext, command: RolloutCommand) -> str:
    last = context.status.last_command
    if last is not None and last.id == command.id:
        return f"id {command.id}: already used for {last.verb} revision={last.revision or 'none'}. Use a new id"
    return f"id {command.id}: already used. Use a new id" if command.id in context.status.command_ids else ""


def _find_refusal(context: PlanContext, command: RolloutCommand) -> str:
    match command.verb:
        case "rollback":
            return _refuse_rollback(context, command.revision)
        case "retry":
            return _refuse_retry(context, command.revision)
        case "stop":
            return _refuse_stop(context, command.revision)
        case _ if _is_giving_back(context, command.revision):
            return (
                f"revision {command.revision} already returns its traffic to stable: there is nothing to {command.verb}"
            )
        case _:
            return _refuse_steering(context, command)


def _is_giving_back(context: PlanContext, number: int) -> bool:
    candidate = context.status.candidate
    return context.is_giving_back and candidate is not None and candidate.revision == number


def _was_run(context: PlanContext, command: RolloutCommand) -> bool:
    """Whether the Experiment has executed it already. The operator may have stopped before it wrote this status."""
    name, observed = context.before.experiment, context.observed
    statuses = (
        *(each.status for each in observed.rollouts if each.name == name),
        *(each.status for each in observed.user_experiments if each.name == name),
    )
    return any(status.last_command == command.id for status in statuses)


def _refuse_steering(context: PlanContext, command: RolloutCommand) -> str:
    candidate = context.status.candidate
    if candidate is None:
        hint = f". Use stop to end Experiment {context.experiment.name}" if context.experiment is not None else ""
        return f"revision {command.revision} is not the candidate: no rollout is under way{hint}"
    if candidate.revision != command.revision:
        return f"revision {command.revision} is not the candidate; expected revision {candidate.revision}"
    if command.verb == "abort":
        refusal = f"revision {command.revision} is the first one: there is no revision to go back to"
        return "" if context.status.stable else refusal
    if command.verb in FORWARD_VERBS and not command.full and (why := _find_missing_step(context, command)):
        return why
    if context.progress is None:
        return f"revision {command.revision} rolls out without steps: there is nothing to {command.verb}"
    if command.verb == "resume" and context.progress.paused is None:
        return _explain_not_paused(context, command.revision)
    if command.verb == "skip" and (why := steering.skip_refusal(context.progress)):
        return why
    if command.verb in FORWARD_VERBS and context.is_held:
        return _explain_hold(context)
    if command.verb in FORWARD_VERBS and context.window_opens_at is not None:
        return (
            f"{windows.describe_closed_windows(context.window_opens_at)}. Remove spec.rollout.windows to continue now"
        )
    return _find_sample_ratio_mismatch(context) if command.verb == "promote" else ""


def _is_paused_for_sample_ratio(context: PlanContext) -> bool:
    paused = context.progress.paused if context.progress is not None else None
    return paused is not None and paused.reason == PauseReason.SAMPLE_RATIO


def _find_sample_ratio_mismatch(context: PlanContext) -> str:
    """Return the mismatch of a rollout that is paused for it, by this pass's evaluation; empty if there is none any more."""
    if not _is_paused_for_sample_ratio(context):
        return ""
    mismatch = context.evaluation.mismatch if context.evaluation is not None else ""
    return (
        f"requests do not follow the weights: {mismatch}. The rollout would be paused again at once" if mismatch else ""
    )


def _find_missing_step(context: PlanContext, command: RolloutCommand) -> str:
    """Return why a rollout has no current step to pass or skip; empty if it has one, or if it has no steps."""
    progress = context.progress
    if progress is None or progress.phase != phases.PENDING:
        return ""
    if progress.paused is not None:
        return f"revision {command.revision} is {explanations.describe_pause(progress)}. Use resume: it then starts once it is ready"
    if context.is_held:
        return _explain_hold(context)
    if command.verb == "skip":
        return steering.skip_refusal(progress)
    return f"revision {command.revision} is not ready yet: there is no step to pass. Use --full to promote it as soon as it is ready"


def _explain_not_paused(context: PlanContext, number: int) -> str:
    """Return that a rollout is not paused, and what it waits for instead."""
    message = f"revision {number} is not paused: there is nothing to resume"
    if context.is_held:
        return f"{message}; {_explain_hold(context)}"
    step = context.progress.step if context.progress is not None else None
    waits_for_promote = step is not None and step.gate == "manual"
    return f"{message}; it {state.WAITS_FOR_PROMOTE}" if waits_for_promote else message


def _explain_hold(context: PlanContext) -> str:
    if context.spec is None:
        return "spec is invalid; fix it first"
    fields = {"spec.paused": context.spec.paused, "spec.rollout.paused": context.spec.rollout.paused}
    return f"{next((field for field, is_set in fields.items() if is_set), 'spec.rollout.dryRun')} is true"


def _refuse_rollback(context: PlanContext, number: int) -> str:
    if context.stable_number is None:
        return "no revision serves yet"
    if context.stable_number == number and context.status.candidate is None:
        return f"revision {number} serves already"
    if context.spec_revision is not None and context.spec_revision.number == number:
        return f"revision {number} is the revision of the spec. Use retry"
    if revisions.find_by_number(context.observed.revisions, number) is None:
        known = ", ".join(str(revision.number) for revision in context.observed.revisions)
        return f"revision {number} is not in the history; expected one of {known}"
    return "" if number == context.stable_number else _find_rollback_shortage(context, number)


def _find_rollback_shortage(context: PlanContext, number: int) -> str:
    """Return why an earlier revision cannot get replicas for all traffic at once, as a rollback needs; empty if it can."""
    candidate = context.status.candidate
    if context.in_place is not None and candidate is not None:
        return f"revision {candidate.revision} has replicas of stable. Abort it first, then roll back"
    spec = context.spec
    if spec is None:
        return ""
    short = candidate_placement.find_shortage_of_replicas(context, spec, context.replicas)
    if short is None or candidate_placement.find_placement(context, spec).shared is None:
        return ""
    return f"{short[1]}. Apply the spec of revision {number} to roll it out in place"


def _refuse_stop(context: PlanContext, number: int) -> str:
    if context.experiment is None:
        return "no Experiment is under way: there is nothing to stop"
    if context.stable_number != number:
        return f"revision {number} is not the control of Experiment {context.experiment.name}; expected revision {context.stable_number}"
    return ""


def _refuse_retry(context: PlanContext, number: int) -> str:
    candidate = context.status.candidate
    if candidate is not None and candidate.revision == number:
        return _refuse_restart(context, number)
    if context.stable_number == number and context.readiness(number).failed:
        return ""
    if context.spec_revision is None or context.spec_revision.number != number:
        expected = f"; expected revision {context.spec_revision.number}" if context.spec_revision else ""
        return f"revision {number} is not the revision of the spec{expected}"
    if context.is_held_back(number):
        return ""
    return f"revision {number} was neither aborted nor rolled back: there is nothing to retry"


def _refuse_restart(context: PlanContext, number: int) -> str:
    """Return why a candidate must not be restarted: it has traffic, is ready, or is starting without a failure."""
    if context.progress is not None and state.has_traffic(context.progress):
        weight = state.canary_weight(context.progress)
        share = f"{weight} % of the traffic" if weight else "requests by their headers"
        return (
            f"revision {number} has {share}: there is nothing to retry. Use abort, then retry, to restart its rollout"
        )
    if context.available(number):
        return f"revision {number} is ready: there is nothing to retry"
    if _has_problem(context, number):
        return ""
    return f"revision {number} is starting and has not failed: there is nothing to retry"


def _has_problem(context: PlanContext, number: int) -> bool:
    """Whether a candidate that is not ready yet has a known problem."""
    candidate, progress, readiness = context.status.candidate, context.progress, context.readiness(number)
    if (
        candidate is None
        or candidate.failures
        or candidate.retry_at is not None
        or deadline.find_late_reason(context, candidate)
    ):
        return True
    if (
        progress is not None
        and progress.paused is not None
        and progress.paused.reason == PauseReason.PROGRESS_DEADLINE_EXCEEDED
    ):
        return True
    is_starting = readiness.ready or readiness.reason == DeploymentReason.DEPLOYING
    return not is_starting or find_pending_reason(context, number) is not None


def _run(context: PlanContext, command: RolloutCommand) -> PlanContext:
    match command.verb:
        case "rollback":
            return _roll_back(context, command)
        case "retry":
            return _retry(context, command.revision)
        case "stop":
            return cleanup.stop_experiment(context, Cause(EndReason.STOP_COMMAND, _BY_COMMAND), command.id)
        case "abort" if context.progress is None:
            return outcome.abort_candidate(context, _BY_COMMAND)
        case _ if context.rollout is not None:
            return context.commit_rollout(steering.execute_command(context.rollout.status, command, context.now))
        case _:
            return context


def _retry(context: PlanContext, number: int) -> PlanContext:
    candidate, stable = context.status.candidate, context.status.stable
    if candidate is not None and candidate.revision == number:
        # Serve must forget the failed attempt first. The candidate returns once Serve has removed it.
        return context.set(candidate=candidate.model_copy(update={"failures": 0, "retry_at": context.now}))
    if context.is_held_back(number):
        return outcome.release_hold(context, number)
    return context.set(stable=stable and stable.model_copy(update={"retry_at": context.now}))


def _roll_back(context: PlanContext, command: RolloutCommand) -> PlanContext:
    """Go back to an earlier revision at once. The spec's revision is held back until the spec changes or a retry."""
    reason = f"rollback to revision {command.revision} {_BY_COMMAND}"
    context = cleanup.stop_experiment(context, Cause(EndReason.ROLLED_BACK, reason), command.id)
    context = outcome.drop_candidate(context, outcome.RolloutEnd.of("RolledBack", reason), command.id)
    context = planner_candidate.hold_back(context, reason)
    if command.revision == context.stable_number:
        return context
    return planner_candidate.start_rollback(context, command.revision)
