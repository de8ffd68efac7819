"""Evaluation of an experiment. The tests that compare a canary with stable compare each treatment arm with control."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sundog_operator.api import CONTROL, EvidenceEpoch, ExperimentStatus, MetricStatus, is_latency_metric
from sundog_operator.api.reasons import Cause, ExperimentReason
from sundog_operator.core.analysis import (
    arm_pair,
    baseline_health,
    counters,
    data_loss,
    dead_arm,
    early_harm,
    edge_reports,
    epoch_counts,
    first_exposures,
    metric_status,
    split_mismatch,
    unit_groups,
)
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits
from sundog_operator.core.analysis.split_mismatch import MISMATCH_LOG_E
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats import dispersion, error_shares
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.sample_ratio import ArmSplit, splits_log_e
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import resolve_thresholds, tested_guardrails
from sundog_operator.core.trial.evaluation import ExperimentEvaluation, OutcomeDecision
from sundog_operator.core.trial.experiment import (
    edge_metrics,
    outcome_evaluation,
    state,
    winner,
)
from sundog_operator.core.trial.experiment.winner import WinnerDecision


def evaluate_experiment(
    status: ExperimentStatus,
    collected: CollectedCounts,
    replicas: Mapping[str, int],
    feedback_problem: Cause | None = None,
) -> ExperimentEvaluation:
    """Evaluate an experiment's evidence.

    Args:
        status: the status of an experiment with a frozen plan.
        collected: the collected counts.
        replicas: number of healthy replicas of each arm, including control.
        feedback_problem: why outcomes from edges cannot be used; None if they can.
    """
    limits, active = _limits(status), {arm.name for arm in state.active_arms(status)}
    pairs = [pair for pair in make_pairs(status) if pair.arm in active]
    unreachable_edges = tuple(counters.find_unreachable_edges(collected.tallies, collected.reports))
    metrics = {pair.arm: _evaluate_pair(status, pair, limits, collected, replicas) for pair in pairs}
    if not unreachable_edges:
        metrics = {pair.arm: _with_early_harm(status, pair, limits, collected, metrics[pair.arm]) for pair in pairs}
    of_edge = [each for own in metrics.values() for each in own]
    dead = {pair.arm: dead_arm.find_dead_arm(pair, limits, collected, replicas.get(pair.arm, 0)) for pair in pairs}
    present = collected.present
    arms = [CONTROL, *(pair.arm for pair in pairs)]
    requests = [collected.tallies.of(status.epoch.number, arm, present).assigned for arm in arms]
    mismatch = _mismatch(status, limits, collected)
    control = baseline_health.evaluate_baseline(status.plan, collected.blocks, collected.now_s, CONTROL, arms[1:])
    unreachable = f"no counts from {', '.join(unreachable_edges)}" if unreachable_edges else ""
    lost = find_data_loss(status, collected)
    outage = control.outage.message if control.outage is not None else ""
    missing = next((each.message for each in (feedback_problem, lost) if each is not None), "")
    undecided = (mismatch.message if mismatch is not None else "") or outage or unreachable or missing
    at = datetime.fromtimestamp(collected.now_s, UTC)
    depends_on_load = bool(edge_metrics.planned_edge_metrics(status)) or any(
        is_latency_metric(each.metric) for each in limits.guardrails
    )
    outcomes = outcome_evaluation.evaluate_experiment_outcomes(
        status,
        collected.tallies,
        _guardrails(metrics),
        undecided,
        at,
        _evaluate_edge_metrics(status, limits, collected, replicas),
    )
    return ExperimentEvaluation(
        metrics=(*of_edge, *outcomes.metrics),
        harm={**outcomes.harm, **outcome_evaluation.find_harm(of_edge)},
        dead_arms={arm: why for arm, why in dead.items() if why},
        mismatch=mismatch,
        control=control,
        unreachable_edges=unreachable_edges,
        requests=min(requests),
        units=_units_by_arm(status, collected) if limits.has_sticky_units else _requests_by_arm(status, collected),
        guardrails=resolve_thresholds(status.plan.guardrails, collected.traffic),
        outcome_decision=_outcome_decision(outcomes.decided, undecided),
        shares=outcomes.shares,
        observed_traffic=outcomes.observed_traffic,
        feedback_problem=feedback_problem,
        data_loss=lost,
        ignored_outcomes_message=data_loss.report_ignored_outcomes(collected),
        loads=tuple(_load_ratio(status, pair.arm, replicas) for pair in pairs if depends_on_load),
        has_equal_blocks=_has_equal_blocks(status, collected),
    )


def find_data_loss(status: ExperimentStatus, collected: CollectedCounts) -> Cause | None:
    """Return why too much data is missing for a winner; None where enough is there. Dropped arms are ignored."""
    exposed = sum(collected.tallies.feedback.exposed.values())
    return data_loss.find_data_loss(
        collected,
        [CONTROL, *(arm.name for arm in state.active_arms(status))],
        [epoch.number for epoch in status.evidence_epochs if not epoch.troubled],
        until="no arm can win",
        # Then the experiment is about to end, and later units count in no arm.
        has_all_units=units.is_sticky(status.plan) and exposed >= state.max_first_exposures(status),
    )


def _guardrails(metrics: Mapping[str, Sequence[MetricStatus]]) -> dict[str, dict[str, str]]:
    """Return the verdict of each guardrail that an arm has to pass, by arm and metric."""
    return {arm: {each.name: each.verdict for each in own if each.role == "guardrail"} for arm, own in metrics.items()}


def _outcome_decision(decided: WinnerDecision | None, undecided_reason: str) -> OutcomeDecision | None:
    if decided is None:
        return None
    leader = "" if undecided_reason else winner.find_leader(decided.arms)
    return OutcomeDecision(str(decided.decision), decided.winner, decided.reason, leader)


def make_pairs(status: ExperimentStatus) -> list[ArmPair]:
    """Return a pair of control and each treatment arm, in the order in which blocks are added to sums."""
    arms = [arm.name for arm in state.treatment_arms(status)]
    return [ArmPair(CONTROL, name, f"arm {name}", index) for index, name in enumerate(arms)]


def _limits(status: ExperimentStatus) -> EvaluationLimits:
    """Return the limits of the tests. The arms share the error. All epochs are evidence of one ratio, whatever their weights."""
    levels = arm_pair.error_levels(status.plan, arms=len(state.treatment_arms(status)))
    share = levels.harm_error_share * outcome_evaluation.edge_harm_share(status)
    return EvaluationLimits(
        guardrails=tested_guardrails(status.plan.guardrails),
        levels=replace(levels, harm_error_share=share),
        next_weight=1.0,
        newest_alone=False,
        has_sticky_units=units.is_sticky(status.plan),
        tests_units=bool(state.frozen_comparison(status).guardrails_by_unit),
    )


def _evaluate_pair(
    status: ExperimentStatus,
    pair: ArmPair,
    limits: EvaluationLimits,
    collected: CollectedCounts,
    replicas: Mapping[str, int],
) -> tuple[MetricStatus, ...]:
    """Return the status of each guardrail of one arm, compared with control over the epochs in which both have traffic."""
    load, found = _load_ratio(status, pair.arm, replicas), {}
    epochs, shares = _compared_epochs(status, pair)
    for is_latency in (False, True):
        own = _limits_of_kind(status, limits, pair, is_latency=is_latency)
        counted = epoch_counts.collect_epochs(pair, own, epochs, shares, collected)
        for metric in metric_status.evaluate_metrics(pair, own, epochs, counted, collected, load):
            found[metric.name] = _suspend_under_load(status, metric, load) if is_latency else metric
    metrics = tuple(found[each.metric] for each in limits.guardrails)
    return metric_status.exclude_uncounted_metrics(metrics, limits, collected)


def _with_early_harm(
    status: ExperimentStatus,
    pair: ArmPair,
    limits: EvaluationLimits,
    collected: CollectedCounts,
    metrics: tuple[MetricStatus, ...],
) -> tuple[MetricStatus, ...]:
    """Add harm in an arm's first blocks, while no epoch has enough blocks for the usual test."""
    ended, tallies = collected.tallies.ended_blocks, collected.tallies
    lengths = (ended[epoch.number].lengths for epoch in status.evidence_epochs if epoch.number in ended)
    if any(dispersion.has_enough_blocks([each.closed for each in own]) for own in lengths):
        return metrics
    target = state.target_buckets(status)
    shares = {epoch.number: _pair_shares(pair, by_arm) for epoch, by_arm in state.buckets_by_epoch(status)}
    shares = {status.epoch.number: _pair_shares(pair, target), **include_warmup(status, shares)}
    groups = None
    if limits.has_sticky_units:
        reported = edge_reports.collect_groups(tallies.attempt, collected.reports)
        groups = (shares[status.epoch.number][1], *early_harm.count_failing_groups(pair, reported))
    harm = early_harm.find_early_harm(
        status.plan,
        {number: own[1] for number, own in shares.items()},
        collected.blocks,
        collected.now_s,
        pair,
        arms=len(state.treatment_arms(status)),
        groups=groups,
    )
    return metrics if harm is None else harm.mark(metrics)


