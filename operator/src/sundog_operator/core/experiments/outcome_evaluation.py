"""What the outcomes of an experiment say, each arm beside control: findings of its metrics, who wins, and where its weights go. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sundog_operator.api import (
    CONTROL,
    DEFAULT_ALPHA,
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PlanOutcome,
)
from sundog_operator.core.analysis import feedback
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.edge import units
from sundog_operator.core.experiments import allocation, sample_ratio, state, transitions, winner
from sundog_operator.core.experiments.allocation import ThompsonRule
from sundog_operator.core.experiments.evaluation import ObservedRate
from sundog_operator.core.experiments.winner import WinnerDecision
from sundog_operator.core.stats import outcome_test
from sundog_operator.core.stats.outcome_counts import MILLIONTHS, OutcomeCounts, OutcomeEpoch, OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

SUCCESS: Final = "success"
SECONDARY: Final = "secondary"
_LONGEST_S: Final = 10 * 365 * 86400.0
"""Beyond which nothing is told of the future."""


@dataclass(frozen=True, slots=True)
class OutcomeEvaluation:
    """What the outcomes say at one look.

    Attributes:
        metrics: what is known of each success and each secondary metric of each arm, dropped ones included.
        decided: who wins, or that nobody can; None where the plan has no success metric.
        shares: in buckets, control first, where weights are to move; None while they stay.
        rate: None before anything was counted.
    """

    metrics: tuple[MetricStatus, ...] = ()
    decided: WinnerDecision | None = None
    shares: tuple[int, ...] | None = None
    rate: ObservedRate | None = None


def planned_outcomes(status: ExperimentStatus, role: str) -> list[PlanOutcome]:
    """The metrics of one role, in the order of the plan."""
    return [each for each in state.frozen_comparison(status).outcomes if each.role == role]


def compared_arms(status: ExperimentStatus) -> list[str]:
    """Control and the arms beside it, in the order of the plan; dropped ones keep their place."""
    return [CONTROL, *(arm.name for arm in state.treatment_arms(status))]


def make_feedback_selection(service: str, attempt: str, status: ExperimentStatus) -> feedback.FeedbackSelection | None:
    """What is kept of what edges tell of outcomes; None where the plan has none."""
    outcomes = state.frozen_comparison(status).outcomes
    if not outcomes:
        return None
    return feedback.FeedbackSelection(
        service=service,
        attempt=attempt,
        epochs=frozenset(each.number for each in status.evidence_epochs),
        arms=frozenset(arm.name for arm in status.arms),
        metrics=frozenset(each.feedback for each in outcomes),
    )


def count_exposed_units(status: ExperimentStatus, counted: Counters, epoch: int, arm: str) -> int:
    """Units of an arm that were first exposed in an epoch.

    Where each request is one, those that edges have counted, and no fewer than have outcomes: an edge that is lost takes counts with it.
    """
    if units.is_sticky(status.plan):
        return counted.feedback.exposed.get((epoch, arm), 0)
    return max(counted.of(epoch, arm).assigned, counted.feedback.reported(epoch, arm))


def find_split_mismatch(status: ExperimentStatus, counted: Counters) -> str:
    """Why units did not fall to the arms as their weights say, by their first exposures; empty where they may have."""
    names = [arm.name for arm in status.arms]
    fell, meant = [], []
    for epoch, shares in _evidence(status, [*names]):
        own = [counted.feedback.exposed.get((epoch.number, name), 0) for name in names]
        if sum(own):
            fell.append(own)
            meant.append(shares)
    return sample_ratio.find_mismatch(names, fell, meant) if fell else ""


def evaluate_experiment_outcomes(
    status: ExperimentStatus,
    counted: Counters,
    guardrails: Mapping[str, Mapping[str, str]],
    broken: str,
    now: datetime,
) -> OutcomeEvaluation:
    """Judge the outcomes.

    Args:
        status: of an experiment that has its plan.
        counted: what edges told of requests and of outcomes.
        guardrails: the verdict of each guardrail by arm and metric.
        broken: why nothing may be decided by what was counted; empty where something may.
        now: when it is looked.
    """
    planned = {role: planned_outcomes(status, role) for role in (SUCCESS, SECONDARY)}
    if not any(planned.values()):
        return OutcomeEvaluation()
    epochs = {role: list(_epochs(status, counted, own)) for role, own in planned.items()}
    elapsed_s = (now - status.since).total_seconds() if status.since is not None else math.nan
    decided = None
    if planned[SUCCESS]:
        decided = winner.decide_winner(
            winner.WinnerInputs(
                metrics=[_metric(each) for each in planned[SUCCESS]],
                arms=[
                    winner.ArmInput(arm.name, guardrails.get(arm.name, {}), arm.dropped or "")
                    for arm in state.treatment_arms(status)
                ],
                epochs=epochs[SUCCESS],
                alpha=status.plan.alpha or DEFAULT_ALPHA,
                broken=broken,
                elapsed_s=elapsed_s,
            )
        )
    return OutcomeEvaluation(
        metrics=(*_told_of_success(status, decided, epochs), *_told_of_secondary(status, planned, epochs, elapsed_s)),
        decided=decided,
        shares=None if broken else _moved(status, planned[SUCCESS], epochs[SUCCESS], now),
        rate=_rate(status, counted, planned[SUCCESS], epochs[SUCCESS], elapsed_s),
    )


def _evidence(status: ExperimentStatus, names: Sequence[str]) -> Iterator[tuple[EvidenceEpoch, list[int]]]:
    """Epochs of evidence with the buckets of these arms. What control was no measure in is none."""
    for epoch in status.evidence_epochs:
        if epoch.troubled or epoch.buckets is None or len(epoch.buckets) != len(status.arms):
            continue
        by_arm = {arm.name: own for arm, own in zip(status.arms, epoch.buckets, strict=True)}
        yield epoch, [by_arm.get(name, 0) for name in names]


def _epochs(status: ExperimentStatus, counted: Counters, planned: Sequence[PlanOutcome]) -> Iterator[OutcomeEpoch]:
    names = compared_arms(status)
    for epoch, shares in _evidence(status, names):
        number = epoch.number
        fell = [count_exposed_units(status, counted, number, name) for name in names]
        yield OutcomeEpoch(
            shares,
            [
                [
                    OutcomeCounts(fell[place], *counted.feedback.of(metric.feedback, number, name))
                    for place, name in enumerate(names)
                ]
                for metric in planned
            ],
        )


def _metric(planned: PlanOutcome) -> OutcomeMetric:
    return OutcomeMetric(planned.name, planned.type, planned.goal, planned.minimum_effect)


def _told_of_success(
    status: ExperimentStatus, decided: WinnerDecision | None, epochs: Mapping[str, Sequence[OutcomeEpoch]]
) -> Iterator[MetricStatus]:
    out = state.dropped_arms(status)
    for arm in decided.arms if decided is not None else ():
        place = compared_arms(status).index(arm.name)
        for index, finding in enumerate(arm.findings):
            events = _events(finding.metric, epochs[SUCCESS], index, place)
            yield _told(finding, SUCCESS, arm.name, events, out=arm.name in out)


def _told_of_secondary(
    status: ExperimentStatus,
    planned: Mapping[str, Sequence[PlanOutcome]],
    by_role: Mapping[str, Sequence[OutcomeEpoch]],
    elapsed_s: float,
) -> Iterator[MetricStatus]:
    """Each at the level of all secondary metrics; what differs by e-BH, of which a share of α are false at most, says so."""
    metrics, epochs = [_metric(each) for each in planned[SECONDARY]], by_role[SECONDARY]
    names, alpha, out = compared_arms(status), status.plan.alpha or DEFAULT_ALPHA, state.dropped_arms(status)
    if not metrics:
        return
    if not epochs:
        for name in names[1:]:
            yield from (_told(OutcomeFinding(metric), SECONDARY, name, (), out=name in out) for metric in metrics)
        return
    findings = outcome_test.evaluate_outcomes(metrics, epochs, alpha, elapsed_s=elapsed_s)
    found = set(outcome_test.find_discoveries(findings, alpha))
    for place, name in enumerate(names[1:], start=1):
        for index, metric in enumerate(metrics):
            events = _events(metric, epochs, index, place)
            told = _told(findings[index][place - 1], SECONDARY, name, events, out=name in out)
            if (index, place - 1) in found and told.verdict == OutcomeVerdict.UNDECIDED:
                told = told.model_copy(update={"message": f"{told.message}; it differs, as a discovery among many"})
            yield told


def _events(metric: OutcomeMetric, epochs: Sequence[OutcomeEpoch], index: int, place: int) -> tuple[int, ...]:
    """Of control and of an arm, units that count: of a rate those whose first value was above 0, of a mean those with any."""
    if not epochs:
        return ()
    rows = [epoch.outcomes[index] for epoch in epochs]
    if metric.type == "rate":
        return sum(row[0].positive for row in rows), sum(row[place].positive for row in rows)
    return sum(row[0].units for row in rows), sum(row[place].units for row in rows)


def _told(finding: OutcomeFinding, role: str, arm: str, events: tuple[int, ...], *, out: bool) -> MetricStatus:
    """Of an arm that is out nothing is expected: no units come to it any more."""
    ends = [1 + end for end in (finding.lower, finding.upper)]
    return MetricStatus(
        name=finding.metric.name,
        role=role,
        arm=arm,
        events=events,
        ratio=_finite(1 + finding.uplift),
        interval=tuple(end for end in ends if math.isfinite(end)) if math.isfinite(ends[0]) else (),
        verdict=str(finding.verdict),
        needed=None if out else _finite(finding.needed),
        eta=timedelta(seconds=round(finding.eta_s)) if finding.eta_s <= _LONGEST_S and not out else None,
        message=finding.sentence(arm, out=out)[: transitions.MAX_REASON_CHARS],
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def planned_allocation(status: ExperimentStatus) -> ThompsonRule | None:
    """How weights move by the plan; None where they stay."""
    planned = state.frozen_comparison(status).allocation
    return None if planned is None else ThompsonRule(planned.floor, planned.delta, planned.pace)


def _moved(
    status: ExperimentStatus, planned: Sequence[PlanOutcome], epochs: Sequence[OutcomeEpoch], now: datetime
) -> tuple[int, ...] | None:
    """Buckets of control and of each arm that goes on, once an epoch has lasted; what is exposed stays as it is in all."""
    rule, newest = planned_allocation(status), status.evidence_epochs[-1] if status.evidence_epochs else None
    if rule is None or not planned or newest is None or newest.number != status.epoch.number or newest.troubled:
        return None
    if not status.epoch.confirmed or status.epoch.since is None:
        return None
    out = [False, *(arm.dropped is not None for arm in state.treatment_arms(status))]
    shares = allocation.next_weights(rule, _metric(planned[0]), 0, epochs, out, now - status.epoch.since)
    if shares is None:
        return None
    own = state.target_buckets(status)
    return allocation.scale_to_buckets(shares, sum(own[name] for name in compared_arms(status)))


def estimate_past_rate(status: ExperimentStatus, attempt: str) -> ObservedRate | None:
    """What came to the service by what an experiment keeps of its counts; None where it has none. `attempt` is its uid."""
    if status.plan.comparison is None or status.since is None or not status.history:
        return None
    counted, planned = Counters.unpack(status.tallies, attempt), planned_outcomes(status, SUCCESS)
    elapsed_s = (status.history[-1].at - status.since).total_seconds()
    return _rate(status, counted, planned, list(_epochs(status, counted, planned)), elapsed_s)


def _rate(
    status: ExperimentStatus,
    counted: Counters,
    planned: Sequence[PlanOutcome],
    epochs: Sequence[OutcomeEpoch],
    elapsed_s: float,
) -> ObservedRate | None:
    numbers = [epoch.number for epoch, _ in _evidence(status, [])]
    seen = sum(count_exposed_units(status, counted, number, arm.name) for number in numbers for arm in status.arms)
    values = {}
    for index, each in enumerate(planned):
        own = [epoch.outcomes[index][0] for epoch in epochs]
        count = sum(row.exposed for row in own)
        if count:
            values[each.name] = _value(each.type, count, own)
    # What a warm-up took is not known exactly: it is taken for all of its time, for a rate that is too high warns of too little.
    evidence_s = elapsed_s - status.plan.warmup_duration.total_seconds()
    if not seen or not values or not evidence_s > 0:
        return None
    return ObservedRate(seen / evidence_s, values)


def _value(type_: str, count: int, own: Sequence[OutcomeCounts]) -> tuple[float, float]:
    if type_ == "rate":
        return sum(row.positive for row in own) / count, 0.0
    mean, square = sum(row.total for row in own) / count, sum(row.squares for row in own) / count
    return mean / MILLIONTHS, math.sqrt(max(0.0, square - mean**2)) / MILLIONTHS
