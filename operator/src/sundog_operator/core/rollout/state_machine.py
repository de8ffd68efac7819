"""The rollout state machine: one transition per tick, each a commit before any traffic moves.

    Pending ──candidate ready──► Running: shift ► warm up ► collect ► gate ► next step ──last step──► Concluded
       └──────abort, failure, harm, superseded──────┴────────────────────────────────────────► Stopped

A step is entered by raising `step.index`; its weight follows once the candidate has the replicas for it, as a new epoch; the epoch counts
from the moment all edges confirm it. Where evidence is weighed the first epoch of a step is its warm-up, which is none, and the second
has the same weights. In place, where replicas of the candidate take the place of stable's, traffic follows each of them, and a rollout that
ends gives it back likewise before it is Stopped (`in_place`). Nothing here reads a clock or the world.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PauseStatus,
    PlanStep,
    PlanWebhook,
    StepStatus,
    TrafficReturnStatus,
    Verdict,
    format_duration,
    format_timestamp,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.rollout import (
    baseline_outage,
    header_match,
    in_place,
    prometheus_checks,
    shadow_comparison,
    steps_without_evidence,
    webhook_urls,
    windows,
)
from sundog_operator.core.rollout.commands import RolloutCommand
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY, Evaluation
from sundog_operator.core.rollout.freeze import BAKE, UNDECIDED, arms_at_weight
from sundog_operator.core.rollout.replica_counts import canary_replicas, step_replicas
from sundog_operator.core.rollout.resolve import needs_threshold
from sundog_operator.core.rollout.shadow_comparison import SHADOW, ShadowComparison

PENDING: Final = "Pending"
RECREATE: Final = "recreate"
WAITS_FOR_PROMOTE: Final = "waits for promote"
"""The reason of a step that goes on when somebody says so."""
RUNNING: Final = "Running"
CONCLUDED: Final = "Concluded"
STOPPED: Final = "Stopped"
PROMOTED: Final = "Promoted"
ROLLED_BACK: Final = "RolledBack"
PASSED: Final = "Passed"
"""What copies say of a candidate whose strategy is shadow: no promotion follows from it."""
MANUAL: Final = "Manual"
INCONCLUSIVE: Final = "Inconclusive"
NO_DATA: Final = "NoData"
SAMPLE_RATIO: Final = "SampleRatio"
DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"
MISMATCH_GRACE: Final = timedelta(minutes=5)
"""How long a split that is not as it should be is looked into before stable gets all traffic."""

MAX_EVIDENCE_EPOCHS: Final = 32
"""Of evidence, in a status that has room for 40: one for each step, and one for what a long answer is, are 23."""

PAUSABLE_GATES: Final = ("evidence", SHADOW, BAKE)
"""Gates whose time stands still while the rollout does. A bake goes on outside of windows, for traffic does."""

DECIDING_GATES: Final = ("evidence", "manual")
"""Gates by which evidence of traffic, or a person, says that more may follow."""

GIVE_BACK_TIMEOUT: Final = timedelta(minutes=15)
"""For replicas of stable, where the spec is refused."""

MIN_NO_DATA_DURATION: Final = timedelta(minutes=1)
"""Of an epoch in force without any request of an arm, before that is called no data."""


@dataclass(frozen=True, slots=True)
class RolloutInputs:
    """What a tick may look at.

    Attributes:
        replicas: replicas that the service needs at 100 %.
        available: replicas of the candidate that Serve runs and every ready edge sees healthy; none while Serve does not call it ready.
        serving: the same while others of it start; None where that is as many.
        confirmed: every edge has the current epoch in force.
        held: the spec pauses rollouts, or cannot be acted on.
        opens_at: when the next window opens; None within one.
        failure: why the attempt must stop now, as (reason, message).
        late: why the candidate, or what a step asks for, was not ready in time, where that is to pause it; else empty.
        evidence: what is known of the candidate; None where the plan weighs none.
        answer: the last one to the webhook of the current step; None where there is none yet.
        copies: how the candidate answers copies of requests; None where the current step compares none.
        stable: replicas of stable that Serve runs and every ready edge sees healthy.
        dead: the candidate answers nothing while stable does, or fails most of what it gets.
        patience: how long to wait for replicas of stable that traffic is to go back to.
    """

    now: datetime
    replicas: int
    available: int
    confirmed: bool
    held: bool = False
    opens_at: datetime | None = None
    failure: tuple[str, str] | None = None
    late: str = ""
    evidence: Evaluation | None = None
    answer: WebhookResult | None = None
    copies: ShadowComparison | None = None
    serving: int | None = None
    stable: int = 0
    dead: bool = False
    patience: timedelta = GIVE_BACK_TIMEOUT


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
    return int(next((arm.weight for arm in status.arms if arm.name == names.CANARY), 0))


def has_traffic(status: ExperimentStatus) -> bool:
    """Whether the candidate gets requests, by its weight or by their headers, as far as is committed."""
    return canary_weight(status) > 0 or bool(header_match.active_headers(status))


def had_traffic(status: ExperimentStatus) -> bool:
    """Whether the candidate ever got requests, by its weight or by their headers, as far as is committed."""
    return _leads_to_traffic(status) if status.had_traffic is None else status.had_traffic


def _leads_to_traffic(status: ExperimentStatus) -> bool:
    """Whether a step up to the one that was entered last has traffic, or will have it once its replicas are there."""
    walked = status.plan.steps[: status.step.index if status.step is not None else 0]
    return any(step.weight > 0 or step.headers for step in walked)


def is_evaluated(status: ExperimentStatus) -> bool:
    """Whether what the edges count of both arms is weighed now. With strategy: shadow one arm alone is asked before the bake."""
    return bool(status.plan.guardrails) and (status.plan.strategy != SHADOW or _leads_to_traffic(status))


def is_decided_by_copies(status: ExperimentStatus) -> bool:
    """Whether what copies have come to is the last that is known: the candidate got no traffic since, or it is over."""
    return status.verdict.decision == PASSED and (is_over(status) or not _leads_to_traffic(status))


def can_be_selected(status: ExperimentStatus) -> bool:
    """Whether callers may be led to the candidate without weight: it was ready once, and is not about to go.

    One that is promoted in full may not have been ready before.
    """
    return status.phase == RUNNING and (current_step(status).weight < 100 or canary_weight(status) > 0)


def arm_revisions(status: ExperimentStatus) -> tuple[int, int]:
    """(stable, candidate) of the attempt."""
    by_name = {arm.name: arm.revision or 0 for arm in status.arms}
    return by_name[names.STABLE], by_name[names.CANARY]


def current_step(status: ExperimentStatus) -> PlanStep:
    """The step that is walked, or the first before the walk begins."""
    index = min(max(status.step.index, 1), len(status.plan.steps)) if status.step else 1
    return status.plan.steps[index - 1]


def pending_webhook(status: ExperimentStatus) -> PlanWebhook | None:
    """The webhook that the current step waits for; None where it waits for none, or stands still."""
    step = status.step
    if status.phase != RUNNING or status.paused is not None or step is None or step.since is None:
        return None
    if status.giving_back is not None:
        return None
    return current_step(status).webhook if step.gate == "webhook" else None


def is_fast_rollback(status: ExperimentStatus) -> bool:
    """Whether it goes back to what was stable, and so waits for no window."""
    return status.plan.reason != "" and status.plan.strategy != RECREATE


def is_baking(status: ExperimentStatus) -> bool:
    """Whether it is past its gates, and stable keeps a share for a while."""
    return not is_over(status) and _gate(status) == BAKE


def weight_after(steps: Sequence[PlanStep], weight: int) -> int:
    """The percent of traffic that follows a weight, which rise from step to step; 100 after the last, and for a bake, which promotes."""
    return next((100 if step.gate == BAKE else step.weight for step in steps if step.weight > weight), 100)


def next_weight(status: ExperimentStatus) -> int:
    """The candidate's percent of the traffic that passing the current step leads to, pauses at the same weight left aside."""
    index = min(status.step.index, len(status.plan.steps)) if status.step else 0
    return weight_after(status.plan.steps, status.plan.steps[index - 1].weight if index else 0)


