"""Evaluation of an experiment's outcomes: findings of its metrics, the winner, and the next weights. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from sundog_operator.api import (
    DEFAULT_ALPHA,
    ExperimentStatus,
    MetricStatus,
    MetricValue,
    PlanOutcome,
)
from sundog_operator.api.reasons import MetricNote
from sundog_operator.core.analysis import arm_pair, feedback, outcome_epochs, split_mismatch
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.outcome_status import (
    count_events,
    make_edge_values,
    make_metric,
    make_status,
    make_values,
    mark_unreported,
)
from sundog_operator.core.edge import units
from sundog_operator.core.stats import outcome_comparison, outcome_counts
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.outcome_counts import OutcomeEpoch
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict
from sundog_operator.core.trial.default_plan import tested_guardrails
from sundog_operator.core.trial.evaluation import ObservedTraffic
from sundog_operator.core.trial.experiment import allocation, state, winner
from sundog_operator.core.trial.experiment.allocation import ThompsonRule
from sundog_operator.core.trial.experiment.edge_metrics import EdgeFindings
from sundog_operator.core.trial.experiment.state import GUARDRAIL, SECONDARY, SUCCESS
from sundog_operator.core.trial.experiment.winner import WinnerDecision


@dataclass(frozen=True, slots=True)
class OutcomeEvaluation:
    """Result of one evaluation of the outcomes.

    Attributes:
        metrics: status of each success and secondary metric of each arm, dropped arms included, and of each guardrail of active arms.
        harm: for each active arm that does harm by a guardrail, a sentence about it; empty where the counts allow no decision.
        decided: the decision; None where the plan has no success metric.
        shares: buckets, control first, where weights are to change; None while they stay.
        observed_traffic: the rate of units and the values of control; None without data.
    """

    metrics: tuple[MetricStatus, ...] = ()
    harm: Mapping[str, str] = field(default_factory=dict)
    decided: WinnerDecision | None = None
    shares: tuple[int, ...] | None = None
    observed_traffic: ObservedTraffic | None = None


def _from_feedback(planned: Sequence[PlanOutcome]) -> list[PlanOutcome]:
    """Return the metrics that are not of the edge."""
    return [each for each in planned if each.metric is None]


def make_feedback_selection(service: str, attempt: str, status: ExperimentStatus) -> feedback.FeedbackSelection | None:
    """Return the selection of outcomes to keep from the edges' reports; None where the plan has no outcomes."""
    outcomes = state.frozen_comparison(status).feedback_outcomes
    if not outcomes:
        return None
    epochs, arms = (each.number for each in status.evidence_epochs), (arm.name for arm in status.arms)
    return outcome_epochs.select_sums(service, attempt, outcomes, epochs, arms)


def find_split_mismatch(status: ExperimentStatus, counted: Counters) -> str:
    """Return a sentence about a sample-ratio mismatch of first exposures; empty where none is known."""
    names = [arm.name for arm in status.arms]
    exposed, expected = [], []
    for number, shares in state.comparable_epochs(status, names):
        own = [counted.feedback.exposed.get((number, name), 0) for name in names]
        if sum(own):
            exposed.append(own)
            expected.append(shares)
    return split_mismatch.mismatch_of_exposures(names, exposed, expected) if exposed else ""


