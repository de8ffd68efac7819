"""Changes of a rollout's status that several rules share."""

from datetime import datetime

from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    StepStatus,
    TrafficReturnStatus,
    Verdict,
)
from sundog_operator.api.reasons import Cause, EndReason
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.phases import CONCLUDED, STOPPED, UNDECIDED, is_over
from sundog_operator.core.trial.replica_counts import canary_replicas
from sundog_operator.core.trial.rollout import in_place, prometheus_checks, steps_without_evidence
from sundog_operator.core.trial.rollout.freeze import arms_at_weight
from sundog_operator.core.trial.rollout.state import (
    MAX_EVIDENCE_EPOCHS,
    PASSED,
    PROMOTED,
    ROLLED_BACK,
    RolloutInputs,
    arm_revisions,
    canary_weight,
    current_step,
    step_index,
)
from sundog_operator.core.trial.transitions import begin_epoch, confirm_epoch, with_thresholds


def stop(status: ExperimentStatus, cause: Cause, now: datetime) -> ExperimentStatus:
    """End the attempt with all traffic on stable. In place, begin to return traffic as stable's replicas become available.

    An attempt that has ended stays as it is.
    """
    if is_over(status) or status.giving_back is not None:
        return status
    if status.plan.in_place is None or not canary_weight(status):
        return _end(status, STOPPED, 0, cause, now)
    back = TrafficReturnStatus(reason=cause.reason, message=cause.message, since=now)
    return status.model_copy(update={"giving_back": back, "paused": None, "step": with_reason(status, cause.reason)})


def return_traffic(status: ExperimentStatus, back: TrafficReturnStatus, inputs: RolloutInputs) -> ExperimentStatus:
    """Return as much traffic to stable as its available replicas can serve.

    Return all of it if the canary is dead, or if no replica of stable came for too long. Requests to a dead canary are lost; a stable that
    is too small answers most of them and rejects the rest.
    """
    if back.since > inputs.now:
        # The clock was set back: start the wait for replicas again.
        back = back.model_copy(update={"since": inputs.now})
        status = status.model_copy(update={"giving_back": back})
    spare, weight = status.plan.in_place.spare if status.plan.in_place else 0, canary_weight(status)
    lost = inputs.is_dead or inputs.now - back.since >= inputs.give_back_timeout
    left = 0 if lost else in_place.remaining_weight(inputs.replicas, spare, weight, inputs.stable)
    if not left:
        cause = Cause(back.reason, back.message)
        return _end(status.model_copy(update={"giving_back": None}), STOPPED, 0, cause, inputs.now)
    if left < weight:
        again = back.model_copy(update={"since": inputs.now})
        return with_weight(status, left, inputs.now).model_copy(update={"giving_back": again})
    text = f"{back.reason}: returns traffic to {names.STABLE} as its replicas become available: {inputs.stable} of {inputs.replicas}"
    return confirm_epoch(status, inputs) or status.model_copy(update={"step": with_reason(status, text)})


def _end(status: ExperimentStatus, phase: str, weight: int, cause: Cause, now: datetime) -> ExperimentStatus:
    verdict = _verdict(status, phase, cause)
    ended = with_weight(status, weight, now) if canary_weight(status) != weight else status
    update = {
        "phase": phase,
        "verdict": verdict,
        "paused": None,
        "step": with_reason(ended, cause.reason),
        "checks": status.checks,
    }
    return ended.model_copy(update=update)


def _verdict(status: ExperimentStatus, phase: str, cause: Cause) -> Verdict:
    """Return the final verdict. It is conclusive if `with_decision` recorded the same decision before."""
    conclusive = status.verdict.decision == (PROMOTED if phase == CONCLUDED else ROLLED_BACK)
    decision = status.verdict.decision if conclusive or status.verdict.decision == PASSED else UNDECIDED
    winner = "" if not conclusive else names.CANARY if phase == CONCLUDED else names.STABLE
    return Verdict.of(cause, decision, winner)


def with_decision(status: ExperimentStatus, decision: str, inputs: RolloutInputs) -> ExperimentStatus:
    """Record the decision of the evidence, together with the metrics behind it."""
    verdict = status.verdict.model_copy(update={"decision": decision})
    return with_metrics(status, inputs).model_copy(update={"verdict": verdict})


