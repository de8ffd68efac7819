"""Evaluation of an attempt: from the counters of edges to the inputs of its state machine. Pure.

Comparisons take two arms as an `ArmPair`. They are the same for a canary beside stable and for an experiment's arm beside control.
"""

from collections.abc import Sequence

from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
)
from sundog_operator.api.reasons import Cause
from sundog_operator.core.analysis import (
    baseline_health,
    counters,
    early_harm,
    rollout_outcomes,
)
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, CollectedCounts, rollout_limits
from sundog_operator.core.analysis.data_loss import report_ignored_outcomes
from sundog_operator.core.analysis.dead_arm import find_dead_arm
from sundog_operator.core.analysis.dispersion_sums import EpochBlocks
from sundog_operator.core.analysis.epoch_counts import collect_epochs
from sundog_operator.core.analysis.metric_status import (
    SUSPENDED,
    beside_headers,
    evaluate_metrics,
    exclude_uncounted_metrics,
)
from sundog_operator.core.analysis.split_mismatch import (
    arm_shares,
    include_warmup,
    mismatch_of_requests,
    mismatch_of_units,
)
from sundog_operator.core.stats import dispersion
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import (
    resolve_thresholds,
)
from sundog_operator.core.trial.evaluation import RolloutEvaluation
from sundog_operator.core.trial.rollout import state


def evaluate_rollout(
    status: ExperimentStatus,
    collected: CollectedCounts,
    replicas: tuple[int, int],
    feedback_problem: Cause | None = None,
) -> RolloutEvaluation:
    """Evaluate an attempt whose plan has guardrails.

    Args:
        status: the status of the attempt.
        collected: the collected counts.
        replicas: number of healthy replicas of stable and of the canary.
        feedback_problem: why outcomes from edges cannot be used; None if they can, or if the plan has none.
    """
    present = collected.present
    # One arm alone has no comparison.
    epochs = [each for each in status.evidence_epochs if 0 < each.weight < 100]
    shares = [each.weight / 100 for each in epochs]
    limits = rollout_limits(status)
    counted = collect_epochs(ROLLOUT_PAIR, limits, epochs, shares, collected)
    metrics = evaluate_metrics(
        ROLLOUT_PAIR,
        limits,
        epochs,
        counted,
        collected,
        replica_counts.load_ratio(state.canary_weight(status), *replicas),
    )
    warm = status.step is not None and status.step.warm and bool(epochs) and epochs[-1].number == status.epoch.number
    unreachable_edges = counters.find_unreachable_edges(collected.tallies, collected.reports)
    metrics = beside_headers(exclude_uncounted_metrics(metrics, limits, collected), status)
    metrics = metrics if unreachable_edges else _with_early_harm(metrics, status, collected)
    mismatch = (
        mismatch_of_units(status, epochs, collected) if limits.has_sticky_units else mismatch_of_requests(counted)
    )
    problem = rollout_outcomes.find_problem(status, limits, collected, feedback_problem, mismatch)
    metrics = (*metrics, *rollout_outcomes.evaluate_outcomes(status, limits, collected, problem))
    stable, canary = (collected.tallies.of(status.epoch.number, arm, present).assigned for arm in ROLLOUT_PAIR.both)
    death = find_dead_arm(ROLLOUT_PAIR, limits, collected, replicas[1])
    return RolloutEvaluation(
        metrics=metrics,
        is_dead=death != "",
        harm=death or next((each.message for each in metrics if each.verdict == MetricVerdict.HARM), ""),
        passed=warm
        and not unreachable_edges
        and min(stable, canary) > 0
        and _is_measured(collected.tallies.folded.get(epochs[-1].number))
        and all(_passes(each, last=state.next_weight(status) == 100) for each in metrics),
        silent=min(stable, canary) == 0,
        unreachable_edges=tuple(unreachable_edges),
        mismatch=mismatch,
        control=baseline_health.evaluate_baseline(status.plan, collected.blocks, collected.now_s),
        requests=canary,
        guardrails=resolve_thresholds(status.plan.guardrails, collected.traffic),
        lost=_count_lost_requests(epochs, collected),
        feedback_problem=problem,
        ignored_outcomes_message=report_ignored_outcomes(collected),
    )


def _with_early_harm(
    metrics: tuple[MetricStatus, ...], status: ExperimentStatus, collected: CollectedCounts
) -> tuple[MetricStatus, ...]:
    """Add harm in the canary's first blocks, while no epoch has enough blocks for the usual test."""
    ended_blocks, evident = collected.tallies.ended_blocks, arm_shares(status.evidence_epochs)
    if any(_is_measured(ended_blocks.get(number)) for number in evident):
        return metrics
    known = {number: own[-1] for number, own in include_warmup(status.plan, evident).items()}
    weights = {status.epoch.number: state.canary_weight(status) / 100, **known}
    harm = early_harm.find_early_harm(status.plan, weights, collected.blocks, collected.now_s)
    return metrics if harm is None else harm.mark(metrics)


def _count_lost_requests(epochs: Sequence[EvidenceEpoch], collected: CollectedCounts) -> tuple[int, int]:
    """Return how many requests of (stable, canary) have an unknown outcome, over all epochs of evidence."""
    present, both = collected.present, ROLLOUT_PAIR.both
    stable, canary = (sum(collected.tallies.of(each.number, arm, present).lost for each in epochs) for arm in both)
    return stable, canary


def _is_measured(blocks: EpochBlocks | None) -> bool:
    """Whether an epoch has enough blocks for its dispersion."""
    return blocks is not None and bool(dispersion.has_enough_blocks([each.closed for each in blocks.lengths]))


def _passes(metric: MetricStatus, *, last: bool) -> bool:
    if metric.role == "harm":
        return metric.verdict in (MetricVerdict.UNDECIDED, MetricVerdict.PASSED)
    return metric.verdict == MetricVerdict.PASSED or (metric.verdict == SUSPENDED and not last)