def evaluate_experiment_outcomes(
    status: ExperimentStatus,
    counted: Counters,
    guardrails: Mapping[str, Mapping[str, str]],
    undecided_reason: str,
    now: datetime,
    of_edge: EdgeFindings = MappingProxyType({}),
) -> OutcomeEvaluation:
    """Evaluate the outcomes, and decide by them and by success metrics of the edge.

    Args:
        status: the status of an experiment with a frozen plan.
        counted: the edges' counts of requests and outcomes.
        guardrails: the verdict of each guardrail of the edge by arm and metric.
        undecided_reason: why the counts allow no decision; empty where they do.
        now: the present time.
        of_edge: the findings of success and secondary metrics of the edge.
    """
    planned = {role: state.planned_outcomes(status, role) for role in (SUCCESS, GUARDRAIL, SECONDARY)}
    if not any(planned.values()):
        return OutcomeEvaluation()
    outcomes = {role: _from_feedback(own) for role, own in planned.items()}
    epochs = {role: _epochs(status, counted, own) for role, own in outcomes.items()}
    elapsed_s = (now - status.since).total_seconds() if status.since is not None else math.nan
    own_guardrails = list(_guardrail_metrics(status, planned[GUARDRAIL], epochs[GUARDRAIL], elapsed_s))
    decided = None
    if planned[SUCCESS]:
        decided = winner.decide_winner(
            winner.WinnerInputs(
                metrics=[make_metric(each) for each in planned[SUCCESS]],
                arms=[
                    winner.ArmInput(
                        arm.name,
                        {
                            **guardrails.get(arm.name, {}),
                            **{each.name: each.verdict for each in own_guardrails if each.arm == arm.name},
                        },
                        arm.dropped or "",
                    )
                    for arm in state.treatment_arms(status)
                ],
                epochs=epochs[SUCCESS],
                alpha=_alpha(status),
                undecided_reason=undecided_reason,
                elapsed_s=elapsed_s,
                rule=state.frozen_comparison(status).win_by or "anyMetric",
                of_edge={name: own for (role, name), own in of_edge.items() if role == SUCCESS},
            )
        )
    metrics = (
        *_success_metrics(status, decided, epochs),
        *own_guardrails,
        *_secondary_metrics(status, planned[SECONDARY], epochs[SECONDARY], elapsed_s, of_edge),
    )
    unreported: dict[tuple[str, str], str] = {
        (each.role, each.name): missing
        for own in outcomes.values()
        for each in own
        if (missing := outcome_epochs.find_unreported(each, counted.feedback))
    }
    return OutcomeEvaluation(
        metrics=tuple(_name_unreported(each, unreported) for each in metrics),
        harm={} if undecided_reason else find_harm(own_guardrails),
        decided=decided,
        shares=None if undecided_reason else _next_buckets(status, outcomes[SUCCESS], epochs[SUCCESS], now),
        observed_traffic=_observed_traffic(status, counted, outcomes[SUCCESS], epochs[SUCCESS], elapsed_s),
    )


def find_harm(metrics: Sequence[MetricStatus]) -> dict[str, str]:
    """Return a sentence about the first metric by which each arm does harm, by arm."""
    harm: dict[str, str] = {}
    for each in metrics:
        if each.verdict == MetricVerdict.HARM:
            harm.setdefault(each.arm, f"arm {each.arm}: {each.message}")
    return harm


def edge_harm_share(status: ExperimentStatus) -> float:
    """Return the share of an arm's error of harm that guardrails of the edge have; guardrails that are outcomes have the rest."""
    return arm_pair.edge_harm_share(
        tested_guardrails(status.plan.guardrails), state.planned_outcomes(status, GUARDRAIL)
    )


def _alpha(status: ExperimentStatus, *, equal_load: bool = False) -> float:
    """Return the error of each direction for the present set of evidence; `equal_load` as of `state.evidence_share`."""
    return (status.plan.alpha or DEFAULT_ALPHA) * state.evidence_share(status, equal_load=equal_load)


def _epochs(status: ExperimentStatus, counted: Counters, planned: Sequence[PlanOutcome]) -> list[OutcomeEpoch]:
    """Return the outcomes of the epochs of evidence, for the planned metrics."""
    arms, is_sticky = state.compared_arms(status), units.is_sticky(status.plan)
    return outcome_epochs.count_epochs(
        counted, planned, arms, state.comparable_epochs(status, arms), is_sticky=is_sticky
    )


def _guardrail_metrics(
    status: ExperimentStatus, planned: Sequence[PlanOutcome], epochs: Sequence[OutcomeEpoch], elapsed_s: float
) -> Iterator[MetricStatus]:
    """Yield the guardrails of active arms; as with those of the edge, a dropped arm keeps its last ones."""
    metrics, names, out = (
        [make_metric(each) for each in planned],
        state.compared_arms(status),
        state.dropped_arms(status),
    )
    findings = (
        outcome_comparison.evaluate_guardrails(
            metrics,
            epochs,
            _alpha(status),
            harm_tests=(len(tested_guardrails(status.plan.guardrails)) + len(metrics))
            / (1 - (status.plan.early_harm or 0.0)),
            elapsed_s=elapsed_s,
        )
        if epochs
        else [[OutcomeFinding(metric)] * (len(names) - 1) for metric in metrics]
    )
    for arm_index, name in enumerate(names[1:], start=1):
        for index, metric in enumerate(metrics if name not in out else ()):
            finding = findings[index][arm_index - 1]
            events = count_events(metric, epochs, index, arm_index)
            values = make_values(metric, epochs, index, arm_index, status.plan.alpha or DEFAULT_ALPHA)
            yield make_status(finding, GUARDRAIL, name, events, finding.sentence(name), values=values)


