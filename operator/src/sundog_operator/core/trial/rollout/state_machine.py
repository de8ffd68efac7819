"""The rollout state machine: one transition per tick, each a commit before any traffic moves.

    Pending ───canary ready────► Running: shift ► warm up ► collect ► gate ► next step ──last step──► Concluded
       └──────abort, failure, harm, superseded──────┴────────────────────────────────────────► Stopped

A step begins when `step.index` rises. Its weight follows as a new epoch once the canary has the replicas for it. The epoch counts from the
moment at which all edges confirm it. If evidence is evaluated, the first epoch of a step is its warm-up, which is no evidence; the second
epoch has the same weights. In place, canary replicas replace those of stable one by one, and traffic follows each of them. A rollout that
ends returns traffic in the same way before it is Stopped (`in_place`). This module reads no clock and makes no calls.
"""

from typing import Final

from sundog_operator.api import ExperimentStatus, PauseStatus
from sundog_operator.api.reasons import Cause, EndReason, PauseReason
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.default_plan import needs_threshold
from sundog_operator.core.trial.phases import PENDING, RUNNING, is_over
from sundog_operator.core.trial.replica_counts import step_replicas
from sundog_operator.core.trial.rollout import in_place, prometheus_checks, shadow_comparison
from sundog_operator.core.trial.rollout.explanations import explain
from sundog_operator.core.trial.rollout.gates import pass_gate, time_out_evidence, time_out_shadow
from sundog_operator.core.trial.rollout.state import (
    MISMATCH_GRACE,
    PAUSABLE_GATES,
    ROLLED_BACK,
    WINDOWLESS_GATES,
    RolloutInputs,
    canary_weight,
    current_step,
    desired_replicas,
    gate_in_force,
    is_held,
    is_traffic_held,
    step_index,
)
from sundog_operator.core.trial.rollout.steering import resume
from sundog_operator.core.trial.rollout.transitions import (
    begin_evidence,
    conclude,
    enter_step,
    move_towards_weight,
    return_traffic,
    stop,
    with_decision,
    with_weight,
)
from sundog_operator.core.trial.transitions import (
    confirm_epoch,
    first_change,
    has_learned_thresholds,
    has_no_warmup,
    has_warmed_up,
    with_thresholds,
)


