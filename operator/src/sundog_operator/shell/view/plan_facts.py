"""Describe a frozen plan in words."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from sundog_operator.api import (
    ExperimentStatus,
    FrozenPlan,
    PlanComparison,
    PlanGuardrail,
    PlanOutcome,
    PlanStep,
    format_duration,
    is_latency_metric,
)
from sundog_operator.core.kubernetes import names
from sundog_operator.core.trial import phases, replica_counts
from sundog_operator.core.trial.default_plan import format_latency
from sundog_operator.core.trial.rollout import header_match, plan_text, prometheus_checks, state, webhook_urls
from sundog_operator.shell.view.layout import format_span, grid

_INCONCLUSIVE: Final = {
    "pause": "then it pauses",
    "rollback": "then stable gets all traffic",
    "promote": "then it passes without evidence",
}
"""Result of a step that takes too long, by `onInconclusive`."""


def steps_section(status: ExperimentStatus) -> RenderableType:
    """Return the steps of a plan as a table."""
    table = grid("STEP", "WEIGHT", "GATE", "", header=True)
    current = status.step.index if status.step else 0
    is_concluded = status.phase == phases.CONCLUDED
    without_evidence = {each.step: f"passed without evidence, by {each.by}" for each in status.without_evidence or ()}
    for index, step in enumerate(status.plan.steps, start=1):
        if is_concluded or index < current:
            progress = without_evidence.get(index, "passed")
        elif index == current and status.step is not None:
            progress = f"now: {status.step.reason}"
        else:
            progress = ""
        table.add_row(*map(Text, (str(index), f"{step.weight} %", _describe_gate(step), progress)))
    return table


def _describe_gate(step: PlanStep) -> str:
    match step.gate:
        case "time":
            return f"for {format_duration(step.min_duration)}"
        case "bake":
            return f"bake {format_duration(step.min_duration)}, {100 - step.weight} % with stable"
        case "evidence":
            longest = f" to {format_duration(step.max_duration)}" if step.max_duration is not None else ""
            return f"evidence, {format_duration(step.min_duration)}{longest}"
        case "shadow" if step.shadow is not None:
            longest = f", up to {format_duration(step.max_duration)}" if step.max_duration is not None else ""
            return f"{plan_text.describe_shadow(step.shadow)}{longest}"
        case "webhook" if step.webhook is not None:
            return f"webhook {webhook_urls.redact_url(step.webhook.url)}"
        case "analysis" if step.analysis is not None:
            times = f", {step.analysis.count} times" if step.analysis.count > 1 else ""
            return f"analysis {step.analysis.name} {prometheus_checks.format_limits(step.analysis)}{times}"
        case "scale":
            return replica_counts.describe_scale(step)
        case "headers":
            return f"headers {header_match.format_headers(step.headers or ())}"
        case gate:
            return gate


def checks_section(status: ExperimentStatus) -> RenderableType:
    """Return the Prometheus checks of a plan as a table."""
    table = grid("CHECK", "ALLOWED", "VERDICT", "", header=True)
    for check, result in zip(status.plan.checks, prometheus_checks.check_statuses(status), strict=True):
        limits = prometheus_checks.format_limits(check)
        table.add_row(*map(Text, (check.name, limits, result.verdict or "none yet", result.message)))
    return table


def plan_section(status: ExperimentStatus, attempt: str, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the limits of a plan with evidence gates, and the time of the current step. `attempt` is the Experiment's UID."""
    plan = status.plan
    traffic = plan.requests_per_second
    yield "traffic", "unknown at its start" if traffic is None else f"{traffic:.3g} requests a second at its start"
    yield from guardrail_facts(plan)
    yield from error_facts(plan)
    if plan.comparison is not None:
        yield "ends", describe_end_conditions(plan.comparison)
    yield from outcome_facts(plan)
    if not phases.is_over(status) and (warning := _find_undecidable_step(plan)):
        yield "warning", warning
    if not phases.is_over(status) and (timing := "; ".join(_describe_timing(status, attempt, now))):
        yield "this step", timing


def guardrail_facts(plan: FrozenPlan) -> Iterator[tuple[str, str]]:
    """Yield each guardrail with its limit."""
    for guardrail in plan.guardrails:
        yield guardrail.metric, describe_guardrail_limit(guardrail, baseline_arm(plan))


def error_facts(plan: FrozenPlan) -> Iterator[tuple[str, str]]:
    """Yield the errors of the plan's tests, and what it means for them that this is not the first attempt of a rollout."""
    if plan.alpha is not None and (plan.guardrails or plan.harm_shares):
        yield "alpha", plan_text.describe_alpha(plan)
    if plan.attempt is not None and plan.alpha is not None:
        yield "attempt", plan_text.describe_attempt(plan.attempt, plan.alpha)


def _find_undecidable_step(plan: FrozenPlan) -> str:
    # The import loads numpy, which is slow and rarely needed.
    from sundog_operator.core.forecast.gate_forecast import find_undecidable_step

    return find_undecidable_step(plan)


def outcome_facts(plan: FrozenPlan) -> Iterator[tuple[str, str]]:
    """Yield each outcome with its role and goal."""
    for outcome in planned_outcomes(plan):
        yield outcome.name, f"{outcome.role}: {describe_outcome_goal(outcome, baseline_arm(plan))}"


def planned_outcomes(plan: FrozenPlan) -> tuple[PlanOutcome, ...]:
    """Return the outcomes of an Experiment or of a rollout."""
    return (plan.outcomes or ()) if plan.comparison is None else plan.comparison.outcomes