def _count_events(
    finding: OutcomeFinding,
    epochs: Sequence[OutcomeEpoch],
    planned: Sequence[PlanOutcome],
    arm_index: int,
    alpha: float,
) -> tuple[tuple[int, ...], tuple[MetricValue, ...]]:
    """Return the events and the values of control and of an arm."""
    names = [each.name for each in _from_feedback(planned)]
    if finding.metric.name not in names:
        return finding.events, make_edge_values(finding, alpha)
    place = finding.metric, epochs, names.index(finding.metric.name), arm_index
    return count_events(*place), make_values(*place, alpha)


def _success_metrics(
    status: ExperimentStatus, decided: WinnerDecision | None, epochs: Mapping[str, Sequence[OutcomeEpoch]]
) -> Iterator[MetricStatus]:
    out = state.dropped_arms(status)
    planned = state.planned_outcomes(status, SUCCESS)
    for arm in decided.arms if decided is not None else ():
        arm_index = state.compared_arms(status).index(arm.name)
        for finding in arm.findings:
            counts = _count_events(finding, epochs[SUCCESS], planned, arm_index, status.plan.alpha or DEFAULT_ALPHA)
            yield _make_arm_status(finding, SUCCESS, arm.name, counts, out=arm.name in out)


def _secondary_metrics(
    status: ExperimentStatus,
    planned: Sequence[PlanOutcome],
    epochs: Sequence[OutcomeEpoch],
    elapsed_s: float,
    of_edge: EdgeFindings,
) -> Iterator[MetricStatus]:
    """Yield the secondary metrics, tested at the level of all of them, with a note on discoveries by e-BH.

    At most a share α of the discoveries is false.
    """
    names, alpha, out = state.compared_arms(status), _alpha(status), state.dropped_arms(status)
    metrics, tests = [make_metric(each) for each in _from_feedback(planned)], len(planned) * (len(names) - 1)
    evaluated = iter(
        outcome_comparison.evaluate_outcomes(metrics, epochs, alpha, tests=tests, elapsed_s=elapsed_s)
        if epochs
        else [[OutcomeFinding(metric)] * (len(names) - 1) for metric in metrics]
    )
    findings = [next(evaluated) if each.metric is None else of_edge[SECONDARY, each.name] for each in planned]
    by_edge = any(each.metric is not None for each in planned)
    discoveries = set(outcome_comparison.find_discoveries(findings, _alpha(status, equal_load=by_edge)))
    for arm_index, name in enumerate(names[1:], start=1):
        for index, by_arm in enumerate(findings):
            finding = by_arm[arm_index - 1]
            counts = _count_events(finding, epochs, planned, arm_index, status.plan.alpha or DEFAULT_ALPHA)
            each = _make_arm_status(finding, SECONDARY, name, counts, out=name in out)
            if (index, arm_index - 1) in discoveries and each.verdict == OutcomeVerdict.UNDECIDED and not finding.held:
                message = f"{each.message}; differs from control (e-BH over all secondary metrics)"
                each = each.model_copy(update={"message": message, "note": each.note or MetricNote.DISCOVERY})
            yield each


def evaluate_feedback_metrics(
    status: ExperimentStatus, counted: Counters, elapsed_s: float = math.nan
) -> Iterator[MetricStatus]:
    """Yield the status of each metric from feedback, without a decision."""
    planned = {role: state.planned_outcomes(status, role) for role in (SUCCESS, GUARDRAIL, SECONDARY)}
    epochs = {role: _epochs(status, counted, _from_feedback(own)) for role, own in planned.items()}
    names, out = state.compared_arms(status), state.dropped_arms(status)
    metrics = [make_metric(each) for each in _from_feedback(planned[SUCCESS])]
    tests = len(planned[SUCCESS]) * (len(names) - 1)
    findings = (
        outcome_comparison.evaluate_outcomes(metrics, epochs[SUCCESS], _alpha(status), tests=tests)
        if epochs[SUCCESS]
        else []
    )
    for arm_index, name in enumerate(names[1:], start=1):
        for by_arm in findings:
            finding = by_arm[arm_index - 1]
            alpha = status.plan.alpha or DEFAULT_ALPHA
            counts = _count_events(finding, epochs[SUCCESS], planned[SUCCESS], arm_index, alpha)
            yield _make_arm_status(finding, SUCCESS, name, counts, out=name in out)
    yield from _guardrail_metrics(status, planned[GUARDRAIL], epochs[GUARDRAIL], elapsed_s)
    # What the edge measures is in no log, and its numbers stay.
    unknown = {
        (SECONDARY, each.name): [OutcomeFinding(make_metric(each)).hold("")] * (len(names) - 1)
        for each in planned[SECONDARY]
        if each.metric is not None
    }
    found = _secondary_metrics(status, planned[SECONDARY], epochs[SECONDARY], elapsed_s, unknown)
    yield from (each for each in found if (SECONDARY, each.name) not in unknown)