def _pair_shares(pair: ArmPair, buckets: Mapping[str, int]) -> arm_pair.ArmShares:
    """Return the shares of control and the arm of their traffic; 0 for an arm without any."""
    control, arm = (buckets.get(name, 0) for name in pair.both)
    return control / max(1, control + arm), arm / max(1, control + arm)


def _limits_of_kind(
    status: ExperimentStatus, limits: EvaluationLimits, pair: ArmPair, *, is_latency: bool
) -> EvaluationLimits:
    """Return the limits of an arm's latencies, or of its other guardrails.

    Gates leave out epochs in which control was unfit, those of latencies also epochs in which the arm had less load. Harm uses all that are
    listed, but no latency of an overloaded arm.
    """
    own = tuple(each for each in limits.guardrails if is_latency_metric(each.metric) == is_latency)
    loaded_arm, unlisted = pair.arm if is_latency else "", state.unlisted_epochs(status)
    overloaded = [each for each in status.evidence_epochs if each.tested and loaded_arm in (each.overloaded or ())]
    unfit = [
        each
        for each in status.evidence_epochs
        if each.troubled or (each.tested and loaded_arm in (each.underloaded or ()))
    ]
    share = limits.levels.harm_error_share * len(own) / max(1, len(limits.guardrails))
    levels = replace(
        limits.levels,
        gate_error_share=error_shares.evidence_share(unlisted + len(unfit)),
        harm_error_share=share * error_shares.evidence_share(unlisted + len(overloaded)),
    )
    return replace(limits, guardrails=own, levels=levels, loaded_arm=loaded_arm)


