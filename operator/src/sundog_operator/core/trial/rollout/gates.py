"""Decide whether the gate of a step opens, and what happens when its time is over."""

from collections.abc import Sequence
from datetime import timedelta

from sundog_operator.api import (
    ExperimentStatus,
    MetricStatus,
    PauseStatus,
    PlanStep,
    Verdict,
    format_duration,
)
from sundog_operator.api.reasons import Cause, EndReason, PauseReason
from sundog_operator.core.trial.phases import RUNNING
from sundog_operator.core.trial.replica_counts import step_replicas
from sundog_operator.core.trial.rollout import prometheus_checks, steps_without_evidence, webhook_urls
from sundog_operator.core.trial.rollout.explanations import describe_missing_evidence
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW, ShadowComparison
from sundog_operator.core.trial.rollout.state import (
    MIN_NO_DATA_DURATION,
    PASSED,
    PROMOTED,
    RolloutInputs,
    canary_weight,
    current_step,
    gate_in_force,
    is_traffic_held,
    next_weight,
    step_index,
)
from sundog_operator.core.trial.rollout.transitions import advance, join_texts, stop, with_decision, with_metrics


def pass_gate(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Return the status after the gate of the current step opened; None while it is closed."""
    step = current_step(status)
    if (
        status.phase != RUNNING
        or status.step is None
        or not status.epoch.confirmed
        or step.weight != canary_weight(status)
    ):
        return None
    if status.step.since is None:
        return status.model_copy(update={"step": status.step.model_copy(update={"since": inputs.now})})
    if is_traffic_held(status, inputs) or not _is_open(status, step, inputs, inputs.now - status.step.since):
        return None
    opened_by = _opened_by(status, step, inputs)
    if gate_in_force(status) != "none" and (lacking := prometheus_checks.find_ignored_check(status)):
        policy = f"{steps_without_evidence.ON_INCONCLUSIVE}, because {lacking}"
        status, opened_by = (
            steps_without_evidence.record_passed(status, (step_index(status),), policy),
            join_texts(opened_by, policy),
        )
    if gate_in_force(status) == "evidence" and next_weight(status) == 100:
        status = with_decision(status, PROMOTED, inputs)
    if inputs.shadow is not None and _is_last_shadow_step(status):
        status = _with_shadow_verdict(status, inputs.shadow)
    return advance(status, inputs, opened_by)


def _is_last_shadow_step(status: ExperimentStatus) -> bool:
    """Whether the current step is the last one with copies, and only a command can promote after it."""
    later = any(step.shadow is not None for step in status.plan.steps[step_index(status) :])
    return status.plan.strategy == SHADOW and gate_in_force(status) == SHADOW and not later


def _with_shadow_verdict(status: ExperimentStatus, compared: ShadowComparison) -> ExperimentStatus:
    """Store the verdict on a canary that only a command promotes."""
    verdict = Verdict(decision=PASSED, winner="", reason=compared.status.message)
    return status.model_copy(update={"verdict": verdict, "shadow": compared.status, "metrics": compared.metrics})


def _is_open(status: ExperimentStatus, step: PlanStep, inputs: RolloutInputs, waited: timedelta) -> bool:
    if gate_in_force(status) != "none" and prometheus_checks.find_blocking_check(status):
        return False
    match gate_in_force(status):
        case "evidence":
            return waited >= step.min_duration and inputs.evidence is not None and inputs.evidence.passed
        case "time":
            return waited >= step.min_duration
        case "webhook":
            return inputs.webhook_result is not None and inputs.webhook_result.confirms
        case "analysis":
            return prometheus_checks.is_analysis_done(status)
        case "scale":
            return inputs.available >= step_replicas(step, inputs.replicas)
        case "shadow":
            return waited >= step.min_duration and inputs.shadow is not None and inputs.shadow.passed
        case "headers":
            return inputs.confirmed
        case "bake":
            return waited >= step.min_duration and _has_counts_of_both_arms(status, inputs)
        case gate:
            return gate == "none"


def _has_counts_of_both_arms(status: ExperimentStatus, inputs: RolloutInputs) -> bool:
    """Whether both arms had requests since the warm-up, and every edge reports: the absence of harm needs data too."""
    evidence = inputs.evidence
    warm = status.step is not None and status.step.warm
    return evidence is not None and warm and not evidence.silent and not evidence.unreachable_edges


def _opened_by(status: ExperimentStatus, step: PlanStep, inputs: RolloutInputs) -> str:
    """Return why the gate opened, in a sentence."""
    duration = format_duration(step.min_duration)
    match gate_in_force(status):
        case "evidence":
            return _describe_passed_metrics(inputs.evidence.metrics if inputs.evidence else ())
        case "time":
            return f"{duration} have passed"
        case "webhook":
            return f"webhook {webhook_urls.redact_url(step.webhook.url) if step.webhook else ''} confirmed"
        case "analysis":
            return prometheus_checks.describe_analysis(status)
        case "scale":
            return f"{inputs.available} replicas are available"
        case "shadow":
            return inputs.shadow.status.message if inputs.shadow else ""
        case "headers":
            return "every edge routes by the headers"
        case "bake":
            before = (status.step.opened_by if status.step else None) or ""
            return join_texts(before, f"baked for {duration} without harm")
        case _:
            return ""


def _describe_passed_metrics(metrics: Sequence[MetricStatus]) -> str:
    """Return the first guardrail's message, and the names of the others that passed."""
    passed = [each for each in metrics if each.role == "guardrail"]
    others = ", ".join(each.name for each in passed[1:])
    return join_texts(*(each.message for each in passed[:1]), f"also passed: {others}" if others else "")


def time_out_shadow(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Apply the policy when the time of a shadow step is over and its copies decide nothing."""
    copies, step = inputs.shadow, current_step(status)
    if copies is None or status.step is None or status.step.since is None or is_traffic_held(status, inputs):
        return None
    with_copies = status.model_copy(update={"shadow": copies.status})
    if step.max_duration is None or inputs.now - status.step.since < step.max_duration:
        return None
    policy, reason = (
        ("pause", PauseReason.NO_DATA) if copies.silent else (status.plan.on_inconclusive, PauseReason.INCONCLUSIVE)
    )
    return _apply_policy(with_copies, inputs, policy, reason)


def time_out_evidence(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus | None:
    """Apply the policy to a step that evidence does not decide. The default only pauses: no data is never success."""
    step, evidence = current_step(status), inputs.evidence
    if status.phase != RUNNING or status.step is None or status.step.since is None or is_traffic_held(status, inputs):
        return None
    if evidence is None or gate_in_force(status) not in ("evidence", BAKE):
        return None
    waited = inputs.now - status.step.since
    silent_for = (
        min(waited, inputs.now - (status.epoch.since or inputs.now)) if status.epoch.confirmed else timedelta(0)
    )
    if (
        evidence.silent
        and status.plan.on_no_data != "hold"
        and silent_for >= max(step.min_duration, MIN_NO_DATA_DURATION)
    ):
        return _apply_policy(status, inputs, status.plan.on_no_data, PauseReason.NO_DATA)
    if step.max_duration is None or waited < step.max_duration:
        return None
    return _apply_policy(
        status,
        inputs,
        "pause" if evidence.silent else status.plan.on_inconclusive,
        PauseReason.NO_DATA if evidence.silent else PauseReason.INCONCLUSIVE,
    )


def _apply_policy(status: ExperimentStatus, inputs: RolloutInputs, policy: str, reason: str) -> ExperimentStatus | None:
    updated = with_metrics(status, inputs)
    unmet = prometheus_checks.find_blocking_check(status)
    match policy:
        case "rollback":
            return stop(updated, Cause(EndReason(reason), describe_missing_evidence(updated)), inputs.now)
        case "promote":
            # The policy replaces evidence, but not the checks of Prometheus.
            return None if unmet else _advance_by_policy(updated, inputs, reason)
        case _:
            return updated.model_copy(
                update={"paused": PauseStatus(reason=reason, since=inputs.now, message=_pause_message(updated, reason))}
            )


def _pause_message(status: ExperimentStatus, reason: str) -> str:
    """Return why a step is paused; empty if its metrics say it."""
    if reason == PauseReason.NO_DATA and status.shadow is not None and gate_in_force(status) == SHADOW:
        return f"it took too long: {status.shadow.message}"
    unmet = prometheus_checks.find_blocking_check(status)
    return f"it took too long: {unmet}" if unmet and reason == PauseReason.INCONCLUSIVE else unmet


def _advance_by_policy(status: ExperimentStatus, inputs: RolloutInputs, reason: str) -> ExperimentStatus | None:
    """Go on by a policy, and record it: evidence does not support this step."""
    missing = "an arm has no requests" if reason == PauseReason.NO_DATA else describe_missing_evidence(status)
    policy = (
        steps_without_evidence.ON_NO_DATA if reason == PauseReason.NO_DATA else steps_without_evidence.ON_INCONCLUSIVE
    )
    known = steps_without_evidence.record_passed(status, (step_index(status),), policy)
    return advance(known, inputs, f"{policy}, although {missing}")
