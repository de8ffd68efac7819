"""What a rollout waits for, in words."""

from collections.abc import Callable
from datetime import timedelta

from sundog_operator.api import (
    ExperimentStatus,
    PlanStep,
    StepStatus,
    format_duration,
    format_timestamp,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import WebhookResult
from sundog_operator.core.rollout import (
    header_match,
    prometheus_checks,
    shadow_comparison,
    webhook_urls,
    windows,
)
from sundog_operator.core.rollout.evaluation import CONTROL_DEGRADED, CONTROL_UNHEALTHY
from sundog_operator.core.rollout.freeze import BAKE
from sundog_operator.core.rollout.shadow_comparison import SHADOW
from sundog_operator.core.rollout.state import (
    MANUAL,
    WAITS_FOR_PROMOTE,
    RolloutInputs,
    canary_weight,
    current_step,
    gate_in_force,
    is_held,
    replicas_waited_for,
    step_index,
    wanted_replicas,
)
from sundog_operator.core.rollout.transitions import join_texts, with_reason


def promotion_reason(status: ExperimentStatus) -> str:
    """By what a candidate became stable, in a sentence."""
    _, _, told = status.verdict.reason.partition(": ")
    return join_texts(told, (status.step.opened_by if status.step else None) or "")


def weight_change_reason(status: ExperimentStatus) -> str:
    """By what the weights became what they are, in a sentence; empty where nothing had to say so."""
    if status.giving_back is not None:
        return f"{status.giving_back.reason}: {status.giving_back.message}"
    return (status.step.opened_by if status.step else None) or ""


def step_entered_without_shift(before: ExperimentStatus, after: ExperimentStatus) -> StepStatus | None:
    """The step that began with the gate before it, where no traffic moves for it; else None."""
    begins = before.step is not None and step_index(before) < step_index(after)
    return after.step if begins and current_step(after).weight == canary_weight(after) else None


def describe_missing_evidence(status: ExperimentStatus) -> str:
    """What a gate of evidence waits for, or one that compares copies, by what the status says is known."""
    if gate_in_force(status) == SHADOW:
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


def explain(status: ExperimentStatus, seen: RolloutInputs) -> ExperimentStatus:
    """Say what the attempt waits for. No text changes with time alone, or status would change at every tick."""
    step = with_reason(status, _waiting_for(status, seen))
    if step is None:
        return status
    short = not is_held(status, seen) and replicas_waited_for(status, seen.replicas, seen.available) > 0
    since = (step.short_since or seen.now) if short else None
    return status.model_copy(update={"step": step.model_copy(update={"short_since": since})})


def _waiting_for(status: ExperimentStatus, seen: RolloutInputs) -> str:
    step, needed = current_step(status), wanted_replicas(status, seen.replicas)
    unmet = prometheus_checks.find_blocking_check(status)
    explanations: tuple[tuple[bool, Callable[[], str]], ...] = (
        (seen.held, lambda: "held by the spec"),
        (status.paused is not None, lambda: describe_pause(status)),
        (seen.opens_at is not None, lambda: windows.describe_closed_windows(seen.opens_at or seen.now)),
        (
            not status.epoch.confirmed or (gate_in_force(status) == header_match.HEADERS and not seen.confirmed),
            lambda: "waits for the edges to confirm the split",
        ),
        (seen.available < needed, lambda: _short(seen, needed)),
        (gate_in_force(status) == "manual", lambda: WAITS_FOR_PROMOTE),
        (gate_in_force(status) != "none" and unmet != "", lambda: f"waits until it is good: {unmet}"),
        (gate_in_force(status) == "time", lambda: f"collects for {step.min_duration.total_seconds():g} s"),
        (gate_in_force(status) == "evidence", lambda: _collecting(status)),
        (gate_in_force(status) == "webhook", lambda: _asking(step, seen.answer)),
        (gate_in_force(status) == "analysis", lambda: prometheus_checks.describe_analysis(status)),
        (gate_in_force(status) == SHADOW, lambda: describe_missing_evidence(status)),
        (gate_in_force(status) == BAKE, lambda: _baking(status, seen)),
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
