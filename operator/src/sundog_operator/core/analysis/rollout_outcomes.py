"""Evaluation of a rollout's guardrails that are outcomes from feedback. Pure.

Each unit counts in the epoch and arm of its first exposure. A gate tests all epochs so far; the last one before all traffic tests the
newest epoch alone, as for errors. With sticky units every gate tests only the latest epochs of its own weight: some units that stable had
at an earlier weight are the canary's now, and their later outcomes would make the arms more alike. That hides a worse canary from a gate,
but never makes a harmless one harmful. So harm is tested on all epochs. An epoch that restarts at the same weight moves no unit.

The level of harm is that of each other metric. Passing needs every guardrail, so it shares no error.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Final

from sundog_operator.api import EvidenceEpoch, ExperimentStatus, MetricStatus, PlanOutcome
from sundog_operator.api.reasons import Cause, ExperimentReason
from sundog_operator.core.analysis import data_loss, feedback, outcome_epochs
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, CollectedCounts, EvaluationLimits, decides
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.outcome_status import (
    count_events,
    make_metric,
    make_status,
    make_values,
    mark_unreported,
)
from sundog_operator.core.edge import units
from sundog_operator.core.stats import outcome_comparison
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

GUARDRAIL: Final = "guardrail"


def make_feedback_selection(service: str, attempt: str, status: ExperimentStatus) -> feedback.FeedbackSelection | None:
    """Return the selection of outcomes to keep from the edges' reports; None without outcomes, and before the evidence."""
    outcomes, epochs = status.plan.outcomes or (), _comparable_epochs(status.evidence_epochs)
    if not outcomes or not epochs:
        return None
    return outcome_epochs.select_sums(service, attempt, outcomes, _numbers(epochs), ROLLOUT_PAIR.both)


def find_problem(
    status: ExperimentStatus,
    limits: EvaluationLimits,
    collected: CollectedCounts,
    feedback_problem: Cause | None,
    mismatch: str,
) -> Cause | None:
    """Return why the outcomes open no gate; None if they may, or if the plan has none."""
    if not status.plan.outcomes:
        return None
    if feedback_problem is not None:
        return feedback_problem
    if mismatch:
        # The test of rates relies on the split.
        return Cause(ExperimentReason.SAMPLE_RATIO_MISMATCH, mismatch)
    # Many requests at earlier weights must not hide a loss at the weight of the gate.
    known = _comparable_epochs(status.evidence_epochs)
    found = (
        data_loss.find_data_loss(collected, ROLLOUT_PAIR.both, _numbers(epochs), until="no gate opens by outcomes")
        for epochs in (known, _gate_epochs(limits, known))
    )
    return next(filter(None, found), None)


def evaluate_outcomes(
    status: ExperimentStatus, limits: EvaluationLimits, collected: CollectedCounts, problem: Cause | None
) -> tuple[MetricStatus, ...]:
    """Return the status of each outcome of the plan. With a problem no gate opens by them; `_allows_harm` says whether harm is found."""
    planned = status.plan.outcomes or ()
    if not planned:
        return ()
    known = _comparable_epochs(status.evidence_epochs)
    of_gate = _gate_epochs(limits, known)
    gates = _count_epochs(status, collected.tallies, planned, of_gate)
    harms = _count_epochs(status, collected.tallies, planned, known)
    metrics = [
        _make_status(outcome, gates, harms, index, findings, limits.levels.alpha)
        for index, (outcome, findings) in enumerate(
            zip(planned, _test(planned, gates, harms, limits, _elapsed_s(status, collected, gates)), strict=True)
        )
    ]
    if problem is not None:
        counts_harm = _allows_harm(status, collected, problem)
        return tuple(
            each
            if counts_harm and each.verdict == OutcomeVerdict.HARM
            else _without_verdict(each, f"{each.name}: {problem.message}")
            for each in metrics
        )
    if limits.has_sticky_units and len(of_gate) < sum(decides(limits, each) for each in known):
        return tuple(_explain_new_units(each) for each in metrics)
    return tuple(metrics)


def _allows_harm(status: ExperimentStatus, collected: CollectedCounts, problem: Cause) -> bool:
    """Whether harm can be found despite a problem.

    A full store refuses later units and outcomes of both arms alike, and has the earlier ones. Lines that were lost at the weight of the
    gate may be few among those of all weights, on which harm is tested.
    """
    epochs = _numbers(_comparable_epochs(status.evidence_epochs))
    return problem.reason in (ExperimentReason.FEEDBACK_OVERFLOW, ExperimentReason.REQUESTS_LOST) and (
        data_loss.find_data_loss(collected, ROLLOUT_PAIR.both, epochs, until="", has_all_units=True) is None
    )


def _comparable_epochs(epochs: Sequence[EvidenceEpoch]) -> list[EvidenceEpoch]:
    """Return the epochs in which both arms have traffic and stable is a fit baseline."""
    return [each for each in epochs if 0 < each.weight < 100 and not each.troubled]


