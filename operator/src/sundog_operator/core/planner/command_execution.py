"""Commands of the annotation: accepted or rejected once, and what they do."""

from typing import Any, Final

from sundog_operator.api import LastCommand
from sundog_operator.core import events, revisions
from sundog_operator.core.kubernetes import names
from sundog_operator.core.planner import candidate as planner_candidate
from sundog_operator.core.planner import candidate_placement, deadline, evaluation, outcome
from sundog_operator.core.planner.context import PlanContext
from sundog_operator.core.planner.experiment import cleanup
from sundog_operator.core.planner.problems.pending_pods import find_pending_reason
from sundog_operator.core.ray.readiness import DEPLOYING
from sundog_operator.core.rollout import commands, explanations, state, steering, windows
from sundog_operator.core.rollout.commands import RolloutCommand

FORWARD_VERBS: Final = ("promote", "skip")
"""What lets traffic move forward."""

MAX_COMMAND_IDS: Final = 20
"""Ids that are known to have been used: a repository that writes an old annotation back must not run it again."""


def execute_command(context: PlanContext) -> None:
    """Run the command in the annotation unless it was run before."""
    text = (context.observed.deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND)
    if not text:
        return
    command = commands.parse_command(text)
    last = context.status.last_command
    if last is not None and (last.id, last.verb, last.revision or 0) == (command.id, command.verb, command.revision):
        return
    was_run = _was_run(context, command)
    problem = _reused(context, command) or command.problem or ("" if was_run else _refuse(context, command))
    result = "Rejected" if problem else "Accepted"
    if not problem and not was_run:
        _run(context, command)
    done: dict[str, Any] = {
        "id": command.id,
        "verb": command.verb,
        "revision": command.revision or None,
        "result": result,
    }
    earlier = tuple(ident for ident in context.status.command_ids if ident != command.id)
    context.set(
        last_command=LastCommand(**done, message=problem[:1024], at=context.now),
        command_ids=(*earlier, command.id)[-MAX_COMMAND_IDS:],
    )
    context.events.append(events.command_handled(command.verb, command.id, result, problem))


def _reused(context: PlanContext, command: RolloutCommand) -> str:
    last = context.status.last_command
    if last is not None and last.id == command.id:
        return f"id {command.id} was used before, for {last.verb} revision={last.revision or 'none'}"
    return f"id {command.id} was used before" if command.id in context.status.command_ids else ""


def _refuse(context: PlanContext, command: RolloutCommand) -> str:
    match command.verb:
        case "rollback":
            return _refuse_rollback(context, command.revision)
        case "retry":
            return _refuse_retry(context, command.revision)
        case "stop":
            return _refuse_stop(context, command.revision)
        case _ if _gives_back(context, command.revision):
            return f"revision {command.revision} gives its traffic back already: there is nothing to {command.verb}"
        case _:
            return _refuse_steering(context, command)


def _gives_back(context: PlanContext, number: int) -> bool:
    candidate = context.status.candidate
    return context.is_giving_back and candidate is not None and candidate.revision == number


def _was_run(context: PlanContext, command: RolloutCommand) -> bool:
    """Whether the rollout has run it already: an earlier pass got that far and died before this status was written."""
    name = context.before.experiment
    attempt = next((rollout for rollout in context.observed.rollouts if rollout.name == name), None)
    return attempt is not None and attempt.status.last_command == command.id


