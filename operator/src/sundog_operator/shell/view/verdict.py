"""Texts on what was decided of a rollout or an Experiment, and why."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import ExperimentStatus, MetricStatus, MetricValue
from sundog_operator.core import metric_text
from sundog_operator.core.trial import phases
from sundog_operator.core.trial.rollout import explanations, state

ONE_SIDED_NOTE: Final = (
    "Verdicts on outcomes are one-sided, at every evaluation. An interval has both ends at that level, "
    "so it is a little wider and may still contain 1, or the allowed ratio of a guardrail."
)

WINNERS_CURSE: Final = (
    "Winner's curse: the estimate at the moment of a win is too good on average, because an experiment ends sooner where chance adds to"
    " the effect. Plan with the end of the interval that is nearer to no effect."
)
_SAME_EVALUATION: Final = timedelta(seconds=1)
"""Times are stored in whole seconds."""
_HEADINGS: Final = {
    "Promoted": "Promoted on evidence",
    "RolledBack": "Rolled back on evidence",
    "Harm": "Every arm did harm",
    "NoWinner": "No arm can win",
}
"""Headings by the verdict's decision."""
_TONES: Final = {"Promoted": "good", "RolledBack": "bad", "Harm": "bad", "NoWinner": "open"}


def make_heading(status: ExperimentStatus) -> tuple[str, str]:
    """Return (heading, tone)."""
    reason = status.verdict.code or ""
    if find_winner(status):
        return describe_win(status), "good"
    if state.is_decided_by_copies(status):
        return _make_shadow_heading(status, reason)
    match status.phase:
        case phases.CONCLUDED | phases.STOPPED if status.verdict.decision in _HEADINGS:
            return _HEADINGS[status.verdict.decision], _TONES[status.verdict.decision]
        case phases.CONCLUDED if status.plan.comparison is not None:
            return f"Ended undecided: {reason}", "open"
        case phases.CONCLUDED:
            return "Promoted, not by evidence", "open"
        case phases.STOPPED:
            return f"Ended without a verdict on evidence: {reason or 'no reason given'}", "open"
        case phases.RUNNING if status.paused is not None:
            return f"Paused: {status.paused.reason}", "open"
        case phases.RUNNING:
            return "Undecided, still running", "open"
    return "Not started", "open"


def _make_shadow_heading(status: ExperimentStatus, reason: str) -> tuple[str, str]:
    """Return (heading, tone) of a candidate that passed by its copies alone."""
    match status.phase:
        case phases.CONCLUDED:
            return "Promoted by command, after its copies passed", "good"
        case phases.STOPPED:
            return f"Its copies passed, but it was not promoted: {reason}", "open"
    return "Its copies passed: promote or abort it", "good"


def explain(status: ExperimentStatus) -> Iterator[str]:
    """Yield the verdict or what it waits for, then the messages of metrics and checks that this does not repeat."""
    step = status.step.reason if status.step else ""
    if phases.is_over(status) or status.verdict.winner or state.is_decided_by_copies(status):
        first = status.verdict.reason
    else:
        first = explanations.describe_pause(status) if status.paused else step or _describe_missing_evidence(status)
    won = find_winner(status)
    if first:
        yield f"When it won: {status.verdict.message}" if won else first
    if won:
        yield WINNERS_CURSE
    yield from _list_messages(status, first, without_verdicts=())
    yield from list_dependent_events(status.metrics)
    if note := find_one_sided_note(status.metrics):
        yield note
    for check in status.checks:
        if check.message and check.message not in first:
            yield check.message


def _describe_missing_evidence(status: ExperimentStatus) -> str:
    """Return why an Experiment is undecided; empty for a rollout, whose step has the reason."""
    if status.plan.comparison is None:
        return ""
    return next((each.message for each in status.conditions if each.type == "Conclusive"), "")


def describe_verdict(status: ExperimentStatus) -> list[str]:
    """Return what was decided, of a win with its time and what is known now; nothing while a rollout is being evaluated."""
    if find_winner(status):
        return [describe_win(status), f"When it won: {status.verdict.message}", WINNERS_CURSE]
    is_evaluated = status.plan.comparison is not None and bool(status.evidence_epochs)
    has_findings = phases.is_over(status) or status.verdict.decision == state.PASSED or is_evaluated
    return [status.verdict.reason] if has_findings and status.verdict.reason else []


def find_winner(status: ExperimentStatus) -> str:
    """Return the winner of a user's Experiment; empty without one."""
    return status.verdict.winner if status.plan.comparison is not None else ""