def with_metrics(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus:
    """Store the present metrics of copies and of traffic."""
    if inputs.shadow is None and inputs.evidence is None:
        return status
    copies = inputs.shadow.metrics if inputs.shadow else ()
    return status.model_copy(update={"metrics": (*copies, *(inputs.evidence.metrics if inputs.evidence else ()))})


def with_weight(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    """Return the status with a new weight of the canary, in percent, as a new epoch."""
    counted = {arm.name: arm for arm in status.arms}
    arms = tuple(
        counted[arm.name].model_copy(update={"revision": arm.revision, "weight": arm.weight, "ranges": arm.ranges})
        for arm in arms_at_weight(weight, *arm_revisions(status))
    )
    had = True if weight else status.had_traffic
    after = begin_epoch(status, arms, now).model_copy(update={"had_traffic": had})
    return after if weight == canary_weight(status) else prometheus_checks.reset_passes(after)


def open_gate(status: ExperimentStatus) -> ExperimentStatus:
    """Return the status with the gate of its step open."""
    step = status.step.model_copy(update={"gate": "none"}) if status.step else None
    return status.model_copy(update={"step": step})


def enter_step(status: ExperimentStatus, index: int, opened_by: str | None = None) -> ExperimentStatus:
    """Return the status in the step with this number."""
    planned = status.plan.steps[index - 1]
    # A pause keeps the evidence that was collected at the same weight.
    warm = status.step is not None and status.step.warm and planned.weight == canary_weight(status)
    step = StepStatus(
        index=index, of=len(status.plan.steps), gate=planned.gate, reason="Shifting", warm=warm, opened_by=opened_by
    )
    had = True if planned.headers else status.had_traffic
    return status.model_copy(update={"step": step, "had_traffic": had})


def move_towards_weight(status: ExperimentStatus, weight: int, now: datetime) -> ExperimentStatus:
    """Move to a weight before that of the step, in place. The wait for the next replica starts again."""
    step = status.step.model_copy(update={"short_since": None}) if status.step else None
    return with_weight(status.model_copy(update={"step": step}), weight, now)


def _can_take_all_traffic(status: ExperimentStatus, inputs: RolloutInputs) -> bool:
    """Whether the canary has replicas for all traffic."""
    if status.plan.in_place is not None:
        return in_place.reachable_weight(inputs.replicas, status.plan.in_place.spare, 100, inputs.available) == 100
    return inputs.available >= canary_replicas(inputs.replicas, 100)


def conclude(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Return the status as promoted, once the canary has replicas for all traffic; None until then."""
    last = current_step(status)
    if not _can_take_all_traffic(status, inputs):
        return None
    text = status.plan.reason or f"after step {len(status.plan.steps)} at {last.weight} %"
    without = "" if status.plan.reason else steps_without_evidence.describe_passed(status)
    return _end(status, CONCLUDED, 100, Cause(EndReason.PROMOTED, join_texts(text, without)), inputs.now)


def begin_evidence(status: ExperimentStatus, weight: int, inputs: RolloutInputs) -> ExperimentStatus:
    """Begin an epoch that counts as evidence, with a weight of the canary in percent, and the latency thresholds that are known now.

    If the weight of the step is still to come, the epoch counts for harm only: the step then has its own warm-up and its own epoch.
    """
    begun = with_thresholds(with_weight(status, weight, inputs.now), inputs.evidence)
    before = status.evidence_epochs[-1] if status.evidence_epochs else None
    restarts = before.restarts + 1 if before is not None and before.weight == weight else 0
    epoch = EvidenceEpoch(number=begun.epoch.number, weight=weight, restarts=restarts)
    warm = weight == current_step(begun).weight
    return begun.model_copy(
        update={
            "step": begun.step.model_copy(update={"warm": warm}) if begun.step else None,
            "evidence_epochs": (*baseline_outage.trim_epochs(status.evidence_epochs, MAX_EVIDENCE_EPOCHS), epoch),
            "metrics": (),
        }
    )


def join_texts(*parts: str) -> str:
    """Join the non-empty texts."""
    return "; ".join(filter(None, parts))


def advance(status: ExperimentStatus, inputs: RolloutInputs, opened_by: str) -> ExperimentStatus | None:
    """Return the status in its next step, or promoted after the last one."""
    index = step_index(status)
    return conclude(status, inputs) if index >= len(status.plan.steps) else enter_step(status, index + 1, opened_by)


def with_reason(status: ExperimentStatus, reason: str) -> StepStatus | None:
    """Return the current step with the reason why it waits."""
    return status.step.model_copy(update={"reason": reason, "code": None}) if status.step else None