def _suspend_under_load(status: ExperimentStatus, metric: MetricStatus, load: float) -> MetricStatus:
    """Return a latency guardrail; suspended while its counts are of less load than control's, unless earlier ones decide."""
    is_known = any(
        each.metric == metric.name and each.threshold_microseconds is not None for each in status.plan.guardrails
    )
    is_open = metric.verdict in (MetricVerdict.UNDECIDED, MetricVerdict.NO_DATA)
    had_less = bool(status.evidence_epochs) and metric.arm in (status.evidence_epochs[-1].underloaded or ())
    if math.isnan(load) or not (is_known and is_open and had_less):
        return metric
    why = edge_metrics.describe_load(status, metric.arm, load)
    return metric.model_copy(
        update={"verdict": metric_status.SUSPENDED, "message": f"{metric.message}; {why}", "eta": None}
    )


def _compared_epochs(status: ExperimentStatus, pair: ArmPair) -> tuple[list[EvidenceEpoch], list[float]]:
    """Return the epochs in which both have traffic, and the arm's share of it."""
    epochs, shares = [], []
    for epoch, by_arm in state.buckets_by_epoch(status):
        both = by_arm.get(CONTROL, 0), by_arm.get(pair.arm, 0)
        if min(both) > 0:
            epochs.append(epoch)
            shares.append(both[1] / sum(both))
    return epochs, shares


def _evaluate_edge_metrics(
    status: ExperimentStatus, limits: EvaluationLimits, collected: CollectedCounts, replicas: Mapping[str, int]
) -> edge_metrics.EdgeFindings:
    """Return the findings of success and secondary metrics of the edge, for all arms: dropped ones keep their share of the error."""
    if not edge_metrics.planned_edge_metrics(status):
        return {}
    limits = replace(limits, guardrails=edge_metrics.measured_metrics(status), tests_units=False)
    arms = []
    for pair in make_pairs(status):
        epochs, shares = _compared_epochs(status, pair)
        every = epoch_counts.collect_epochs(pair, limits, epochs, shares, collected)
        counted = [(epoch, each) for epoch, each in zip(epochs, every, strict=True) if not epoch.troubled]
        equal = [each for epoch, each in counted if not epoch.unequal_load]
        load = _load_ratio(status, pair.arm, replicas)
        arms.append(edge_metrics.ArmComparison(pair.arm, [each for _, each in counted], equal, load))
    return edge_metrics.evaluate_edge_metrics(status, arms, collected)


def _has_equal_blocks(status: ExperimentStatus, collected: CollectedCounts) -> bool:
    """Whether the epochs in which replicas had equal load have enough blocks for a verdict."""
    used = [each.number for each in status.evidence_epochs if not (each.troubled or each.unequal_load)]
    ended = collected.tallies.ended_blocks
    lengths = zip(*(ended[number].lengths for number in used if number in ended), strict=True)
    return bool(dispersion.has_enough_blocks([sum(each.closed for each in epochs) for epochs in lengths]))


