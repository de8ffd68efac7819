"""The rollout state machine: one transition per tick, each a commit before any traffic moves.

    Pending ──candidate ready──► Running: shift ► warm up ► collect ► gate ► next step ──last step──► Concluded
       └──────abort, failure, harm, superseded──────┴────────────────────────────────────────► Stopped

A step is entered by raising `step.index`; its weight follows once the candidate has the replicas for it, as a new epoch; the epoch counts
from the moment all edges confirm it. Where evidence is weighed the first epoch of a step is its warm-up, which is none, and the second
has the same weights. Nothing here reads a clock or the world.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    Paused,
    PlanStep,
    PlanWebhook,
    StepStatus,
    Verdict,
    format_duration,
)
from sundog_operator.core import names, webhooks
from sundog_operator.core.commands import Command
from sundog_operator.core.observed import WebhookAnswer
from sundog_operator.core.rollout import windows
from sundog_operator.core.rollout.control import DEGRADED, UNHEALTHY
from sundog_operator.core.rollout.freeze import UNDECIDED, arms_at
from sundog_operator.core.rollout.judgement import Judgement
from sundog_operator.core.rollout.load import canary_replicas, step_replicas
from sundog_operator.core.rollout.resolve import lacks_threshold

PENDING: Final = "Pending"
WAITS_FOR_PROMOTE: Final = "waits for promote"
"""The reason of a step that goes on when somebody says so."""
RUNNING: Final = "Running"
CONCLUDED: Final = "Concluded"
STOPPED: Final = "Stopped"
PROMOTED: Final = "Promoted"
ROLLED_BACK: Final = "RolledBack"
MANUAL: Final = "Manual"
INCONCLUSIVE: Final = "Inconclusive"
NO_DATA: Final = "NoData"
SAMPLE_RATIO: Final = "SampleRatio"
MISMATCH_GRACE: Final = timedelta(minutes=5)
"""How long a split that is not as it should be is looked into before stable gets all traffic."""

MOST_EPOCHS: Final = 32
"""Of evidence, in a status that has room for 40: one for each step, and one for what a long answer is, are 23."""

LEAST_SILENCE: Final = timedelta(minutes=1)
"""Of an epoch in force without any request of an arm, before that is called no data."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a tick may look at.

    Attributes:
        replicas: replicas that the service needs at 100 %.
        available: replicas of the candidate that Serve runs and every ready edge sees healthy.
        confirmed: every edge has the current epoch in force.
        held: the spec pauses rollouts, or cannot be acted on.
        opens_at: when the next window opens; None within one.
        failure: why the attempt must stop now, as (reason, message).
        evidence: what is known of the candidate; None where the plan weighs none.
        answer: the last one to the webhook of the current step; None where there is none yet.
    """

    now: datetime
    replicas: int
    available: int
    confirmed: bool
    held: bool = False
    opens_at: datetime | None = None
    failure: tuple[str, str] | None = None
    evidence: Judgement | None = None
    answer: WebhookAnswer | None = None


def is_frozen(status: ExperimentStatus) -> bool:
    """Whether the attempt has its plan. A status that somebody damaged counts as not frozen, and is frozen anew without traffic.

    So does one of a later version, of whose steps some cannot be read here: those that are left must not be walked in their place.
    """
    is_whole = status.step is None or status.step.of == len(status.plan.steps)
    return is_whole and bool(status.plan.steps) and [arm.name for arm in status.arms] == [names.STABLE, names.CANARY]


def is_over(status: ExperimentStatus) -> bool:
    """Whether the attempt has ended."""
    return status.phase in (CONCLUDED, STOPPED)


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


def asked(status: ExperimentStatus) -> PlanWebhook | None:
    """The webhook that the current step waits for; None where it waits for none, or stands still."""
    step = status.step
    if status.phase != RUNNING or status.paused is not None or step is None or step.since is None:
        return None
    return current_step(status).webhook if step.gate == "webhook" else None


def weight_after(steps: Sequence[PlanStep], weight: int) -> int:
    """The percent of traffic that follows a weight, which rise from step to step; 100 after the last."""
    return next((step.weight for step in steps if step.weight > weight), 100)


def next_weight(status: ExperimentStatus) -> int:
    """The candidate's percent of the traffic that passing the current step leads to, pauses at the same weight left aside."""
    index = min(status.step.index, len(status.plan.steps)) if status.step else 0
    return weight_after(status.plan.steps, status.plan.steps[index - 1].weight if index else 0)