def tick(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus:
    """Return the next status; the given one if nothing is due. Total: any status and inputs give a status."""
    if is_over(status):
        return status
    if status.giving_back is not None:
        return return_traffic(status, status.giving_back, inputs)
    return first_change(status, inputs, _RULES) or explain(status, inputs)


def _stop_on_failure(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    return stop(status, inputs.failure, inputs.now) if inputs.failure else None


def _roll_back_on_harm(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """End the attempt on harm, even if it is paused or held: a canary with traffic goes on doing harm."""
    if inputs.evidence is None or not inputs.evidence.harm or canary_weight(status) in (0, 100):
        return None
    return stop(
        with_decision(status, ROLLED_BACK, inputs), Cause(EndReason.ROLLED_BACK, inputs.evidence.harm), inputs.now
    )


def _roll_back_on_copies(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """End the attempt if the canary's answers to copies differ too much."""
    if inputs.shadow is None or not inputs.shadow.failed:
        return None
    with_copies = status.model_copy(update={"shadow": inputs.shadow.status})
    return stop(
        with_decision(with_copies, ROLLED_BACK, inputs), Cause(EndReason.ROLLED_BACK, inputs.shadow.failed), inputs.now
    )


def _roll_back_on_check(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """End the attempt if a Prometheus check failed too often in a row. This is a user's limit, not evidence."""
    failed = prometheus_checks.find_failure(status)
    return stop(status, Cause(EndReason.ROLLED_BACK, failed), inputs.now) if failed else None


def _pause_on_deadline(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Pause if the canary missed its progress deadline. The operator keeps retrying; traffic waits until a user resumes."""
    if not inputs.deadline_cause or status.paused is not None:
        return None
    return status.model_copy(
        update={
            "paused": PauseStatus(
                reason=PauseReason.PROGRESS_DEADLINE_EXCEEDED, since=inputs.now, message=inputs.deadline_cause
            )
        }
    )


def _apply_inconclusive_policy(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Apply `onInconclusive` if Prometheus has no number: that is never success. With `promote`, gates stop waiting for it."""
    unknown, policy = prometheus_checks.find_inconclusive(status), status.plan.on_inconclusive
    if not unknown or policy == "promote" or gate_in_force(status) == "none" or is_traffic_held(status, inputs):
        return None
    if policy == "rollback":
        return stop(status, Cause(EndReason.INCONCLUSIVE, unknown), inputs.now)
    return status.model_copy(
        update={"paused": PauseStatus(reason=PauseReason.INCONCLUSIVE, since=inputs.now, message=unknown)}
    )


def _hold_step_time(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Stop the time of a step while the spec or its windows hold the rollout."""
    step = status.step
    if step is None or step.gate not in PAUSABLE_GATES:
        return None
    held = inputs.held or (inputs.opens_at is not None and step.gate not in WINDOWLESS_GATES)
    if held == (step.held_since is not None):
        return None
    if held:
        return status.model_copy(update={"step": step.model_copy(update={"held_since": inputs.now})})
    begun = max(step.held_since or inputs.now, step.since or inputs.now)
    # `resume` returns the time of a pause that began during the hold.
    ended = inputs.now if status.paused is None else max(status.paused.since, begun)
    since = step.since and step.since + (ended - begun)
    return status.model_copy(update={"step": step.model_copy(update={"held_since": None, "since": since})})


def _pause_on_mismatch(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Pause on a sample-ratio mismatch; stop if it lasts, so that stable gets all traffic. The pause outlasts the mismatch."""
    if inputs.evidence is None or status.phase != RUNNING:
        return None
    paused, since = status.paused, inputs.now if inputs.evidence.mismatch else None
    if paused is not None and paused.reason == PauseReason.SAMPLE_RATIO:
        if (paused.mismatch_since is None) != (since is None):
            return status.model_copy(update={"paused": paused.model_copy(update={"mismatch_since": since})})
        if paused.mismatch_since is None or inputs.now - paused.mismatch_since < MISMATCH_GRACE:
            return None
        return stop(status, Cause(EndReason.SAMPLE_RATIO_MISMATCH, inputs.evidence.mismatch), inputs.now)
    if since is None or (paused is not None and paused.reason == PauseReason.MANUAL):
        return None
    begun = PauseStatus(reason=PauseReason.SAMPLE_RATIO, since=inputs.now, mismatch_since=since)
    return status.model_copy(update={"paused": begun})


def _pause_on_outage(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Pause while stable itself fails. A gate that a command opened needs no baseline."""
    if gate_in_force(status) == "none" or canary_weight(status) in (0, 100):
        return None
    return baseline_outage.pause_for_baseline(status, inputs)


def _resume_after_outage(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Resume once stable has been healthy for a while, if every edge reports."""
    if not baseline_outage.is_paused_for_baseline(status) or not baseline_outage.is_baseline_settled(inputs):
        return None
    return resume(status, inputs.now)


def _begin_epoch_after_outage(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Begin a new epoch after an outage of stable, unless traffic can advance, which begins one anyway."""
    if not baseline_outage.is_epoch_excluded(status) or is_held(status, inputs):
        return None
    return begin_evidence(status, canary_weight(status), inputs)


def _begin_steps(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    if status.phase != PENDING or is_held(status, inputs):
        return None
    if inputs.opens_at is not None and current_step(status).headers:
        return None
    if inputs.available < desired_replicas(status, inputs.replicas) or not inputs.confirmed:
        return None
    return enter_step(status.model_copy(update={"phase": RUNNING}), 1)


def _shift_traffic(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    step = current_step(status)
    if status.phase != RUNNING or step.weight == canary_weight(status) or is_traffic_held(status, inputs):
        return None
    if status.plan.in_place is not None:
        reached = in_place.reachable_weight(inputs.replicas, status.plan.in_place.spare, step.weight, inputs.available)
        if reached < step.weight:
            return move_towards_weight(status, reached, inputs.now) if reached > canary_weight(status) else None
    elif inputs.available < step_replicas(step, inputs.replicas):
        return None
    # Stable would be gone for steps that follow at 100 %.
    if step.weight == 100 and gate_in_force(status) == "none" and step_index(status) == len(status.plan.steps):
        return conclude(status, inputs)
    if inputs.evidence is not None and has_no_warmup(status.plan):
        return begin_evidence(status, step.weight, inputs)
    return with_weight(status, step.weight, inputs.now)


def _begin_shadow_epoch(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Begin an epoch for a second shadow step, so that its copies are counted apart from those of the first."""
    if not shadow_comparison.needs_restart(status):
        return None
    weight, is_warm = canary_weight(status), status.step is not None and status.step.warm
    after = begin_evidence(status, weight, inputs) if is_warm else with_weight(status, weight, inputs.now)
    return after.model_copy(update={"shadow": shadow_comparison.restarted_status(after), "metrics": ()})


def _is_comparable(status: ExperimentStatus) -> bool:
    """Whether both arms have traffic at the weight of the current step at all edges, and stable is fit for comparison."""
    weight = current_step(status).weight
    has_weight = status.epoch.confirmed and weight == canary_weight(status) and weight not in (0, 100)
    has_begun = status.phase == RUNNING and status.step is not None and status.step.since is not None
    return has_begun and has_weight and not baseline_outage.is_paused_for_baseline(status)


def _end_warmup(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """End a step's warm-up: the next epoch counts as evidence."""
    step, evidence = status.step, inputs.evidence
    if evidence is None or step is None or step.warm or not _is_comparable(status):
        return None
    if not has_warmed_up(status, evidence, inputs.now):
        return None
    return begin_evidence(status, canary_weight(status), inputs)


def _learn_thresholds(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Store latency thresholds once they are known, in a new epoch if a gate needs them: slow answers were not counted before."""
    step, evidence = status.step, inputs.evidence
    if evidence is None or step is None or not step.warm or not _is_comparable(status):
        return None
    if not has_learned_thresholds(status, evidence):
        return None
    if needs_threshold([each for each in status.plan.guardrails if each.role == "guardrail"]):
        return begin_evidence(status, canary_weight(status), inputs)
    return with_thresholds(status, evidence)


_RULES: Final = (
    _stop_on_failure,
    _roll_back_on_harm,
    _roll_back_on_copies,
    _roll_back_on_check,
    _pause_on_deadline,
    _hold_step_time,
    _pause_on_mismatch,
    _apply_inconclusive_policy,
    _pause_on_outage,
    _resume_after_outage,
    _begin_steps,
    _shift_traffic,
    _begin_epoch_after_outage,
    _begin_shadow_epoch,
    confirm_epoch,
    _end_warmup,
    _learn_thresholds,
    pass_gate,
    time_out_shadow,
    time_out_evidence,
)
"""Rules in the order in which they are tried; the first one that changes the status ends the tick."""