def _gate_epochs(limits: EvaluationLimits, known: Sequence[EvidenceEpoch]) -> list[EvidenceEpoch]:
    """Return the epochs on which the gate is tested, oldest first."""
    deciding = [each for each in known if decides(limits, each)]
    if limits.has_sticky_units:
        latest = takewhile(lambda each: each.weight == deciding[-1].weight, reversed(deciding))
        return list(latest)[::-1]
    return deciding[-1:]


def _numbers(epochs: Sequence[EvidenceEpoch]) -> list[int]:
    return [each.number for each in epochs]


def _count_epochs(
    status: ExperimentStatus, counted: Counters, planned: Sequence[PlanOutcome], epochs: Sequence[EvidenceEpoch]
) -> list[OutcomeEpoch]:
    """Return the outcomes of both arms by epoch."""
    shares = [(each.number, (100 - each.weight, each.weight)) for each in epochs]
    is_sticky = units.is_sticky(status.plan)
    return outcome_epochs.count_epochs(counted, planned, ROLLOUT_PAIR.both, shares, is_sticky=is_sticky)


def _elapsed_s(status: ExperimentStatus, collected: CollectedCounts, gates: Sequence[OutcomeEpoch]) -> float:
    """Return the seconds that the units of the gate took, at the rate of the newest epoch; NaN if that is over or unknown."""
    newest = status.evidence_epochs[-1] if status.evidence_epochs else None
    if not gates or newest is None or newest.number != status.epoch.number or status.epoch.since is None:
        return math.nan
    exposed = [sum(arm.exposed for arm in epoch.outcomes[0]) for epoch in gates]
    lasted_s = collected.now_s - status.epoch.since.timestamp()
    return lasted_s * sum(exposed) / exposed[-1] if exposed[-1] and lasted_s > 0 else math.nan


def _test(
    planned: Sequence[PlanOutcome],
    gates: Sequence[OutcomeEpoch],
    harms: Sequence[OutcomeEpoch],
    limits: EvaluationLimits,
    elapsed_s: float,
) -> Iterator[tuple[OutcomeFinding, OutcomeFinding]]:
    """Yield the findings of each outcome, for the gate and for harm."""
    metrics, levels = [make_metric(each) for each in planned], limits.levels
    harm_level = levels.alpha * levels.harm_error_share / (levels.harm_shares * max(1, len(limits.guardrails)))

    def evaluate(epochs: Sequence[OutcomeEpoch], alpha: float) -> list[OutcomeFinding]:
        if not epochs:
            return [OutcomeFinding(metric) for metric in metrics]
        found = outcome_comparison.evaluate_guardrails(
            metrics, epochs, alpha, harm_tests=alpha / harm_level, elapsed_s=elapsed_s
        )
        return [arms[0] for arms in found]

    gate_alpha = levels.alpha * levels.gate_error_share
    return zip(evaluate(gates, gate_alpha), evaluate(harms, levels.alpha), strict=True)


def _make_status(
    outcome: PlanOutcome,
    gates: Sequence[OutcomeEpoch],
    harms: Sequence[OutcomeEpoch],
    index: int,
    findings: tuple[OutcomeFinding, OutcomeFinding],
    alpha: float,
) -> MetricStatus:
    """Return the status of an outcome: harm if there is any, else the gate's finding."""
    (gate, harm), pair = findings, ROLLOUT_PAIR
    if harm.verdict == OutcomeVerdict.HARM:
        events = count_events(harm.metric, harms, index, 1)
        values = make_values(harm.metric, harms, index, 1, alpha)
        return make_status(harm, GUARDRAIL, pair.arm, events, harm.sentence(pair.who, pair.control), values=values)
    message, events = gate.sentence(pair.who, pair.control), count_events(gate.metric, gates, index, 1)
    if gate.verdict == OutcomeVerdict.HARM:
        gate = replace(gate, verdict=OutcomeVerdict.UNDECIDED)
        message = f"{message} at this weight; a rollback needs that over all weights"
    values = make_values(gate.metric, gates, index, 1, alpha)
    status = make_status(gate, GUARDRAIL, pair.arm, events, message, values=values)
    is_unreported = not any(counts.units for epoch in gates for counts in epoch.outcomes[index])
    return mark_unreported(status, pair.who, outcome.feedback) if is_unreported else status


def _without_verdict(metric: MetricStatus, message: str) -> MetricStatus:
    update = {"verdict": str(OutcomeVerdict.UNDECIDED), "message": message, "needed": None, "eta": None, "note": None}
    return metric.model_copy(update=update)


def _explain_new_units(metric: MetricStatus) -> MetricStatus:
    """Add to an open metric why returning units do not count at a later weight."""
    if metric.verdict not in (OutcomeVerdict.UNDECIDED, OutcomeVerdict.NO_DATA):
        return metric
    return metric.model_copy(update={"message": f"{metric.message}; only units first seen at this weight count"})
