"""Commands of the annotation: accepted or rejected once, and what they do."""

from typing import Any, Final

from sundog_operator.api import LastCommand
from sundog_operator.core import choose, commands, events, names, revisions
from sundog_operator.core.commands import Command
from sundog_operator.core.draft import Draft
from sundog_operator.core.rollout import machine, windows

REMEMBERED: Final = 20
"""Ids that are known to have been used: a repository that writes an old annotation back must not run it again."""


def obey(draft: Draft) -> None:
    """Run the command in the annotation unless it was run before."""
    text = (draft.seen.deployment["metadata"].get("annotations") or {}).get(names.ANNOTATION_COMMAND)
    if not text:
        return
    command = commands.parse(text)
    last = draft.status.last_command
    if last is not None and (last.id, last.verb, last.revision or 0) == (command.id, command.verb, command.revision):
        return
    problem = _reused(draft, command) or command.problem or _refuse(draft, command)
    result = "Rejected" if problem else "Accepted"
    if not problem:
        _run(draft, command)
    done: dict[str, Any] = {
        "id": command.id,
        "verb": command.verb,
        "revision": command.revision or None,
        "result": result,
    }
    earlier = tuple(ident for ident in draft.status.command_ids if ident != command.id)
    draft.set(
        last_command=LastCommand(**done, message=problem[:1024], at=draft.now),
        command_ids=(*earlier, command.id)[-REMEMBERED:],
    )
    draft.events.append(events.command_handled(command.verb, command.id, result, problem))


def _reused(draft: Draft, command: Command) -> str:
    last = draft.status.last_command
    if last is not None and last.id == command.id:
        return f"id {command.id} was used before, for {last.verb} revision={last.revision or 'none'}"
    return f"id {command.id} was used before" if command.id in draft.status.command_ids else ""


def _refuse(draft: Draft, command: Command) -> str:
    match command.verb:
        case "rollback":
            return _refuse_rollback(draft, command.revision)
        case "retry":
            return _refuse_retry(draft, command.revision)
        case _:
            return _refuse_steering(draft, command)


def _refuse_steering(draft: Draft, command: Command) -> str:
    candidate = draft.status.candidate
    if candidate is None:
        return f"revision {command.revision} is no candidate: no rollout is under way"
    if candidate.revision != command.revision:
        return f"revision {command.revision} is not the candidate, which is revision {candidate.revision}"
    if command.verb == "abort":
        return (
            "" if draft.status.stable else f"revision {command.revision} is the first one: there is none to go back to"
        )
    if (
        command.verb == "promote"
        and not command.full
        and draft.progress is not None
        and draft.progress.phase == machine.PENDING
    ):
        return f"revision {command.revision} is not ready yet: there is no step to pass; --full promotes it as soon as it is"
    if draft.progress is None:
        return f"revision {command.revision} is rolled out without steps: there is nothing to {command.verb}"
    if command.verb == "promote" and draft.held:
        return _why_held(draft)
    if command.verb == "promote" and draft.opens_at is not None:
        return f"{windows.outside(draft.opens_at)}: take spec.rollout.windows out to go on before"
    return ""


def _why_held(draft: Draft) -> str:
    if draft.spec is None:
        return "the spec is refused: mend it first"
    fields = {"spec.paused": draft.spec.paused, "spec.rollout.paused": draft.spec.rollout.paused}
    return f"{next((field for field, is_set in fields.items() if is_set), 'spec.rollout.dryRun')} is true"


def _refuse_rollback(draft: Draft, number: int) -> str:
    if draft.stable_number is None:
        return "nothing serves yet"
    if draft.stable_number == number and draft.status.candidate is None:
        return f"revision {number} serves already"
    if draft.wanted is not None and draft.wanted.number == number:
        return f"revision {number} is what the spec stands for: use retry"
    if revisions.by_number(draft.seen.revisions, number) is None:
        known = ", ".join(str(revision.number) for revision in draft.seen.revisions)
        return f"revision {number} is not in the history: {known}"
    return ""


def _refuse_retry(draft: Draft, number: int) -> str:
    candidate = draft.status.candidate
    if candidate is not None and candidate.revision == number:
        return ""
    if draft.stable_number == number and draft.readiness(number).failed:
        return ""
    if draft.wanted is None or draft.wanted.number != number:
        return f"revision {number} is not what the spec stands for" + (
            f": that is {draft.wanted.number}" if draft.wanted else ""
        )
    return "" if draft.is_held_back(number) else f"revision {number} was neither aborted nor rolled back"


def _run(draft: Draft, command: Command) -> None:
    match command.verb:
        case "rollback":
            _roll_back(draft, command)
        case "retry":
            _retry(draft, command.revision)
        case "abort" if draft.progress is None:
            choose.drop_candidate(draft, "Aborted", f"by command {command.id}")
        case _:
            _steer(draft, command)


def _steer(draft: Draft, command: Command) -> None:
    """Hand the command to the rollout's state machine, unless an earlier pass got that far and died before this status was written."""
    attempt = draft.rollout
    if attempt is None or attempt.status.last_command == command.id:
        return
    draft.commit_rollout(machine.obey(attempt.status, command, draft.now))


def _retry(draft: Draft, number: int) -> None:
    candidate = draft.status.candidate
    if candidate is not None and candidate.revision == number:
        # Out of the cluster first, so that what failed is forgotten; back in at the next pass.
        draft.set(candidate=candidate.model_copy(update={"failures": 0, "retry_at": draft.now}))
    elif draft.status.stable is not None and draft.status.stable.revision == number:
        draft.set(stable=draft.status.stable.model_copy(update={"retry_at": draft.now}))
    else:
        draft.set(last_rollout=None)


def _roll_back(draft: Draft, command: Command) -> None:
    """Go back to an earlier revision at once. What the spec stands for is held back until it changes or is retried."""
    reason = f"rollback to revision {command.revision} by command {command.id}"
    choose.drop_candidate(draft, "RolledBack", reason)
    choose.hold_back(draft, reason)
    if command.revision != draft.stable_number:
        choose.start_rollback(draft, command.revision)
