"""The rollout state machine: one transition per tick, each a commit before any traffic moves.

    Pending ──candidate ready──► Running: shift ► collect ► gate ► next step ──last step──► Concluded
       └──────────abort, failure, superseded──────────┴──────────────────────────────────► Stopped

A step is entered by raising `step.index`; its weight follows once the candidate has the replicas for it, as a new epoch; the epoch counts
from the moment all edges confirm it. Nothing here reads a clock or the world.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sundog_operator.api import Epoch, ExperimentStatus, Paused, PlanStep, StepStatus
from sundog_operator.core import names
from sundog_operator.core.commands import Command
from sundog_operator.core.rollout.freeze import arms_at

PENDING: Final = "Pending"
WAITS_FOR_PROMOTE: Final = "waits for promote"
"""The reason of a step that goes on when somebody says so."""
RUNNING: Final = "Running"
CONCLUDED: Final = "Concluded"
STOPPED: Final = "Stopped"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a tick may look at.

    Attributes:
        replicas: replicas that the service needs at 100 %.
        available: replicas of the candidate that Serve runs and every ready edge sees healthy.
        confirmed: every edge has the current epoch in force.
        held: the spec pauses rollouts, or cannot be acted on.
        failure: why the attempt must stop now, as (reason, message).
    """

    now: datetime
    replicas: int
    available: int
    confirmed: bool
    held: bool = False
    failure: tuple[str, str] | None = None


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether the attempt has its plan. A status that somebody damaged counts as not frozen, and is frozen anew without traffic."""
    return bool(status.plan.steps) and [arm.name for arm in status.arms] == [names.STABLE, names.CANARY]


def is_over(status: ExperimentStatus) -> bool:
    """Whether the attempt has ended."""
    return status.phase in (CONCLUDED, STOPPED)


def canary_replicas(replicas: int, weight: int) -> int:
    """ceil(replicas · weight / 100), at least 1.

    Rounds up: a canary short of its share would look slow for the wrong reason.
    """
    return max(1, math.ceil(replicas * weight / 100))


def canary_weight(status: ExperimentStatus) -> int:
    """The candidate's committed share of traffic, in percent."""
    return next((arm.weight for arm in status.arms if arm.name == names.CANARY), 0)


def revisions(status: ExperimentStatus) -> tuple[int, int]:
    """(stable, candidate) of the attempt."""
    by_name = {arm.name: arm.revision or 0 for arm in status.arms}
    return by_name[names.STABLE], by_name[names.CANARY]


def current_step(status: ExperimentStatus) -> PlanStep:
    """The step that is walked, or the first before the walk begins."""
    index = min(max(status.step.index, 1), len(status.plan.steps)) if status.step else 1
    return status.plan.steps[index - 1]


def wanted_replicas(status: ExperimentStatus, replicas: int) -> int:
    """Replicas that the candidate needs now: enough for the larger of the step's weight and the weight in force."""
    return canary_replicas(replicas, max(current_step(status).weight, canary_weight(status)))