def describe_outcome_goal(outcome: PlanOutcome, baseline: str) -> str:
    """Describe the better direction of an outcome and its minimum effect, or how much worse a guardrail may be."""
    cap = f", at most {outcome.cap:.12g} by unit," if outcome.cap is not None else ""
    cap += _describe_window(outcome)
    adjusted = f", adjusted by {outcome.covariate} before the exposure," if outcome.covariate else ""
    if outcome.metric is not None:
        answers = (
            "share of answers above " + baseline + "'s" if is_latency_metric(outcome.metric) else "share of requests"
        )
        return f"{answers} should {outcome.goal}{_describe_minimum(outcome)}"
    what = f"{outcome.type} of {outcome.feedback}{f' to {outcome.denominator}' if outcome.denominator else ''}{cap}{adjusted}"
    if outcome.margin is not None:
        direction = "below" if outcome.goal == "increase" else "above"
        return f"{what} may be up to {_percent(outcome.margin)} {direction} {baseline}'s"
    return f"{what} should {outcome.goal}{_describe_minimum(outcome)}"


def _describe_minimum(outcome: PlanOutcome) -> str:
    return f", by {_percent(outcome.minimum_effect)} or more" if outcome.minimum_effect else ""


def _describe_window(outcome: PlanOutcome) -> str:
    if outcome.window is None:
        return ""
    if outcome.after is None:
        return f" within {format_duration(outcome.window)} of the first exposure"
    return f" from {format_duration(outcome.after)} to {format_duration(outcome.window)} after the first exposure"


_WIN_RULES: Final[Mapping[str, str]] = {
    "everyMetric": "; an arm wins when every success metric is better and every guardrail has passed",
    "noHarm": "; an arm wins when no success metric is worse and every guardrail has passed",
}


def describe_end_conditions(comparison: PlanComparison) -> str:
    """Describe what ends an Experiment."""
    limits = f"after {format_duration(comparison.max_duration)} or {comparison.max_units} units"
    if not any(each.role == "success" for each in comparison.outcomes):
        return limits
    win = "when an arm has won or none can" if comparison.on_win == "none" else "when no arm can win"
    return f"{win}, {limits}{_WIN_RULES[comparison.win_by] if comparison.win_by else ''}"


def baseline_arm(plan: FrozenPlan) -> str:
    """Return the arm that others are compared with: control of an Experiment, stable of a rollout."""
    return names.STABLE if plan.comparison is None else names.CONTROL


def describe_guardrail_limit(guardrail: PlanGuardrail, baseline: str) -> str:
    """Describe how much worse than the baseline a candidate, or an arm, may be."""
    if guardrail.role == "measured":
        threshold, own = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
        if threshold is None or own is None:
            return f"counts answers above {baseline}'s, not known yet"
        return f"counts answers above {format_latency(own)}, of {baseline} above {format_latency(threshold)}"
    if guardrail.role == "harm":
        more = "longer" if is_latency_metric(guardrail.metric) else "more"
        return f"for harm only, from {_percent(guardrail.margin)} {more} than {baseline}; no gate waits for it"
    if not is_latency_metric(guardrail.metric):
        floor = f", or {_percent(guardrail.floor)} of all requests" if guardrail.floor else ""
        maximum = f"; at most {_percent(guardrail.max)} of its requests" if guardrail.max else ""
        return f"up to {_percent(guardrail.margin)} more than {baseline}{floor}{maximum}"
    stable, candidate = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
    maximum = f"; at most {format_latency(guardrail.max_microseconds)}" if guardrail.max_microseconds else ""
    if stable is None or candidate is None:
        return f"up to {_percent(guardrail.margin)} longer than {baseline}, whose latency is not known yet{maximum}"
    return f"no more responses above {format_latency(candidate)} than {baseline} has above {format_latency(stable)}{maximum}"


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _describe_timing(status: ExperimentStatus, attempt: str, now: datetime) -> Iterator[str]:
    """Yield the remaining times of the current step."""
    step = status.step
    if step is None or step.since is None or not status.plan.steps:
        return
    planned = state.current_step(status)
    if state.is_baking(status):
        left = step.since + planned.min_duration - now
        if status.paused is not None or step.held_since is not None:
            yield "its time is paused"
        elif left > timedelta(0):
            yield f"promoted in {format_span(left)}, unless it does harm"
    if step.gate != "evidence":
        return
    if not step.warm:
        requests, duration = status.plan.warmup_requests, format_duration(status.plan.warmup_duration)
        yield f"warms up until {requests} requests of the candidate or {duration}"
    left = max(step.since + planned.min_duration - now, _time_until_enough_data(status, attempt, now))
    if left > timedelta(0):
        yield f"takes at least {format_span(left)} more"
    if planned.max_duration is not None and status.paused is None and step.held_since is None:
        left = max(step.since + planned.max_duration - now, timedelta(0))
        yield f"inconclusive in {format_span(left)}, {_INCONCLUSIVE[status.plan.on_inconclusive]}"


def _time_until_enough_data(status: ExperimentStatus, attempt: str, now: datetime) -> timedelta:
    """Return how long the gate lacks data at least; not above zero if it may have enough by now."""
    # The import loads numpy, which is slow and rarely needed.
    from sundog_operator.core.analysis.least_evidence import missing_data_time

    missing = missing_data_time(status, attempt)
    if status.step is None or not status.step.warm or status.counted_at is None:
        return missing
    return missing - max(now - status.counted_at, timedelta(0))