def _refuse_steering(context: PlanContext, command: RolloutCommand) -> str:
    candidate = context.status.candidate
    if candidate is None:
        runs = f"; stop ends Experiment {context.experiment.name}" if context.experiment is not None else ""
        return f"revision {command.revision} is no candidate: no rollout is under way{runs}"
    if candidate.revision != command.revision:
        return f"revision {command.revision} is not the candidate, which is revision {candidate.revision}"
    if command.verb == "abort":
        return (
            ""
            if context.status.stable
            else f"revision {command.revision} is the first one: there is none to go back to"
        )
    if command.verb in FORWARD_VERBS and not command.full and (why := _why_not_begun(context, command)):
        return why
    if context.progress is None:
        return f"revision {command.revision} is rolled out without steps: there is nothing to {command.verb}"
    if command.verb == "resume" and context.progress.paused is None:
        return _why_not_resumed(context, command.revision)
    if command.verb == "skip" and (why := steering.skip_refusal(context.progress)):
        return why
    if command.verb in FORWARD_VERBS and context.is_held:
        return _why_held(context)
    if command.verb in FORWARD_VERBS and context.window_opens_at is not None:
        return (
            f"{windows.describe_closed_windows(context.window_opens_at)}: take spec.rollout.windows out to go on before"
        )
    return _why_not_trusted(context) if command.verb == "promote" else ""


def _why_not_trusted(context: PlanContext) -> str:
    """Why a rollout that is paused for its split would be paused again at once; empty where it is not, or the split is right again."""
    paused = context.progress.paused if context.progress is not None else None
    if paused is None or paused.reason != state.SAMPLE_RATIO:
        return ""
    evaluation.evaluate_rollout(context)
    broken = context.evaluation.broken if context.evaluation is not None else ""
    return (
        f"requests do not fall to the arms by their weights, {broken}: it would be paused again at once"
        if broken
        else ""
    )


def _why_not_begun(context: PlanContext, command: RolloutCommand) -> str:
    """Why a rollout is at no step that could be passed or left out; empty where it is at one, or has none."""
    progress = context.progress
    if progress is None or progress.phase != state.PENDING:
        return ""
    if progress.paused is not None:
        return f"revision {command.revision} is {explanations.describe_pause(progress)}: resume lets it begin, once it is ready"
    if context.is_held:
        return _why_held(context)
    if command.verb == "skip":
        return steering.skip_refusal(progress)
    return (
        f"revision {command.revision} is not ready yet: there is no step to pass; --full promotes it as soon as it is"
    )


def _why_not_resumed(context: PlanContext, number: int) -> str:
    """That a rollout is not paused, and what lets it go on where it stands still all the same."""
    told = f"revision {number} is not paused: there is nothing to resume"
    if context.is_held:
        return f"{told}; {_why_held(context)}"
    waits = (
        context.progress is not None and context.progress.step is not None and context.progress.step.gate == "manual"
    )
    return f"{told}; it {state.WAITS_FOR_PROMOTE}" if waits else told


def _why_held(context: PlanContext) -> str:
    if context.spec is None:
        return "the spec is refused: mend it first"
    fields = {"spec.paused": context.spec.paused, "spec.rollout.paused": context.spec.rollout.paused}
    return f"{next((field for field, is_set in fields.items() if is_set), 'spec.rollout.dryRun')} is true"


def _refuse_rollback(context: PlanContext, number: int) -> str:
    if context.stable_number is None:
        return "nothing serves yet"
    if context.stable_number == number and context.status.candidate is None:
        return f"revision {number} serves already"
    if context.wanted is not None and context.wanted.number == number:
        return f"revision {number} is what the spec stands for: use retry"
    if revisions.find_by_number(context.observed.revisions, number) is None:
        known = ", ".join(str(revision.number) for revision in context.observed.revisions)
        return f"revision {number} is not in the history: {known}"
    return "" if number == context.stable_number else _why_no_place(context, number)


def _why_no_place(context: PlanContext, number: int) -> str:
    """Why an earlier revision cannot be brought up for all traffic at once, as a rollback does; empty where it can."""
    candidate = context.status.candidate
    if context.in_place is not None and candidate is not None:
        return f"revision {candidate.revision} has replicas of stable, which has to have them back first: abort it, then roll back"
    short = (
        candidate_placement.find_shortage(context, context.spec, context.replicas) if context.spec is not None else None
    )
    if (
        context.spec is None
        or short is None
        or candidate_placement.find_placement(context, context.spec).shared is None
    ):
        return ""
    return f"{short[1]}: apply the spec of revision {number}, which then comes in place"


