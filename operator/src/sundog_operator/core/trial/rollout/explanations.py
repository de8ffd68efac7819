"""Texts that explain what a rollout waits for, and why it advanced."""

from collections.abc import Callable
from datetime import timedelta

from sundog_operator.api import (
    ExperimentStatus,
    PlanStep,
    StepStatus,
    format_duration,
    format_timestamp,
)
from sundog_operator.api.reasons import Cause, PauseReason
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.trial import baseline_outage
from sundog_operator.core.trial.rollout import header_match, prometheus_checks, shadow_comparison, webhook_urls, windows
from sundog_operator.core.trial.rollout.freeze import BAKE
from sundog_operator.core.trial.rollout.shadow_comparison import SHADOW
from sundog_operator.core.trial.rollout.state import (
    WAITS_FOR_PROMOTE,
    RolloutInputs,
    canary_weight,
    current_step,
    desired_replicas,
    gate_in_force,
    is_held,
    replicas_waited_for,
    step_index,
)
from sundog_operator.core.trial.rollout.transitions import join_texts, with_reason


def promotion_reason(status: ExperimentStatus) -> str:
    """Return why the canary was promoted, in a sentence."""
    return join_texts(status.verdict.message, (status.step.opened_by if status.step else None) or "")


def weight_change_reason(status: ExperimentStatus) -> str:
    """Return why the weights changed, in a sentence; empty if no reason is stored."""
    if status.giving_back is not None:
        return str(Cause(status.giving_back.reason, status.giving_back.message))
    return (status.step.opened_by if status.step else None) or ""


def step_entered_without_shift(before: ExperimentStatus, after: ExperimentStatus) -> StepStatus | None:
    """Return the step that began when a gate opened, if its weight is the same as before; else None."""
    begins = before.step is not None and step_index(before) < step_index(after)
    return after.step if begins and current_step(after).weight == canary_weight(after) else None


def describe_missing_evidence(status: ExperimentStatus) -> str:
    """Describe what an evidence gate or a shadow gate waits for, from the status alone."""
    if gate_in_force(status) == SHADOW:
        known = status.shadow.message if status.shadow else shadow_comparison.NO_COPY_ANSWERED
        duration = current_step(status).min_duration
        return f"copies requests for {format_duration(duration)}: {known}" if duration else known
    guardrails = [each for each in status.metrics if each.role == "guardrail"]
    # The gate opens when the last guardrail passes: the one with the latest ETA, or with none, blocks it.
    blocking = sorted(
        (each for each in guardrails if each.verdict != "Passed"),
        key=lambda each: (each.eta is not None, -each.eta if each.eta is not None else timedelta(0)),
    )
    least = format_duration(current_step(status).min_duration)
    passed = f"every guardrail has passed; a step takes at least {least}, with two minutes of evidence"
    return blocking[0].message if blocking else passed if guardrails else "collects evidence"


def explain(status: ExperimentStatus, inputs: RolloutInputs) -> ExperimentStatus:
    """Store what the attempt waits for. No text changes with time alone, or the status would change at every tick."""
    obstacle = _find_obstacle(status, inputs)
    step = with_reason(status, obstacle or _describe_gate(status, inputs))
    if step is None:
        return status
    code = PauseReason.WAITS_FOR_PROMOTE if not obstacle and gate_in_force(status) == "manual" else None
    short = not is_held(status, inputs) and replicas_waited_for(status, inputs.replicas, inputs.available) > 0
    since = (step.short_since or inputs.now) if short else None
    return status.model_copy(update={"step": step.model_copy(update={"code": code, "short_since": since})})


def _find_obstacle(status: ExperimentStatus, inputs: RolloutInputs) -> str:
    """Return what a rollout waits for before its gate counts; empty for nothing."""
    needed = desired_replicas(status, inputs.replicas)
    obstacles: tuple[tuple[bool, Callable[[], str]], ...] = (
        (inputs.held, lambda: "held by the spec"),
        (status.paused is not None, lambda: describe_pause(status)),
        (inputs.opens_at is not None, lambda: windows.describe_closed_windows(inputs.opens_at or inputs.now)),
        (
            not status.epoch.confirmed or (gate_in_force(status) == header_match.HEADERS and not inputs.confirmed),
            lambda: "waits for the edges to confirm the split",
        ),
        (inputs.available < needed, lambda: _describe_missing_replicas(inputs, needed)),
    )
    return next((text() for holds, text in obstacles if holds), "")