def wanted_replicas(status: ExperimentStatus, replicas: int) -> int:
    """Replicas that the candidate needs now: enough for the step, and for the weight in force; in place for what can follow on that."""
    if status.plan.in_place is not None:
        return shared_replicas(status, replicas).candidate
    return max(step_replicas(current_step(status), replicas), canary_replicas(replicas, canary_weight(status)))


def shared_replicas(status: ExperimentStatus, replicas: int, *, stands_still: bool = False) -> in_place.ArmReplicas:
    """Replicas of both revisions in a rollout in place, where all traffic needs so many.

    `stands_still`: the rollout is held, so that none is to be started for traffic that does not come.
    """
    weight, spare = canary_weight(status), status.plan.in_place.spare if status.plan.in_place else 0
    if status.giving_back is not None:
        return in_place.compute_replicas(replicas, spare, weight, 0)
    still = stands_still or status.paused is not None
    return in_place.compute_replicas(replicas, spare, weight, weight if still else current_step(status).weight)


def replicas_waited_for(status: ExperimentStatus, replicas: int, available: int) -> int:
    """The replicas of the candidate without which the rollout does not go on; 0 where it waits for none."""
    step = current_step(status)
    if status.phase != RUNNING or status.step is None or status.giving_back is not None:
        return 0
    waits = step.weight != canary_weight(status) or _gate(status) == "scale"
    needed = wanted_replicas(status, replicas) if status.plan.in_place is not None else step_replicas(step, replicas)
    return needed if waits and available < needed else 0