def tick(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus:
    """The next status; equal to the given one when nothing is due. Total: any status and inputs give a status."""
    if is_over(status):
        return status
    for rule in (_stop, _begin, _shift, _confirm, _pass_gate):
        if (after := rule(status, seen)) is not None:
            return after
    return _explain(status, seen)


def stop(status: ExperimentStatus, reason: str, message: str, now: datetime) -> ExperimentStatus:
    """End the attempt with all traffic on stable."""
    return _end(status, STOPPED, 0, reason, message, now)


def obey(status: ExperimentStatus, command: Command, now: datetime) -> ExperimentStatus:
    """Run an accepted command. Its id stays in the status, so that a crash before the next write does not run it twice."""
    marked = status.model_copy(update={"last_command": command.id})
    match command.verb:
        case "pause":
            return marked.model_copy(update={"paused": Paused(reason="Manual", since=now)})
        case "resume":
            return marked.model_copy(update={"paused": None})
        case "abort":
            return stop(marked, "Aborted", f"by command {command.id}", now)
        case "promote":
            return _promote(marked, full=command.full)
        case _:
            return marked


def _end(
    status: ExperimentStatus, phase: str, weight: int, reason: str, message: str, now: datetime
) -> ExperimentStatus:
    verdict = status.verdict.model_copy(update={"reason": f"{reason}: {message}"})
    ended = _at_weight(status, weight, now) if canary_weight(status) != weight else status
    return ended.model_copy(update={"phase": phase, "verdict": verdict, "paused": None, "step": _reason(ended, reason)})


def _at_weight(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    counted = {arm.name: arm for arm in status.arms}
    arms = tuple(
        arm.model_copy(update={"requests": counted[arm.name].requests, "errors": counted[arm.name].errors})
        for arm in arms_at(weight, *revisions(status))
    )
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    return status.model_copy(update={"arms": arms, "epoch": epoch})


def _stop(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    return stop(status, *seen.failure, seen.now) if seen.failure else None


def _promote(status: ExperimentStatus, *, full: bool) -> ExperimentStatus:
    """Pass the gate of the current step; of the last one, or with `full`, all that is left. A pause ends with it."""
    last = len(status.plan.steps)
    running = status.model_copy(update={"phase": RUNNING, "paused": None})
    index = status.step.index if status.step else 0
    if full or index == last:
        return _ungated(_enter(running, last))
    return _enter(running, index + 1)


def _ungated(status: ExperimentStatus) -> ExperimentStatus:
    step = status.step.model_copy(update={"gate": "none"}) if status.step else None
    return status.model_copy(update={"step": step})


def _begin(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    if status.phase != PENDING or _stands_still(status, seen):
        return None
    if seen.available < wanted_replicas(status, seen.replicas) or not seen.confirmed:
        return None
    return _enter(status.model_copy(update={"phase": RUNNING}), 1)


def _enter(status: ExperimentStatus, index: int) -> ExperimentStatus:
    gate = status.plan.steps[index - 1].gate
    step = StepStatus(index=index, of=len(status.plan.steps), gate=gate, reason="Shifting")
    return status.model_copy(update={"step": step})


def _shift(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    step = current_step(status)
    if status.phase != RUNNING or step.weight == canary_weight(status) or _stands_still(status, seen):
        return None
    if seen.available < canary_replicas(seen.replicas, step.weight):
        return None
    if step.weight == 100 and _gate(status) == "none":
        return _conclude(status, seen)
    return _at_weight(status, step.weight, seen.now)


def _conclude(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    last = current_step(status)
    if seen.available < canary_replicas(seen.replicas, 100):
        return None
    return _end(status, CONCLUDED, 100, "Promoted", f"after step {len(status.plan.steps)} at {last.weight} %", seen.now)


def _confirm(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    if status.epoch.confirmed or not seen.confirmed:
        return None
    epoch = Epoch(number=status.epoch.number, since=seen.now, confirmed=True)
    return status.model_copy(update={"epoch": epoch})


def _pass_gate(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    step = current_step(status)
    if (
        status.phase != RUNNING
        or status.step is None
        or not status.epoch.confirmed
        or step.weight != canary_weight(status)
    ):
        return None
    if status.step.since is None:
        return status.model_copy(update={"step": status.step.model_copy(update={"since": seen.now})})
    waited = seen.now - status.step.since >= step.min_duration
    if _stands_still(status, seen) or _gate(status) == "manual" or (_gate(status) == "time" and not waited):
        return None
    return (
        _conclude(status, seen)
        if status.step.index == len(status.plan.steps)
        else _enter(status, status.step.index + 1)
    )


def _gate(status: ExperimentStatus) -> str:
    """The gate in force: that of the step, unless a command opened it."""
    return status.step.gate if status.step else "none"


def _stands_still(status: ExperimentStatus, seen: Inputs) -> bool:
    return seen.held or status.paused is not None


def _explain(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus:
    """Say what the attempt waits for. No text changes with time alone, or status would change at every tick."""
    return status.model_copy(update={"step": _reason(status, _waiting_for(status, seen))})


def _reason(status: ExperimentStatus, reason: str) -> StepStatus | None:
    return status.step.model_copy(update={"reason": reason}) if status.step else None


def _waiting_for(status: ExperimentStatus, seen: Inputs) -> str:
    step, needed = current_step(status), wanted_replicas(status, seen.replicas)
    explanations: tuple[tuple[bool, Callable[[], str]], ...] = (
        (seen.held, lambda: "held by the spec"),
        (status.paused is not None, lambda: "paused by command"),
        (not status.epoch.confirmed, lambda: "waits for the edges to confirm the split"),
        (seen.available < needed, lambda: f"waits for replicas: {seen.available} of {needed} are available"),
        (_gate(status) == "manual", lambda: WAITS_FOR_PROMOTE),
        (_gate(status) == "time", lambda: f"collects for {step.min_duration.total_seconds():g} s"),
    )
    return next((text() for holds, text in explanations if holds), "shifts traffic")
