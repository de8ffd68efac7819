"""Changes of a rollout's status that several rules make."""

from datetime import datetime

from sundog_operator.api import (
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    StepStatus,
    TrafficReturnStatus,
    Verdict,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import (
    baseline_outage,
    in_place,
    prometheus_checks,
    steps_without_evidence,
)
from sundog_operator.core.rollout.freeze import UNDECIDED, arms_at_weight
from sundog_operator.core.rollout.replica_counts import canary_replicas
from sundog_operator.core.rollout.state import (
    CONCLUDED,
    MAX_EVIDENCE_EPOCHS,
    PASSED,
    PROMOTED,
    ROLLED_BACK,
    STOPPED,
    RolloutInputs,
    arm_revisions,
    canary_weight,
    current_step,
    is_over,
    step_index,
)


def stop(status: ExperimentStatus, reason: str, message: str, now: datetime) -> ExperimentStatus:
    """End the attempt with all traffic on stable. In place that begins its end: traffic goes back as stable's replicas come.

    One that has ended stays ended as it was.
    """
    if is_over(status) or status.giving_back is not None:
        return status
    if status.plan.in_place is None or not canary_weight(status):
        return _end(status, STOPPED, 0, reason, message, now)
    back = TrafficReturnStatus(reason=reason, message=message, since=now)
    return status.model_copy(update={"giving_back": back, "paused": None, "step": with_reason(status, reason)})


def give_back(status: ExperimentStatus, back: TrafficReturnStatus, seen: RolloutInputs) -> ExperimentStatus:
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
        return at_weight(status, left, seen.now).model_copy(update={"giving_back": again})
    told = (
        f"{back.reason}: gives its traffic back as replicas of stable come, {seen.stable} of {seen.replicas} are there"
    )
    return confirm(status, seen) or status.model_copy(update={"step": with_reason(status, told)})


def _end(
    status: ExperimentStatus, phase: str, weight: int, reason: str, message: str, now: datetime
) -> ExperimentStatus:
    verdict = _verdict(status, phase, f"{reason}: {message}")
    ended = at_weight(status, weight, now) if canary_weight(status) != weight else status
    update = {
        "phase": phase,
        "verdict": verdict,
        "paused": None,
        "step": with_reason(ended, reason),
        "checks": status.checks,
    }
    return ended.model_copy(update=update)


def _verdict(status: ExperimentStatus, phase: str, told: str) -> Verdict:
    """How it ended: decided by evidence as far as `with_decision` says so."""
    conclusive = status.verdict.decision == (PROMOTED if phase == CONCLUDED else ROLLED_BACK)
    decision = status.verdict.decision if conclusive or status.verdict.decision == PASSED else UNDECIDED
    winner = "" if not conclusive else names.CANARY if phase == CONCLUDED else names.STABLE
    return Verdict(decision=decision, winner=winner, reason=told)


def with_decision(status: ExperimentStatus, decision: str, seen: RolloutInputs) -> ExperimentStatus:
    """Evidence has decided: it stays beside the decision."""
    verdict = status.verdict.model_copy(update={"decision": decision})
    return with_what_is_known(status, seen).model_copy(update={"verdict": verdict})


def with_what_is_known(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """With the metrics of copies and of traffic as they are now."""
    if seen.copies is None and seen.evidence is None:
        return status
    copies = seen.copies.metrics if seen.copies else ()
    return status.model_copy(update={"metrics": (*copies, *(seen.evidence.metrics if seen.evidence else ()))})


def at_weight(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    """The status with a weight for the canary, in percent, in force as a new epoch."""
    counted = {arm.name: arm for arm in status.arms}
    arms = tuple(
        counted[arm.name].model_copy(update={"revision": arm.revision, "weight": arm.weight, "ranges": arm.ranges})
        for arm in arms_at_weight(weight, *arm_revisions(status))
    )
    epoch = Epoch(number=status.epoch.number + 1, since=now, confirmed=False)
    had = True if weight else status.had_traffic
    after = status.model_copy(update={"arms": arms, "epoch": epoch, "had_traffic": had})
    return after if weight == canary_weight(status) else prometheus_checks.reset_passes(after)


def ungated(status: ExperimentStatus) -> ExperimentStatus:
    """The status with the gate of its step open."""
    step = status.step.model_copy(update={"gate": "none"}) if status.step else None
    return status.model_copy(update={"step": step})


def enter(status: ExperimentStatus, index: int, opened_by: str | None = None) -> ExperimentStatus:
    """The status in the step with this number."""
    planned = status.plan.steps[index - 1]
    # A pause goes on with what was collected at the weight before it.
    warm = status.step is not None and status.step.warm and planned.weight == canary_weight(status)
    step = StepStatus(
        index=index, of=len(status.plan.steps), gate=planned.gate, reason="Shifting", warm=warm, opened_by=opened_by
    )
    had = True if planned.headers else status.had_traffic
    return status.model_copy(update={"step": step, "had_traffic": had})


def on_its_way(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    """Before the weight of its step, in place: the next replica has its own time to come."""
    step = status.step.model_copy(update={"short_since": None}) if status.step else None
    return at_weight(status.model_copy(update={"step": step}), weight, now)


def _bears_all(status: ExperimentStatus, seen: RolloutInputs) -> bool:
    """Whether the candidate's replicas may get all traffic."""
    if status.plan.in_place is not None:
        return in_place.reachable_weight(seen.replicas, status.plan.in_place.spare, 100, seen.available) == 100
    return seen.available >= canary_replicas(seen.replicas, 100)


def conclude(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """The status promoted, once the canary has replicas for all traffic; None until then."""
    last = current_step(status)
    if not _bears_all(status, seen):
        return None
    told = status.plan.reason or f"after step {len(status.plan.steps)} at {last.weight} %"
    without = "" if status.plan.reason else steps_without_evidence.describe_passed(status)
    return _end(status, CONCLUDED, 100, PROMOTED, join_texts(told, without), seen.now)


def confirm(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus | None:
    """The status with its epoch confirmed by all edges; None where nothing changes."""
    if status.epoch.confirmed or not seen.confirmed:
        return None
    epoch = Epoch(number=status.epoch.number, since=seen.now, confirmed=True)
    return status.model_copy(update={"epoch": epoch})


def as_evidence(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
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


def join_texts(*parts: str) -> str:
    """Texts that are not empty, as one."""
    return "; ".join(filter(None, parts))


def go_on(status: ExperimentStatus, seen: RolloutInputs, opened_by: str) -> ExperimentStatus | None:
    """The status in its next step, or promoted after the last."""
    index = step_index(status)
    return conclude(status, seen) if index >= len(status.plan.steps) else enter(status, index + 1, opened_by)


def with_reason(status: ExperimentStatus, reason: str) -> StepStatus | None:
    """The current step with what it waits for."""
    return status.step.model_copy(update={"reason": reason}) if status.step else None