def _load_ratio(status: ExperimentStatus, arm: str, replicas: Mapping[str, int]) -> float:
    """Return the load of one replica of an arm, divided by the load of one stable replica."""
    shares = state.target_buckets(status)
    of_stable = sum(shares[name] for name in names.STABLE_ARMS)
    return replica_counts.pool_load_ratio(shares[arm], replicas.get(arm, 0), of_stable, replicas.get(CONTROL, 0))


def _mismatch(status: ExperimentStatus, limits: EvaluationLimits, collected: CollectedCounts) -> Cause | None:
    """Return why the units do not match the weights; None if they do. If units are not sticky, each request is a unit."""
    arms = [arm.name for arm in status.arms]
    shares = {
        epoch.number: tuple(by_arm[arm] / BUCKETS for arm in arms) for epoch, by_arm in state.buckets_by_epoch(status)
    }
    if limits.has_sticky_units:
        splits, log_e = split_mismatch.count_unit_splits(arms, include_warmup(status, shares), collected)
        what = split_mismatch.UNITS_TEXT
    else:
        present = collected.present
        splits = [
            ArmSplit(own, tuple(collected.tallies.of(number, arm, present).assigned for arm in arms))
            for number, own in shares.items()
        ]
        log_e, what = splits_log_e(splits), "requests"
    active = {*names.STABLE_ARMS, *(arm.name for arm in state.active_arms(status))}
    if missing := split_mismatch.find_missing_arm(arms, active, splits, what):
        return Cause(ExperimentReason.ARM_WITHOUT_REQUESTS, missing)
    found = f"{describe_arm_counts(arms, splits, what)}: sample-ratio mismatch" if log_e >= MISMATCH_LOG_E else ""
    if not found and limits.has_sticky_units:
        found = outcome_evaluation.find_split_mismatch(status, collected.tallies)
    return Cause(ExperimentReason.SAMPLE_RATIO_MISMATCH, found) if found else None


def include_warmup(status: ExperimentStatus, shares: Mapping[int, arm_pair.ArmShares]) -> dict[int, arm_pair.ArmShares]:
    """Return the shares of the evidence epochs and of the warm-up before the first one. Most units first appear in the warm-up.

    The warm-up is left out if old epochs were removed to save space. The epoch before the first one left may then have had other shares.
    """
    if not shares or len(status.evidence_epochs) >= state.MAX_EPOCHS:
        return dict(shares)
    first = min(shares)
    return {**split_mismatch.include_warmup(status.plan, {first: shares[first]}), **shares}


def describe_arm_counts(arms: Sequence[str], splits: Sequence[ArmSplit], what: str) -> str:
    """Return a text with each arm's count and the count that its share implies; `what` names what was counted."""
    total = sum(sum(split.units) for split in splits)
    arm_texts = [
        f"{arm} got {sum(split.units[index] for split in splits)}"
        f" ({sum(split.shares[index] * sum(split.units) for split in splits):.0f} expected)"
        for index, arm in enumerate(arms)
    ]
    return f"of {total} {what}, {', '.join(arm_texts)}"


def _requests_by_arm(status: ExperimentStatus, collected: CollectedCounts) -> dict[str, int]:
    """Return the number of requests by arm, including those at removed edges."""
    return {arm.name: collected.tallies.over_epochs(arm.name, first=state.FIRST_EPOCH).assigned for arm in status.arms}


def _units_by_arm(status: ExperimentStatus, collected: CollectedCounts) -> dict[str, int]:
    """Return the number of units by arm; empty where unknown.

    With feedback it is that of first exposures over the evidence. Else it is estimated from the edges' sample, and includes the warm-up; a
    request without a unit counts as one.
    """
    if state.counts_exposures(status.plan):
        return {arm.name: state.count_exposed_units(status, collected.tallies, arm.name) for arm in status.arms}
    share, first = first_exposures.sample_first_exposures(collected.tallies.attempt, collected.reports, collected.now_s)
    if not share:
        return {}
    found = {
        arm.name: round(
            sum(count for (epoch, name), count in first.items() if name == arm.name and epoch >= state.FIRST_EPOCH)
            / share
        )
        for arm in status.arms
    }
    without = {
        arm.name: sum(
            own[0][unit_groups.WITHOUT_UNIT]
            for rows in collected.tallies.groups.values()
            for (_, name), own in rows.items()
            if name == arm.name
        )
        for arm in status.arms
    }
    return {arm: found[arm] + without[arm] for arm in found}