def wanted_replicas(status: ExperimentStatus, replicas: int) -> int:
    """Replicas that the candidate needs now: enough for the step, and for the weight in force."""
    return max(step_replicas(current_step(status), replicas), canary_replicas(replicas, canary_weight(status)))


def tick(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus:
    """The next status; equal to the given one when nothing is due. Total: any status and inputs give a status."""
    if is_over(status):
        return status
    for rule in (
        _stop,
        _roll_back,
        _hold,
        _doubt,
        _spare,
        _recover,
        _renew,
        _begin,
        _shift,
        _confirm,
        _warm_up,
        _pass_gate,
        _time_out,
    ):
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
            return marked.model_copy(update={"paused": Paused(reason=MANUAL, since=now)})
        case "resume":
            return _resume(marked, now)
        case "abort":
            return stop(marked, "Aborted", f"by command {command.id}", now)
        case "promote":
            return _promote(marked, full=command.full)
        case _:
            return marked


def _resume(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
    """Go on. A step that took too long gets its time anew, or it would be paused again at once; a pause by hand took none of it."""
    paused, step = status.paused, status.step
    if paused is not None and step is not None and step.since is not None and step.gate == "evidence":
        late = paused.reason in (INCONCLUSIVE, NO_DATA)
        begun = max(paused.since, step.since)
        # What is held meanwhile gets that time back when the hold ends.
        ended = now if step.held_since is None else max(step.held_since, begun)
        step = step.model_copy(update={"since": now if late else step.since + (ended - begun)})
    return status.model_copy(update={"paused": None, "step": step})


def _end(
    status: ExperimentStatus, phase: str, weight: int, reason: str, message: str, now: datetime
) -> ExperimentStatus:
    verdict = _verdict(status, phase, f"{reason}: {message}")
    ended = _at_weight(status, weight, now) if canary_weight(status) != weight else status
    return ended.model_copy(update={"phase": phase, "verdict": verdict, "paused": None, "step": _reason(ended, reason)})


def _verdict(status: ExperimentStatus, phase: str, told: str) -> Verdict:
    """How it ended: decided by evidence as far as `_conclusive` says so."""
    conclusive = status.verdict.decision == (PROMOTED if phase == CONCLUDED else ROLLED_BACK)
    decision = status.verdict.decision if conclusive else UNDECIDED
    winner = "" if not conclusive else names.CANARY if phase == CONCLUDED else names.STABLE
    return Verdict(decision=decision, winner=winner, reason=told)


def _conclusive(status: ExperimentStatus, decision: str, seen: Inputs) -> ExperimentStatus:
    """Evidence has decided: it stays beside the decision."""
    metrics = seen.evidence.metrics if seen.evidence else status.metrics
    verdict = status.verdict.model_copy(update={"decision": decision})
    return status.model_copy(update={"verdict": verdict, "metrics": metrics})


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


def _roll_back(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """Harm ends the attempt whatever else holds it: paused or not, it goes on doing harm."""
    if seen.evidence is None or not seen.evidence.harm or canary_weight(status) in (0, 100):
        return None
    return stop(_conclusive(status, ROLLED_BACK, seen), ROLLED_BACK, seen.evidence.harm, seen.now)


def _hold(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """What the spec or its windows hold takes no time of a step that evidence gates."""
    step, held = status.step, seen.held or seen.opens_at is not None
    if step is None or step.gate != "evidence" or held == (step.held_since is not None):
        return None
    if held:
        return status.model_copy(update={"step": step.model_copy(update={"held_since": seen.now})})
    begun = max(step.held_since or seen.now, step.since or seen.now)
    # What is paused meanwhile gets that time back when it goes on.
    ended = seen.now if status.paused is None else max(status.paused.since, begun)
    since = step.since and step.since + (ended - begun)
    return status.model_copy(update={"step": step.model_copy(update={"held_since": None, "since": since})})


def _doubt(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """Conclude nothing from a split that is not as it should be; where it stays so, stable gets all traffic."""
    if seen.evidence is None or not seen.evidence.broken or status.phase != RUNNING:
        return None
    paused = status.paused
    if paused is None or paused.reason not in (SAMPLE_RATIO, MANUAL):
        return status.model_copy(update={"paused": Paused(reason=SAMPLE_RATIO, since=seen.now)})
    if paused.reason == MANUAL or seen.now - paused.since < MISMATCH_GRACE:
        return None
    return stop(status, "SampleRatioMismatch", seen.evidence.broken, seen.now)


def _spare(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """Collect nothing while stable is no measure of anything: what fails both arms would drown what the candidate alone does.

    What is paused for something else stays so, and goes on counting. A gate that a command opened waits for no measure.
    """
    if seen.evidence is None or not seen.evidence.control.reason or _gate(status) == "none":
        return None
    if status.phase != RUNNING or canary_weight(status) in (0, 100):
        return None
    epochs = tuple(
        each.model_copy(update={"troubled": each.troubled or each.number == status.epoch.number})
        for each in status.evidence_epochs
    )
    told = seen.evidence.control
    paused = status.paused or Paused(reason=told.reason, since=seen.now, message=told.message)
    after = status.model_copy(update={"paused": paused, "evidence_epochs": epochs})
    return None if after == status else after


def _recover(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """Go on by itself once stable has done well for a while, as all edges tell."""
    if not _is_spared(status) or seen.evidence is None or seen.evidence.unheard:
        return None
    return _resume(status, seen.now) if seen.evidence.control.settled else None


def _is_spared(status: ExperimentStatus) -> bool:
    return status.paused is not None and status.paused.reason in (UNHEALTHY, DEGRADED)


def _renew(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """Count anew after an epoch in which stable was no measure."""
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    if newest is None or not newest.troubled or newest.number != status.epoch.number or _is_held(status, seen):
        return None
    return _as_evidence(_at_weight(status, canary_weight(status), seen.now), seen)


def _promote(status: ExperimentStatus, *, full: bool) -> ExperimentStatus:
    """Pass the gate of the current step; of the last one, or with `full`, all that is left. A pause ends with it."""
    last = len(status.plan.steps)
    running = status.model_copy(update={"phase": RUNNING, "paused": None})
    index = status.step.index if status.step else 0
    if full or index >= last:
        return _ungated(_enter(running, last))
    return _enter(running, index + 1)


def _ungated(status: ExperimentStatus) -> ExperimentStatus:
    step = status.step.model_copy(update={"gate": "none"}) if status.step else None
    return status.model_copy(update={"step": step})


def _begin(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    if status.phase != PENDING or _is_held(status, seen):
        return None
    if seen.available < wanted_replicas(status, seen.replicas) or not seen.confirmed:
        return None
    return _enter(status.model_copy(update={"phase": RUNNING}), 1)


def _enter(status: ExperimentStatus, index: int) -> ExperimentStatus:
    planned = status.plan.steps[index - 1]
    # A pause goes on with what was collected at the weight before it.
    warm = status.step is not None and status.step.warm and planned.weight == canary_weight(status)
    step = StepStatus(index=index, of=len(status.plan.steps), gate=planned.gate, reason="Shifting", warm=warm)
    return status.model_copy(update={"step": step})


def _shift(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    step = current_step(status)
    if status.phase != RUNNING or step.weight == canary_weight(status) or _stands_still(status, seen):
        return None
    if seen.available < step_replicas(step, seen.replicas):
        return None
    if step.weight == 100 and _gate(status) == "none":
        return _conclude(status, seen)
    shifted = _at_weight(status, step.weight, seen.now)
    return _as_evidence(shifted, seen) if seen.evidence is not None and _needs_no_warmup(status) else shifted


def _conclude(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    last = current_step(status)
    if seen.available < canary_replicas(seen.replicas, 100):
        return None
    told = status.plan.reason or f"after step {len(status.plan.steps)} at {last.weight} %"
    return _end(status, CONCLUDED, 100, "Promoted", told, seen.now)


def _confirm(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    if status.epoch.confirmed or not seen.confirmed:
        return None
    epoch = Epoch(number=status.epoch.number, since=seen.now, confirmed=True)
    return status.model_copy(update={"epoch": epoch})


def _needs_no_warmup(status: ExperimentStatus) -> bool:
    return not status.plan.warmup_requests or not status.plan.warmup_duration


def _warm_up(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """End a step's warm-up: from the next epoch on counts are evidence. Likewise once it is known what a long answer is."""
    step, evidence = current_step(status), seen.evidence
    if status.phase != RUNNING or status.step is None or evidence is None or status.step.since is None:
        return None
    if (
        _is_spared(status)
        or not status.epoch.confirmed
        or step.weight != canary_weight(status)
        or step.weight in (0, 100)
    ):
        return None
    if status.step.warm:
        learned = lacks_threshold(status.plan.guardrails) and not lacks_threshold(evidence.guardrails)
        return _as_evidence(_at_weight(status, step.weight, seen.now), seen) if learned else None
    waited = status.epoch.since is not None and seen.now - status.epoch.since >= status.plan.warmup_duration
    if not waited and evidence.requests < status.plan.warmup_requests:
        return None
    return _as_evidence(_at_weight(status, step.weight, seen.now), seen)


def _as_evidence(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus:
    """Let the epoch that begins count as evidence, against latencies that stay what they are from here on."""
    guardrails = seen.evidence.guardrails if seen.evidence else status.plan.guardrails
    epoch = EvidenceEpoch(number=status.epoch.number, weight=canary_weight(status))
    return status.model_copy(
        update={
            "plan": status.plan.model_copy(update={"guardrails": guardrails}),
            "step": status.step.model_copy(update={"warm": True}) if status.step else None,
            "evidence_epochs": (*_with_room(status.evidence_epochs), epoch),
            "metrics": (),
        }
    )


def _with_room(epochs: Sequence[EvidenceEpoch]) -> Sequence[EvidenceEpoch]:
    """Those that are kept when another begins: of many the oldest goes that gates leave out, for there is one more with each outage."""
    if len(epochs) < MOST_EPOCHS:
        return epochs
    gone = next((each for each in epochs if each.troubled), epochs[0])
    return [each for each in epochs if each is not gone]


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
    if _stands_still(status, seen) or not _is_open(status, step, seen, seen.now - status.step.since):
        return None
    if _gate(status) == "evidence" and next_weight(status) == 100:
        status = _conclusive(status, PROMOTED, seen)
    return _go_on(status, seen)


def _is_open(status: ExperimentStatus, step: PlanStep, seen: Inputs, waited: timedelta) -> bool:
    match _gate(status):
        case "evidence":
            return waited >= step.min_duration and seen.evidence is not None and seen.evidence.passed
        case "time":
            return waited >= step.min_duration
        case "webhook":
            return seen.answer is not None and seen.answer.confirms
        case gate:
            return gate == "none"


def _go_on(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    index = status.step.index if status.step else 0
    return _conclude(status, seen) if index >= len(status.plan.steps) else _enter(status, index + 1)


def _time_out(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus | None:
    """What follows on a step that evidence does not decide. Nothing does by default but a pause: no data is never success."""
    step, evidence = current_step(status), seen.evidence
    if status.phase != RUNNING or status.step is None or status.step.since is None or _stands_still(status, seen):
        return None
    if evidence is None or _gate(status) != "evidence" or step.max_duration is None:
        return None
    waited = seen.now - status.step.since
    quiet = min(waited, seen.now - (status.epoch.since or seen.now)) if status.epoch.confirmed else timedelta(0)
    if evidence.silent and status.plan.on_no_data != "hold" and quiet >= max(step.min_duration, LEAST_SILENCE):
        return _give_up(status, seen, status.plan.on_no_data, NO_DATA)
    if waited < step.max_duration:
        return None
    return _give_up(
        status,
        seen,
        "pause" if evidence.silent else status.plan.on_inconclusive,
        NO_DATA if evidence.silent else INCONCLUSIVE,
    )


def _give_up(status: ExperimentStatus, seen: Inputs, policy: str, reason: str) -> ExperimentStatus | None:
    told = status.model_copy(update={"metrics": seen.evidence.metrics}) if seen.evidence else status
    match policy:
        case "rollback":
            return stop(told, reason, waiting_for_evidence(told), seen.now)
        case "promote":
            return _go_on(told, seen)
        case _:
            return told.model_copy(update={"paused": Paused(reason=reason, since=seen.now)})


def waiting_for_evidence(status: ExperimentStatus) -> str:
    """What a gate of evidence waits for, by what the status says is known."""
    asked = [each for each in status.metrics if each.role == "guardrail"]
    open_ = [each.message for each in asked if each.verdict != "Passed"]
    least = format_duration(current_step(status).min_duration)
    passed = f"every guardrail has passed; a step takes {least} and two minutes of evidence at least"
    return open_[0] if open_ else passed if asked else "collects evidence"


def _gate(status: ExperimentStatus) -> str:
    """The gate in force: that of the step, unless a command opened it."""
    return status.step.gate if status.step else "none"


def _is_held(status: ExperimentStatus, seen: Inputs) -> bool:
    return seen.held or status.paused is not None


def _stands_still(status: ExperimentStatus, seen: Inputs) -> bool:
    """Whether no traffic may move forward."""
    return seen.opens_at is not None or _is_held(status, seen)


def _explain(status: ExperimentStatus, seen: Inputs) -> ExperimentStatus:
    """Say what the attempt waits for. No text changes with time alone, or status would change at every tick."""
    return status.model_copy(update={"step": _reason(status, _waiting_for(status, seen))})


def _reason(status: ExperimentStatus, reason: str) -> StepStatus | None:
    return status.step.model_copy(update={"reason": reason}) if status.step else None


def _waiting_for(status: ExperimentStatus, seen: Inputs) -> str:
    step, needed = current_step(status), wanted_replicas(status, seen.replicas)
    explanations: tuple[tuple[bool, Callable[[], str]], ...] = (
        (seen.held, lambda: "held by the spec"),
        (status.paused is not None, lambda: paused_for(status)),
        (seen.opens_at is not None, lambda: windows.outside(seen.opens_at or seen.now)),
        (not status.epoch.confirmed, lambda: "waits for the edges to confirm the split"),
        (seen.available < needed, lambda: f"waits for replicas: {seen.available} of {needed} are available"),
        (_gate(status) == "manual", lambda: WAITS_FOR_PROMOTE),
        (_gate(status) == "time", lambda: f"collects for {step.min_duration.total_seconds():g} s"),
        (_gate(status) == "evidence", lambda: _collecting(status)),
        (_gate(status) == "webhook", lambda: _asking(step, seen.answer)),
    )
    return next((text() for holds, text in explanations if holds), "shifts traffic")


def _asking(step: PlanStep, answer: WebhookAnswer | None) -> str:
    place = webhooks.place(step.webhook.url) if step.webhook else ""
    return f"asks webhook {place}" if answer is None else f"webhook {place} {answer.told}; asks again"


def paused_for(status: ExperimentStatus) -> str:
    """Why a paused rollout stands still."""
    match status.paused.reason if status.paused else MANUAL:
        case "Inconclusive":
            return f"paused, for it took too long: {waiting_for_evidence(status)}"
        case "NoData":
            return "paused, for there is no traffic to judge by"
        case "SampleRatio":
            return "paused, for requests do not fall to the arms by their weights"
        case reason if status.paused is not None and reason in (UNHEALTHY, DEGRADED):
            return f"paused until {names.STABLE} has done well for 5 minutes: {status.paused.message}"
        case _:
            return "paused by command"


def _collecting(status: ExperimentStatus) -> str:
    if status.step is None or status.step.warm:
        return waiting_for_evidence(status)
    return "warms up; what is counted is no evidence yet"