def _refuse_stop(context: PlanContext, number: int) -> str:
    if context.experiment is None:
        return "no Experiment of a user's own is under way"
    if context.stable_number != number:
        return f"revision {number} is not the control of Experiment {context.experiment.name}, which is revision {context.stable_number}"
    return ""


def _refuse_retry(context: PlanContext, number: int) -> str:
    candidate = context.status.candidate
    if candidate is not None and candidate.revision == number:
        return _why_not_anew(context, number)
    if context.stable_number == number and context.readiness(number).failed:
        return ""
    if context.wanted is None or context.wanted.number != number:
        return f"revision {number} is not what the spec stands for" + (
            f": that is {context.wanted.number}" if context.wanted else ""
        )
    return "" if context.is_held_back(number) else f"revision {number} was neither aborted nor rolled back"


def _why_not_anew(context: PlanContext, number: int) -> str:
    """Why a candidate is not to be taken out and put in again: with it would go what answers requests, or what is on its way up."""
    if context.progress is not None and state.has_traffic(context.progress):
        weight = state.canary_weight(context.progress)
        share = f"{weight} % of the traffic" if weight else "requests by their headers"
        return (
            f"revision {number} has {share}: there is nothing to try again; abort, then retry begins its rollout anew"
        )
    if context.available(number):
        return f"revision {number} is ready: there is nothing to try again"
    if _has_trouble(context, number):
        return ""
    return f"revision {number} starts and has not failed: there is nothing to try again"


def _has_trouble(context: PlanContext, number: int) -> bool:
    """Whether anything is known against a candidate that is not ready yet."""
    candidate, progress, readiness = context.status.candidate, context.progress, context.readiness(number)
    if (
        candidate is None
        or candidate.failures
        or candidate.retry_at is not None
        or deadline.find_late_reason(context, candidate)
    ):
        return True
    if progress is not None and progress.paused is not None and progress.paused.reason == state.DEADLINE_EXCEEDED:
        return True
    calm = readiness.ready or readiness.reason == DEPLOYING
    return not calm or find_pending_reason(context, number) is not None


def _run(context: PlanContext, command: RolloutCommand) -> None:
    match command.verb:
        case "rollback":
            _roll_back(context, command)
        case "retry":
            _retry(context, command.revision)
        case "stop":
            cleanup.stop_experiment(context, "StopCommand", f"by command {command.id}")
        case "abort" if context.progress is None:
            outcome.abort_candidate(context, f"by command {command.id}")
        case _:
            _steer(context, command)


def _steer(context: PlanContext, command: RolloutCommand) -> None:
    """Hand the command to the rollout's state machine."""
    if context.rollout is not None:
        context.commit_rollout(steering.execute_command(context.rollout.status, command, context.now))


def _retry(context: PlanContext, number: int) -> None:
    candidate = context.status.candidate
    if candidate is not None and candidate.revision == number:
        # Out of the cluster first, so that what failed is forgotten; back in once Serve has it no more.
        context.set(candidate=candidate.model_copy(update={"failures": 0, "retry_at": context.now}))
    elif context.is_held_back(number):
        outcome.release_hold(context, number)
    elif context.status.stable is not None:
        context.set(stable=context.status.stable.model_copy(update={"retry_at": context.now}))


def _roll_back(context: PlanContext, command: RolloutCommand) -> None:
    """Go back to an earlier revision at once. What the spec stands for is held back until it changes or is retried."""
    reason = f"rollback to revision {command.revision} by command {command.id}"
    cleanup.stop_experiment(context, "RolledBack", reason)
    outcome.drop_candidate(context, "RolledBack", reason)
    planner_candidate.hold_back(context, reason)
    if command.revision != context.stable_number:
        planner_candidate.start_rollback(context, command.revision)
