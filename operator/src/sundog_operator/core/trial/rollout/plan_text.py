"""Text of a frozen plan."""

from collections.abc import Sequence
from typing import Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    ExperimentStatus,
    FrozenPlan,
    PlanShadow,
    PlanStep,
    ShadowStatus,
    format_duration,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.text import format_count
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import format_latency
from sundog_operator.core.trial.rollout import freeze, header_match, prometheus_checks

_GATES: Final = {
    "manual": "manual gate",
    "evidence": "evidence",
    "webhook": "a webhook confirms",
    "analysis": "an analysis passes",
    "shadow": "copies compared",
    "none": "no gate",
}


def format_steps(steps: Sequence[PlanStep]) -> str:
    """Format steps in one line, such as `25 % (manual gate) → 100 %`."""
    return " → ".join(
        f"{step.weight} %" + ("" if step.gate == "none" else f" ({describe_gate(step)})") for step in steps
    )


def describe_guardrails(plan: FrozenPlan) -> str:
    """Describe the guardrails of a plan, such as `errorRate within 25 %, oom at most 0`; empty if there are none."""
    metrics = [f"{each.metric} within {each.margin * 100:g} %" for each in plan.guardrails if each.role == "guardrail"]
    metrics += [f"{each.name} within {(each.margin or 0) * 100:g} %" for each in plan.outcomes or ()]
    return ", ".join((*metrics, *(f"{each.name} {prometheus_checks.format_limits(each)}" for each in plan.checks)))


def describe_shadow(shadow: PlanShadow) -> str:
    """Describe a shadow step, such as `20 % copied, 99.5 % agree by argmax`."""
    agreement = (
        ""
        if shadow.min_agreement is None
        else f", {shadow.min_agreement * 100:g} % agree by {describe_comparator(shadow)}"
    )
    latency = "" if shadow.latency_margin is None else f", latencyP99 within {shadow.latency_margin * 100:g} %"
    return f"{shadow.percent} % copied{agreement}{latency}"


def describe_alpha(plan: FrozenPlan) -> str:
    """Describe the error rates of a plan, such as `0.05, the error of each direction`."""
    whole = plan.alpha or DEFAULT_ALPHA
    text = f"{whole:g}, the error of each direction"
    if plan.harm_shares is not None:
        traffic = " and for traffic" if plan.guardrails else ""
        text = f"{text}; to roll back, {whole / plan.harm_shares:.3g} for each shadow step{traffic}"
    if plan.early_harm is not None:
        text = f"{text}; {freeze.early_alpha(plan):.3g} to roll back on errors in the canary's first blocks"
    return text


def describe_attempt(attempt: int, alpha: float | None) -> str:
    """Describe that the errors of attempts add up, such as `attempt 2 of this revision, with an alpha of its own: …`."""
    whole = DEFAULT_ALPHA if alpha is None else alpha
    return (
        f"attempt {attempt} of this revision, with an alpha of its own of {whole:g}: the chance that one of them promotes a revision"
        f" that is worse than its margin adds up to at most {min(1.0, attempt * whole):.3g}"
    )


def describe_comparator(shadow: PlanShadow) -> str:
    """Describe the comparator of answers, such as `argmax at $.outputs` or `custom in 2 parts`."""
    if shadow.parts is not None:
        return f"{shadow.by} in {len(shadow.parts)} part{'s' if len(shadow.parts) > 1 else ''}"
    return shadow.by + (f" at {shadow.path}" if shadow.path else "")


def describe_copies(shadow: ShadowStatus) -> str:
    """Describe the results of copies, in a sentence."""
    text = (
        f"{format_count(shadow.sent, 'copy', 'copies')} of {format_count(shadow.sampled, 'sampled request')}: {shadow.agreed} agree,"
        f" {shadow.disagreed} do not, {format_count(shadow.errors, 'error')}, {format_count(shadow.timeouts, 'timeout')};"
        f" {shadow.dropped} dropped and {shadow.skipped} left out"
    )
    later, known = shadow.latency_difference_microseconds, shadow.latency_difference_interval
    if later is None:
        return text
    between = f", known to be between {_later(known[0])} and {_later(known[1])}" if known else ""
    return f"{text}; at the median {_later(later)} than stable{between}, the mirror's own time included"


def _later(microseconds: int) -> str:
    return f"{format_latency(abs(microseconds))} {'later' if microseconds >= 0 else 'earlier'}"


def describe_header_requests(status: ExperimentStatus) -> str | None:
    """Describe the requests that chose the canary, in a sentence; None if there were none."""
    canary = next((arm for arm in status.arms if arm.name == names.CANARY and arm.header_requests), None)
    if canary is None:
        return None
    return f"{canary.header_requests} requests, {canary.header_errors or 0} errors; they do not count as evidence"


def describe_gate(step: PlanStep) -> str:
    """Describe the gate of a step, such as `for 10m` or `manual gate`."""
    match step.gate:
        case "time":
            return f"for {format_duration(step.min_duration)}"
        case "scale":
            return replica_counts.describe_scale(step)
        case "headers":
            return header_match.format_headers(step.headers or ())
        case "bake":
            return f"bakes for {format_duration(step.min_duration)}"
        case other:
            return _GATES.get(other, other)