def tick(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """The next status; equal to the given one when nothing is due. Total: any status and inputs give a status."""
    if is_over(status):
        return status
    if status.giving_back is not None:
        return _give_back(status, status.giving_back, seen)
    for rule in (
        _stop,
        _roll_back,
        _differ,
        _fail,
        _tire,
        _hold,
        _doubt,
        _lose_patience,
        _spare,
        _recover,
        _begin,
        _shift,
        _renew,
        _copy_anew,
        _confirm,
        _warm_up,
        _pass_gate,
        _run_out,
        _time_out,
    ):
        if (after := rule(status, seen)) is not None:
            return after
    return _explain(status, seen)


def stop(status: ExperimentStatus, reason: str, message: str, now: datetime) -> ExperimentStatus:
    """End the attempt with all traffic on stable. In place that begins its end: traffic goes back as stable's replicas come.

    One that has ended stays ended as it was.
    """
    if is_over(status) or status.giving_back is not None:
        return status
    if status.plan.in_place is None or not canary_weight(status):
        return _end(status, STOPPED, 0, reason, message, now)
    back = TrafficReturnStatus(reason=reason, message=message, since=now)
    return status.model_copy(update={"giving_back": back, "paused": None, "step": _reason(status, reason)})


def _give_back(status: ExperimentStatus, back: TrafficReturnStatus, seen: RolloutInputs) -> ExperimentStatus:
    """Move the traffic to stable that its replicas bear: all of it where the candidate is dead, or none of them came for too long.

    What a dead candidate gets is lost; a stable that is too small answers most of it, and refuses the rest.
    """
    if back.since > seen.now:
        # The clock was set back: the time that replicas have begins anew.
        back = back.model_copy(update={"since": seen.now})
        status = status.model_copy(update={"giving_back": back})
    spare, weight = status.plan.in_place.spare if status.plan.in_place else 0, canary_weight(status)
    lost = seen.dead or seen.now - back.since >= seen.patience
    left = 0 if lost else in_place.remaining_weight(seen.replicas, spare, weight, seen.stable)
    if not left:
        return _end(status.model_copy(update={"giving_back": None}), STOPPED, 0, back.reason, back.message, seen.now)
    if left < weight:
        again = back.model_copy(update={"since": seen.now})
        return _at_weight(status, left, seen.now).model_copy(update={"giving_back": again})
    told = (
        f"{back.reason}: gives its traffic back as replicas of stable come, {seen.stable} of {seen.replicas} are there"
    )
    return _confirm(status, seen) or status.model_copy(update={"step": _reason(status, told)})


def execute_command(status: ExperimentStatus, command: RolloutCommand, now: datetime) -> ExperimentStatus:
    """Run an accepted command. Its id stays in the status, so that a crash before the next write does not run it twice."""
    marked = status.model_copy(update={"last_command": command.id})
    match command.verb:
        case "pause":
            return _pause(marked, now)
        case "resume":
            return _resume(marked, now)
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


def _resume(status: ExperimentStatus, now: datetime) -> ExperimentStatus:
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


def _end(
    status: ExperimentStatus, phase: str, weight: int, reason: str, message: str, now: datetime
) -> ExperimentStatus:
    verdict = _verdict(status, phase, f"{reason}: {message}")
    ended = _at_weight(status, weight, now) if canary_weight(status) != weight else status
    update = {
        "phase": phase,
        "verdict": verdict,
        "paused": None,
        "step": _reason(ended, reason),
        "checks": status.checks,
    }
    return ended.model_copy(update=update)


def _verdict(status: ExperimentStatus, phase: str, told: str) -> Verdict:
    """How it ended: decided by evidence as far as `_conclusive` says so."""
    conclusive = status.verdict.decision == (PROMOTED if phase == CONCLUDED else ROLLED_BACK)
    decision = status.verdict.decision if conclusive or status.verdict.decision == PASSED else UNDECIDED
    winner = "" if not conclusive else names.CANARY if phase == CONCLUDED else names.STABLE
    return Verdict(decision=decision, winner=winner, reason=told)


def _conclusive(status: ExperimentStatus, decision: str, seen: RolloutInputs) -> ExperimentStatus:
    """Evidence has decided: it stays beside the decision."""
    verdict = status.verdict.model_copy(update={"decision": decision})
    return _with_what_is_known(status, seen).model_copy(update={"verdict": verdict})


def _with_what_is_known(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """With the metrics of copies and of traffic as they are now."""
    if seen.copies is None and seen.evidence is None:
        return status
    copies = seen.copies.metrics if seen.copies else ()
    return status.model_copy(update={"metrics": (*copies, *(seen.evidence.metrics if seen.evidence else ()))})


def _at_weight(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    counted = {arm.name: arm for arm in status.arms}
    arms = tuple(
        counted[arm.name].model_copy(update={"revision": arm.revision, "weight": arm.weight, "ranges": arm.ranges})
        for arm in arms_at_weight(weight, *arm_revisions(status))
    )
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    had = True if weight else status.had_traffic
    after = status.model_copy(update={"arms": arms, "epoch": epoch, "had_traffic": had})
    return after if weight == canary_weight(status) else prometheus_checks.reset_passes(after)


def _stop(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    return stop(status, *seen.failure, seen.now) if seen.failure else None


def _roll_back(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Harm ends the attempt whatever else holds it: paused or not, it goes on doing harm."""
    if seen.evidence is None or not seen.evidence.harm or canary_weight(status) in (0, 100):
        return None
    return stop(_conclusive(status, ROLLED_BACK, seen), ROLLED_BACK, seen.evidence.harm, seen.now)


def _differ(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """A candidate that answers copies otherwise than it may is done with, likewise."""
    if seen.copies is None or not seen.copies.failed:
        return None
    told = status.model_copy(update={"shadow": seen.copies.status})
    return stop(_conclusive(told, ROLLED_BACK, seen), ROLLED_BACK, seen.copies.failed, seen.now)


def _fail(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """A limit that a user set was broken too often in a row. That is no evidence, and ends the attempt all the same."""
    failed = prometheus_checks.find_failure(status)
    return stop(status, ROLLED_BACK, failed, seen.now) if failed else None


def _tire(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """A candidate that was not ready in time is tried on, and gets no traffic before somebody says so."""
    if not seen.late or status.paused is not None:
        return None
    return status.model_copy(
        update={"paused": PauseStatus(reason=DEADLINE_EXCEEDED, since=seen.now, message=seen.late)}
    )


def _lose_patience(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """What Prometheus has no number for is never success. Where a policy says to go on without, gates wait for it no longer."""
    unknown, policy = prometheus_checks.find_inconclusive(status), status.plan.on_inconclusive
    if not unknown or policy == "promote" or _gate(status) == "none" or _stands_still(status, seen):
        return None
    if policy == "rollback":
        return stop(status, INCONCLUSIVE, unknown, seen.now)
    return status.model_copy(update={"paused": PauseStatus(reason=INCONCLUSIVE, since=seen.now, message=unknown)})


def _hold(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """What the spec or its windows hold takes no time of a step that evidence gates."""
    step = status.step
    if step is None or step.gate not in PAUSABLE_GATES:
        return None
    held = seen.held or (seen.opens_at is not None and step.gate != BAKE)
    if held == (step.held_since is not None):
        return None
    if held:
        return status.model_copy(update={"step": step.model_copy(update={"held_since": seen.now})})
    begun = max(step.held_since or seen.now, step.since or seen.now)
    # What is paused meanwhile gets that time back when it goes on.
    ended = seen.now if status.paused is None else max(status.paused.since, begun)
    since = step.since and step.since + (ended - begun)
    return status.model_copy(update={"step": step.model_copy(update={"held_since": None, "since": since})})


def _doubt(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Conclude nothing from a split that is not as it should be; where it stays so, stable gets all traffic."""
    if seen.evidence is None or not seen.evidence.broken or status.phase != RUNNING:
        return None
    paused = status.paused
    if paused is None or paused.reason not in (SAMPLE_RATIO, MANUAL):
        return status.model_copy(update={"paused": PauseStatus(reason=SAMPLE_RATIO, since=seen.now)})
    if paused.reason == MANUAL or seen.now - paused.since < MISMATCH_GRACE:
        return None
    return stop(status, "SampleRatioMismatch", seen.evidence.broken, seen.now)


def _spare(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Collect nothing while stable is no measure of anything: what fails both arms would drown what the candidate alone does.

    What is paused for something else stays so, and goes on counting. A gate that a command opened waits for no measure.
    """
    if seen.evidence is None or not seen.evidence.control.reason or _gate(status) == "none":
        return None
    if status.phase != RUNNING or canary_weight(status) in (0, 100):
        return None
    return baseline_outage.pause_for_baseline(status, seen.evidence.control, seen.now)


def _recover(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Go on by itself once stable has done well for a while, as all edges tell."""
    if not baseline_outage.is_paused_for_baseline(status) or seen.evidence is None or seen.evidence.unreachable_edges:
        return None
    return _resume(status, seen.now) if seen.evidence.control.settled else None


def _renew(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Count anew after an epoch in which stable was no measure, unless traffic can move on: that begins another one."""
    if not baseline_outage.is_epoch_excluded(status) or _is_held(status, seen):
        return None
    return _as_evidence(_at_weight(status, canary_weight(status), seen.now), seen)


def _promote(status: ExperimentStatus, *, full: bool) -> ExperimentStatus:
    """Pass the gate of the current step; of the last one, or with `full`, all that is left. A pause ends with it."""
    last = len(status.plan.steps)
    running = prometheus_checks.reset_inconclusive(status.model_copy(update={"phase": RUNNING, "paused": None}))
    index = status.step.index if status.step else 0
    following = last if full or index >= last else index + 1
    command = "promote --full" if full else "promote"
    known = steps_without_evidence.record_skipped(running, range(max(index, 1), following), command)
    entered = _enter(known, following, f"by command {command}")
    return _ungated(entered) if full or index >= last else entered


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
    return _enter(known, index + 1, "by command skip")


def _ungated(status: ExperimentStatus) -> ExperimentStatus:
    step = status.step.model_copy(update={"gate": "none"}) if status.step else None
    return status.model_copy(update={"step": step})


def _begin(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    if status.phase != PENDING or _is_held(status, seen):
        return None
    if seen.opens_at is not None and current_step(status).headers:
        return None
    if seen.available < wanted_replicas(status, seen.replicas) or not seen.confirmed:
        return None
    return _enter(status.model_copy(update={"phase": RUNNING}), 1)


def _enter(status: ExperimentStatus, index: int, opened_by: str | None = None) -> ExperimentStatus:
    planned = status.plan.steps[index - 1]
    # A pause goes on with what was collected at the weight before it.
    warm = status.step is not None and status.step.warm and planned.weight == canary_weight(status)
    step = StepStatus(
        index=index, of=len(status.plan.steps), gate=planned.gate, reason="Shifting", warm=warm, opened_by=opened_by
    )
    had = True if planned.headers else status.had_traffic
    return status.model_copy(update={"step": step, "had_traffic": had})


def _shift(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    step = current_step(status)
    if status.phase != RUNNING or step.weight == canary_weight(status) or _stands_still(status, seen):
        return None
    if status.plan.in_place is not None:
        reached = in_place.reachable_weight(seen.replicas, status.plan.in_place.spare, step.weight, seen.available)
        if reached < step.weight:
            return _on_its_way(status, reached, seen.now) if reached > canary_weight(status) else None
    elif seen.available < step_replicas(step, seen.replicas):
        return None
    if step.weight == 100 and _gate(status) == "none":
        return _conclude(status, seen)
    shifted = _at_weight(status, step.weight, seen.now)
    return _as_evidence(shifted, seen) if seen.evidence is not None and _needs_no_warmup(status) else shifted


def _copy_anew(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """Begin an epoch for a step that copies after another one: by it their copies are told apart."""
    if not shadow_comparison.needs_restart(status):
        return None
    after = _at_weight(status, canary_weight(status), seen.now)
    if status.step is not None and status.step.warm:
        after = _as_evidence(after, seen)
    return after.model_copy(update={"shadow": shadow_comparison.restarted_status(after), "metrics": ()})


def _on_its_way(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    """Before the weight of its step, in place: the next replica has its own time to come."""
    step = status.step.model_copy(update={"short_since": None}) if status.step else None
    return _at_weight(status.model_copy(update={"step": step}), weight, now)


def _bears_all(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether the candidate's replicas may get all traffic."""
    if status.plan.in_place is not None:
        return in_place.reachable_weight(seen.replicas, status.plan.in_place.spare, 100, seen.available) == 100
    return seen.available >= canary_replicas(seen.replicas, 100)


def _conclude(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    last = current_step(status)
    if not _bears_all(status, seen):
        return None
    told = status.plan.reason or f"after step {len(status.plan.steps)} at {last.weight} %"
    without = "" if status.plan.reason else steps_without_evidence.describe_passed(status)
    return _end(status, CONCLUDED, 100, PROMOTED, _joined(told, without), seen.now)


def _confirm(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    if status.epoch.confirmed or not seen.confirmed:
        return None
    epoch = Epoch(number=status.epoch.number, since=seen.now, confirmed=True)
    return status.model_copy(update={"epoch": epoch})


def _needs_no_warmup(status: ExperimentStatus) -> bool:
    return not status.plan.warmup_requests or not status.plan.warmup_duration


def _warm_up(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """End a step's warm-up: from the next epoch on counts are evidence. Likewise once it is known what a long answer is.

    A gate looks at an epoch in which long answers were counted from the start. A latency that no gate waits for begins none.
    """
    step, evidence = current_step(status), seen.evidence
    if status.phase != RUNNING or status.step is None or evidence is None or status.step.since is None:
        return None
    if (
        baseline_outage.is_paused_for_baseline(status)
        or not status.epoch.confirmed
        or step.weight != canary_weight(status)
        or step.weight in (0, 100)
    ):
        return None
    if status.step.warm:
        known = status.plan.guardrails
        if not needs_threshold(known) or needs_threshold(evidence.guardrails):
            return None
        if needs_threshold([each for each in known if each.role == "guardrail"]):
            return _as_evidence(_at_weight(status, step.weight, seen.now), seen)
        return status.model_copy(update={"plan": status.plan.model_copy(update={"guardrails": evidence.guardrails})})
    waited = status.epoch.since is not None and seen.now - status.epoch.since >= status.plan.warmup_duration
    if not waited and evidence.requests < status.plan.warmup_requests:
        return None
    return _as_evidence(_at_weight(status, step.weight, seen.now), seen)


def _as_evidence(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """Let the epoch that begins count as evidence, against latencies that stay what they are from here on.

    Of a step whose weight is yet to come it is none, only of harm: that one has its own warm-up, and begins its own.
    """
    guardrails = seen.evidence.guardrails if seen.evidence else status.plan.guardrails
    before = status.evidence_epochs[-1] if status.evidence_epochs else None
    weight = canary_weight(status)
    restarts = before.restarts + 1 if before is not None and before.weight == weight else 0
    epoch = EvidenceEpoch(number=status.epoch.number, weight=weight, restarts=restarts)
    warm = canary_weight(status) == current_step(status).weight
    return status.model_copy(
        update={
            "plan": status.plan.model_copy(update={"guardrails": guardrails}),
            "step": status.step.model_copy(update={"warm": warm}) if status.step else None,
            "evidence_epochs": (*baseline_outage.trim_epochs(status.evidence_epochs, MAX_EVIDENCE_EPOCHS), epoch),
            "metrics": (),
        }
    )


def _pass_gate(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
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
    opened_by = _opened_by(status, step, seen)
    if _gate(status) != "none" and (lacking := prometheus_checks.find_ignored_check(status)):
        policy = f"{steps_without_evidence.ON_INCONCLUSIVE}, for {lacking}"
        status, opened_by = (
            steps_without_evidence.record_passed(status, (_index(status),), policy),
            _joined(opened_by, policy),
        )
    if _gate(status) == "evidence" and next_weight(status) == 100:
        status = _conclusive(status, PROMOTED, seen)
    if seen.copies is not None and _decides_alone(status):
        status = _passed_by(status, seen.copies)
    return _go_on(status, seen, opened_by)


def _decides_alone(status: ExperimentStatus) -> bool:
    """Whether the current step is the last one that copies, with a command alone to follow."""
    index = status.step.index if status.step else 0
    later = any(step.shadow is not None for step in status.plan.steps[index:])
    return status.plan.strategy == SHADOW and _gate(status) == SHADOW and not later


def _passed_by(status: ExperimentStatus, copies: ShadowComparison) -> ExperimentStatus:
    """The verdict on a candidate that nothing but a command promotes."""
    verdict = Verdict(decision=PASSED, winner="", reason=copies.status.message)
    return status.model_copy(update={"verdict": verdict, "shadow": copies.status, "metrics": copies.metrics})


def _is_open(status: ExperimentStatus, step: PlanStep, seen: RolloutInputs, waited: timedelta) -> bool:
    if _gate(status) != "none" and prometheus_checks.find_blocking_check(status):
        return False
    match _gate(status):
        case "evidence":
            return waited >= step.min_duration and seen.evidence is not None and seen.evidence.passed
        case "time":
            return waited >= step.min_duration
        case "webhook":
            return seen.answer is not None and seen.answer.confirms
        case "analysis":
            return prometheus_checks.is_analysis_done(status)
        case "scale":
            return seen.available >= step_replicas(step, seen.replicas)
        case "shadow":
            return waited >= step.min_duration and seen.copies is not None and seen.copies.passed
        case "headers":
            return seen.confirmed
        case "bake":
            return waited >= step.min_duration and _is_heard(status, seen)
        case gate:
            return gate == "none"


def _is_heard(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether both arms have had requests since the warm-up, as all edges tell: what nobody looked at has shown no harm for that alone."""
    evidence = seen.evidence
    warm = status.step is not None and status.step.warm
    return evidence is not None and warm and not evidence.silent and not evidence.unreachable_edges


def _opened_by(status: ExperimentStatus, step: PlanStep, seen: RolloutInputs) -> str:
    """By what an open gate has opened, in a sentence."""
    lasted = format_duration(step.min_duration)
    match _gate(status):
        case "evidence":
            return _found_good(seen.evidence.metrics if seen.evidence else ())
        case "time":
            return f"{lasted} are over"
        case "webhook":
            return f"webhook {webhook_urls.redact_url(step.webhook.url) if step.webhook else ''} confirms"
        case "analysis":
            return prometheus_checks.describe_analysis(status)
        case "scale":
            return f"{seen.available} replicas are available"
        case "shadow":
            return seen.copies.status.message if seen.copies else ""
        case "headers":
            return "every edge follows the headers"
        case "bake":
            before = (status.step.opened_by if status.step else None) or ""
            return _joined(before, f"it has baked for {lasted} without harm")
        case _:
            return ""


def _found_good(metrics: Sequence[MetricStatus]) -> str:
    """What is known of the first guardrail, and which others have passed."""
    passed = [each for each in metrics if each.role == "guardrail"]
    others = ", ".join(each.name for each in passed[1:])
    return _joined(*(each.message for each in passed[:1]), f"likewise {others}" if others else "")


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _index(status: ExperimentStatus) -> int:
    return status.step.index if status.step else 0


def promotion_reason(status: ExperimentStatus) -> str:
    """By what a candidate became stable, in a sentence."""
    _, _, told = status.verdict.reason.partition(": ")
    return _joined(told, (status.step.opened_by if status.step else None) or "")


def weight_change_reason(status: ExperimentStatus) -> str:
    """By what the weights became what they are, in a sentence; empty where nothing had to say so."""
    if status.giving_back is not None:
        return f"{status.giving_back.reason}: {status.giving_back.message}"
    return (status.step.opened_by if status.step else None) or ""


def step_entered_without_shift(before: ExperimentStatus, after: ExperimentStatus) -> StepStatus | None:
    """The step that began with the gate before it, where no traffic moves for it; else None."""
    begins = before.step is not None and _index(before) < _index(after)
    return after.step if begins and current_step(after).weight == canary_weight(after) else None


def _go_on(status: ExperimentStatus, seen: RolloutInputs, opened_by: str) -> ExperimentStatus | None:
    index = _index(status)
    return _conclude(status, seen) if index >= len(status.plan.steps) else _enter(status, index + 1, opened_by)


def _run_out(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """What follows on a candidate of whose copies too little is known in the step's time."""
    copies, step = seen.copies, current_step(status)
    if copies is None or status.step is None or status.step.since is None or _stands_still(status, seen):
        return None
    told = status.model_copy(update={"shadow": copies.status})
    if step.max_duration is None or seen.now - status.step.since < step.max_duration:
        return None
    policy, reason = ("pause", NO_DATA) if copies.silent else (status.plan.on_inconclusive, INCONCLUSIVE)
    return _give_up(told, seen, policy, reason)


def _time_out(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """What follows on a step that evidence does not decide. Nothing does by default but a pause: no data is never success."""
    step, evidence = current_step(status), seen.evidence
    if status.phase != RUNNING or status.step is None or status.step.since is None or _stands_still(status, seen):
        return None
    if evidence is None or _gate(status) not in ("evidence", BAKE):
        return None
    waited = seen.now - status.step.since
    quiet = min(waited, seen.now - (status.epoch.since or seen.now)) if status.epoch.confirmed else timedelta(0)
    if evidence.silent and status.plan.on_no_data != "hold" and quiet >= max(step.min_duration, MIN_NO_DATA_DURATION):
        return _give_up(status, seen, status.plan.on_no_data, NO_DATA)
    if step.max_duration is None or waited < step.max_duration:
        return None
    return _give_up(
        status,
        seen,
        "pause" if evidence.silent else status.plan.on_inconclusive,
        NO_DATA if evidence.silent else INCONCLUSIVE,
    )


def _give_up(status: ExperimentStatus, seen: RolloutInputs, policy: str, reason: str) -> ExperimentStatus | None:
    told = _with_what_is_known(status, seen)
    unmet = prometheus_checks.find_blocking_check(status)
    match policy:
        case "rollback":
            return stop(told, reason, describe_missing_evidence(told), seen.now)
        case "promote":
            # Evidence is done without; what Prometheus says is waited for.
            return None if unmet else _go_on_without(told, seen, reason)
        case _:
            return told.model_copy(update={"paused": PauseStatus(reason=reason, since=seen.now, message=unmet)})


def _go_on_without(status: ExperimentStatus, seen: RolloutInputs, reason: str) -> ExperimentStatus | None:
    """Go on by a policy, which stays told: evidence vouches for nothing that follows on this step."""
    missing = "an arm has no requests" if reason == NO_DATA else describe_missing_evidence(status)
    policy = steps_without_evidence.ON_NO_DATA if reason == NO_DATA else steps_without_evidence.ON_INCONCLUSIVE
    known = steps_without_evidence.record_passed(status, (_index(status),), policy)
    return _go_on(known, seen, f"{policy}, although {missing}")


def describe_missing_evidence(status: ExperimentStatus) -> str:
    """What a gate of evidence waits for, or one that compares copies, by what the status says is known."""
    if _gate(status) == SHADOW:
        known = status.shadow.message if status.shadow else shadow_comparison.NO_COPY_ANSWERED
        lasts = current_step(status).min_duration
        return f"copies requests for {format_duration(lasts)}: {known}" if lasts else known
    asked = [each for each in status.metrics if each.role == "guardrail"]
    # The gate opens with the last of them: the one that is expected last holds it, and one that nobody can expect most of all.
    holding = sorted(
        (each for each in asked if each.verdict != "Passed"),
        key=lambda each: (each.eta is not None, -each.eta if each.eta is not None else timedelta(0)),
    )
    least = format_duration(current_step(status).min_duration)
    passed = f"every guardrail has passed; a step takes {least} and two minutes of evidence at least"
    return holding[0].message if holding else passed if asked else "collects evidence"


def _gate(status: ExperimentStatus) -> str:
    """The gate in force: that of the step, unless a command opened it."""
    return status.step.gate if status.step else "none"


def _is_held(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    return seen.held or status.paused is not None


def _stands_still(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether no traffic may move forward."""
    return seen.opens_at is not None or _is_held(status, seen)


def _explain(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """Say what the attempt waits for. No text changes with time alone, or status would change at every tick."""
    step = _reason(status, _waiting_for(status, seen))
    if step is None:
        return status
    short = not _is_held(status, seen) and replicas_waited_for(status, seen.replicas, seen.available) > 0
    since = (step.short_since or seen.now) if short else None
    return status.model_copy(update={"step": step.model_copy(update={"short_since": since})})


def _reason(status: ExperimentStatus, reason: str) -> StepStatus | None:
    return status.step.model_copy(update={"reason": reason}) if status.step else None


def _waiting_for(status: ExperimentStatus, seen: RolloutInputs) -> str:
    step, needed = current_step(status), wanted_replicas(status, seen.replicas)
    unmet = prometheus_checks.find_blocking_check(status)
    explanations: tuple[tuple[bool, Callable[[], str]], ...] = (
        (seen.held, lambda: "held by the spec"),
        (status.paused is not None, lambda: describe_pause(status)),
        (seen.opens_at is not None, lambda: windows.describe_closed_windows(seen.opens_at or seen.now)),
        (
            not status.epoch.confirmed or (_gate(status) == header_match.HEADERS and not seen.confirmed),
            lambda: "waits for the edges to confirm the split",
        ),
        (seen.available < needed, lambda: _short(seen, needed)),
        (_gate(status) == "manual", lambda: WAITS_FOR_PROMOTE),
        (_gate(status) != "none" and unmet != "", lambda: f"waits until it is good: {unmet}"),
        (_gate(status) == "time", lambda: f"collects for {step.min_duration.total_seconds():g} s"),
        (_gate(status) == "evidence", lambda: _collecting(status)),
        (_gate(status) == "webhook", lambda: _asking(step, seen.answer)),
        (_gate(status) == "analysis", lambda: prometheus_checks.describe_analysis(status)),
        (_gate(status) == SHADOW, lambda: describe_missing_evidence(status)),
        (_gate(status) == BAKE, lambda: _baking(status, seen)),
    )
    return next((text() for holds, text in explanations if holds), "shifts traffic")


def _short(seen: RolloutInputs, needed: int) -> str:
    serving = seen.available if seen.serving is None else seen.serving
    if serving < needed:
        return f"waits for replicas: {serving} of {needed} are available"
    return f"waits until Serve calls it ready: {serving} of {needed} replicas are available"


def _baking(status: ExperimentStatus, seen: RolloutInputs) -> str:
    planned, begun = current_step(status), status.step.since if status.step else None
    if begun is None or seen.now < begun + planned.min_duration:
        until = "" if begun is None else f" until {format_timestamp(begun + planned.min_duration)}"
        return f"bakes{until}: {names.STABLE} keeps {100 - planned.weight} %, and harm rolls back"
    unreachable_edges = seen.evidence.unreachable_edges if seen.evidence else ()
    if unreachable_edges:
        return f"has baked, and waits until {', '.join(unreachable_edges)} has told what was counted there"
    return "has baked, and waits for requests of both revisions: no data is no success"


def _asking(step: PlanStep, answer: WebhookResult | None) -> str:
    place = webhook_urls.redact_url(step.webhook.url) if step.webhook else ""
    return f"asks webhook {place}" if answer is None else f"webhook {place} {answer.told}; asks again"


def describe_pause(status: ExperimentStatus) -> str:
    """Why a paused rollout stands still."""
    match status.paused.reason if status.paused else MANUAL:
        case "Inconclusive":
            told = status.paused.message if status.paused else ""
            return f"paused, for it took too long: {told or describe_missing_evidence(status)}"
        case "NoData":
            return "paused, for there is no traffic to judge by"
        case "ProgressDeadlineExceeded":
            return f"paused, for it was {status.paused.message if status.paused else 'not ready in time'}"
        case "SampleRatio":
            return "paused, for requests do not fall to the arms by their weights"
        case reason if status.paused is not None and reason in (CONTROL_UNHEALTHY, CONTROL_DEGRADED):
            return f"paused until {names.STABLE} has done well for 5 minutes: {status.paused.message}"
        case _:
            return "paused by command"


def _collecting(status: ExperimentStatus) -> str:
    if status.step is None or status.step.warm:
        return describe_missing_evidence(status)
    return "warms up; what is counted is no evidence yet"