def list_open_messages(status: ExperimentStatus) -> Iterator[str]:
    """Yield messages of success metrics, undecided guardrails and harm that neither the step nor the verdict repeats."""
    shown = (status.step.reason if status.step else "") + status.verdict.reason
    yield from _list_messages(status, shown, without_verdicts=("Passed", "NoData"))
    if note := find_one_sided_note(status.metrics):
        yield note


def _list_messages(status: ExperimentStatus, shown: str, *, without_verdicts: Sequence[str]) -> Iterator[str]:
    """Yield the messages that `shown` lacks; of guardrails, those without these verdicts."""
    won = find_winner(status)
    for each in status.metrics:
        is_guardrail = each.role == "guardrail" and each.verdict not in without_verdicts
        # The heading has the winner's success metrics, then and now.
        is_relevant = is_guardrail or (each.role == "success" and each.arm != won) or each.verdict == "Harm"
        if is_relevant and each.message and each.message not in shown:
            yield each.message


def list_dependent_events(metrics: Sequence[MetricStatus]) -> Iterator[str]:
    """Yield as how many independent events those of a metric count, where its message does not say so."""
    for metric in metrics:
        text = metric_text.describe_independence(metric)
        if text and text not in metric.message:
            yield f"{metric.name} of {metric.arm}: {text}"


def find_one_sided_note(metrics: Sequence[MetricStatus]) -> str:
    """Return why the interval of a decided outcome contains the ratio that it was tested against; empty if none does."""
    return ONE_SIDED_NOTE if any(map(_contains_tested_ratio, metrics)) else ""


def _contains_tested_ratio(metric: MetricStatus) -> bool:
    # Guardrails of the edge have a basis, and intervals of their own tests.
    is_guardrail = metric.role == "guardrail" and not metric.basis
    tested = metric.allowed if is_guardrail else 1.0
    if tested is None or not metric.interval:
        return False
    lower, upper = (*metric.interval, math.inf)[:2]
    return metric.verdict in (("Passed", "Harm") if is_guardrail else ("Better", "Worse")) and lower <= tested <= upper


def find_end(status: ExperimentStatus) -> datetime | None:
    """Return when it ended; None while it runs."""
    if not phases.is_over(status):
        return None
    ended = next((each for each in status.conditions if each.type == "Running" and each.status == "False"), None)
    return ended.last_transition_time if ended else status.epoch.since


def describe_win(status: ExperimentStatus) -> str:
    """Return when the winner won, by what it was better then, and the same number now: both estimates of one metric have a time."""
    winner = status.verdict.winner
    ended = next((each for each in status.conditions if each.type == "Conclusive" and each.status == "True"), None)
    at = ended.last_transition_time if ended is not None else find_end(status)
    own = [each for each in status.metrics if each.role == "success" and each.arm == winner]
    now = next((each for each in own if each.verdict == "Better"), own[0] if own else None)
    heading = f"{winner} won" if at is None else f"{winner} won at {at:%Y-%m-%d %H:%M} UTC"
    if now is None:
        return heading
    present = f"{'at the end' if phases.is_over(status) else 'now'} {metric_text.summarize_values(now)}"
    is_later = at is not None and bool(status.history) and status.history[-1].at > at + _SAME_EVALUATION
    then = _find_metric_at(status, now, at) if at is not None and is_later else None
    if then is None:
        return f"{heading}: {now.name} {metric_text.summarize_values(now)}"
    return f"{heading} with {now.name} {metric_text.summarize_values(then)}; {present}"


def _find_metric_at(status: ExperimentStatus, metric: MetricStatus, at: datetime) -> MetricStatus | None:
    """Return a metric as the history has it at a time or soon before; None if it has not."""
    points = [each for each in status.history if each.at <= at + _SAME_EVALUATION]
    found = (
        each
        for each in (points[-1].metrics or () if points else ())
        if (each.name, each.role, each.arm) == (metric.name, metric.role, metric.arm)
    )
    if (known := next(found, None)) is None:
        return None
    values = None
    if known.values is not None and known.units is not None and len(known.values) == len(known.units):
        pairs = zip(known.values, known.units, strict=True)
        values = tuple(MetricValue(value=value, count=count) for value, count in pairs)
    ends = () if known.lower is None else (known.lower,) if known.upper is None else (known.lower, known.upper)
    return metric.model_copy(update={"ratio": known.ratio, "interval": ends, "values": values, "basis": ""})