def _make_arm_status(
    finding: OutcomeFinding,
    role: str,
    arm: str,
    counts: tuple[tuple[int, ...], tuple[MetricValue, ...]],
    *,
    out: bool,
) -> MetricStatus:
    events, values = counts
    return make_status(finding, role, arm, events, finding.sentence(arm, out=out), values=values, out=out)


def _name_unreported(metric: MetricStatus, feedback_by_metric: Mapping[tuple[str, str], str]) -> MetricStatus:
    """Return a metric without any outcome so far with how to report one, instead of the units that it would need.

    Args:
        metric: the metric.
        feedback_by_metric: names of feedback of which nothing was counted, by role and name of the metric.
    """
    name = feedback_by_metric.get((metric.role, metric.name))
    return metric if name is None else mark_unreported(metric, metric.arm, name)


def planned_allocation(status: ExperimentStatus) -> ThompsonRule | None:
    """Return the plan's rule of adaptive weights; None for fixed weights."""
    planned = state.frozen_comparison(status).allocation
    return None if planned is None else ThompsonRule(planned.floor, planned.delta, planned.pace)


def _next_buckets(
    status: ExperimentStatus, planned: Sequence[PlanOutcome], epochs: Sequence[OutcomeEpoch], now: datetime
) -> tuple[int, ...] | None:
    """Return the next buckets of control and the active arms, None while they stay; their sum stays."""
    rule, newest = planned_allocation(status), status.evidence_epochs[-1] if status.evidence_epochs else None
    if rule is None or not planned or newest is None or newest.number != status.epoch.number or newest.troubled:
        return None
    if not status.epoch.confirmed or status.epoch.since is None:
        return None
    out = [False, *(arm.dropped is not None for arm in state.treatment_arms(status))]
    shares = allocation.next_weights(rule, make_metric(planned[0]), 0, epochs, out, now - status.epoch.since)
    if shares is None:
        return None
    own = state.target_buckets(status)
    return allocation.scale_to_buckets(shares, sum(own[name] for name in state.compared_arms(status)))


def observe_past_traffic(status: ExperimentStatus, attempt: str) -> ObservedTraffic | None:
    """Return the observed traffic from an experiment's stored counts; None without them. `attempt` is the experiment's uid."""
    if status.plan.comparison is None or status.since is None or not status.history:
        return None
    counted, planned = Counters.unpack(status.tallies, attempt), _from_feedback(state.planned_outcomes(status, SUCCESS))
    elapsed_s = (status.history[-1].at - status.since).total_seconds()
    return _observed_traffic(status, counted, planned, _epochs(status, counted, planned), elapsed_s)


def _observed_traffic(
    status: ExperimentStatus,
    counted: Counters,
    planned: Sequence[PlanOutcome],
    epochs: Sequence[OutcomeEpoch],
    elapsed_s: float,
) -> ObservedTraffic | None:
    """Return the rate of units and the values of control over the evidence so far; None without data."""
    is_sticky = units.is_sticky(status.plan)
    exposed = sum(
        counted.count_exposed_units(number, arm.name, sticky=is_sticky)
        for number, _ in state.comparable_epochs(status, [])
        for arm in status.arms
    )
    values = {}
    for index, each in enumerate(planned):
        own = [epoch.outcomes[index][0] for epoch in epochs]
        if (value := outcome_counts.describe_units(make_metric(each), own)) is not None:
            values[each.name] = value
    # The warm-up's exact duration is unknown. Its planned one gives too high a rate, which warns too rarely rather than too often. Where
    # the warm-up waited for latency thresholds, the rate is too low.
    evidence_s = elapsed_s - status.plan.warmup_duration.total_seconds()
    if not exposed or not values or not evidence_s > 0:
        return None
    return ObservedTraffic(exposed / evidence_s, values)