def _describe_gate(status: ExperimentStatus, inputs: RolloutInputs) -> str:
    """Describe what the gate of the current step waits for."""
    step, unmet = current_step(status), prometheus_checks.find_blocking_check(status)
    explanations: tuple[tuple[bool, Callable[[], str]], ...] = (
        (gate_in_force(status) == "manual", lambda: WAITS_FOR_PROMOTE),
        (gate_in_force(status) != "none" and unmet != "", lambda: f"waits for a check to pass: {unmet}"),
        (gate_in_force(status) == "time", lambda: f"waits {step.min_duration.total_seconds():g} s"),
        (gate_in_force(status) == "evidence", lambda: _describe_evidence_gate(status)),
        (gate_in_force(status) == "webhook", lambda: _describe_webhook(step, inputs.webhook_result)),
        (gate_in_force(status) == "analysis", lambda: prometheus_checks.describe_analysis(status)),
        (gate_in_force(status) == SHADOW, lambda: describe_missing_evidence(status)),
        (gate_in_force(status) == BAKE, lambda: _describe_bake(status, inputs)),
    )
    return next((text() for holds, text in explanations if holds), "shifts traffic")


def _describe_missing_replicas(inputs: RolloutInputs, needed: int) -> str:
    serving = inputs.available if inputs.serving is None else inputs.serving
    if serving < needed:
        return f"waits for replicas: {serving} of {needed} are available"
    return f"waits until Ray Serve reports it ready: {serving} of {needed} replicas are available"


def _describe_bake(status: ExperimentStatus, inputs: RolloutInputs) -> str:
    planned, begun = current_step(status), status.step.since if status.step else None
    if begun is None or inputs.now < begun + planned.min_duration:
        until = "" if begun is None else f" until {format_timestamp(begun + planned.min_duration)}"
        return f"bakes{until}: {names.STABLE} keeps {100 - planned.weight} %, and harm rolls back"
    unreachable_edges = inputs.evidence.unreachable_edges if inputs.evidence else ()
    if unreachable_edges:
        return f"has baked; waits for the counters of {', '.join(unreachable_edges)}"
    return "has baked; waits for requests to both revisions, because no data is not success"


def _describe_webhook(step: PlanStep, answer: WebhookResult | None) -> str:
    url = webhook_urls.redact_url(step.webhook.url) if step.webhook else ""
    return f"asks webhook {url}" if answer is None else f"webhook {url} {answer.description}; asks again"


def describe_pause(status: ExperimentStatus) -> str:
    """Describe why the rollout is paused."""
    match status.paused.reason if status.paused else PauseReason.MANUAL:
        case PauseReason.INCONCLUSIVE:
            return _describe_long_step(status)
        case PauseReason.NO_DATA if gate_in_force(status) == SHADOW:
            return _describe_long_step(status)
        case PauseReason.NO_DATA:
            return "paused because an arm has no requests"
        case PauseReason.PROGRESS_DEADLINE_EXCEEDED:
            return f"paused because it was {status.paused.message if status.paused else 'not ready in time'}"
        case PauseReason.SAMPLE_RATIO:
            return "paused because requests do not follow the weights (sample-ratio mismatch)"
        case reason if status.paused is not None and reason in baseline_outage.OUTAGE_REASONS:
            return f"paused until {names.STABLE} has been healthy for 5 minutes: {status.paused.message}"
        case _:
            return "paused by command"


def _describe_long_step(status: ExperimentStatus) -> str:
    """Describe why a step paused that evidence or copies decide. Without a message, its time is over and its metrics say why."""
    message = status.paused.message if status.paused else ""
    return f"paused because {message or f'it took too long: {describe_missing_evidence(status)}'}"


def _describe_evidence_gate(status: ExperimentStatus) -> str:
    if status.step is None or status.step.warm:
        return describe_missing_evidence(status)
    return "warms up; these requests do not count as evidence"
