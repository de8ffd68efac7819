"""Judges an attempt: counts of the edges in, what its state machine has to know out. Pure.

What compares two arms takes them as a `Pair` and is the same for a candidate beside stable and for an arm of an experiment beside control.
"""

from collections.abc import Sequence

from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
)
from sundog_operator.core.analysis import (
    baseline_health,
    counters,
    early_harm,
)
from sundog_operator.core.analysis.arm_pair import ROLLOUT_PAIR, CollectedCounts, RolloutCounts, rollout_limits
from sundog_operator.core.analysis.dead_arm import find_dead_arm
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
from sundog_operator.core.rollout import replica_counts, state
from sundog_operator.core.rollout.evaluation import Evaluation
from sundog_operator.core.rollout.resolve import (
    ERROR_RATE,
    resolve_thresholds,
)
from sundog_operator.core.stats import dispersion
from sundog_operator.core.stats.findings import DecisionBasis, MetricVerdict


def evaluate_rollout(status: ExperimentStatus, seen: RolloutCounts) -> Evaluation:
    """What the evidence says of an attempt whose plan has guardrails."""
    present = seen.present
    # One arm alone tells nothing of two.
    epochs = [each for each in status.evidence_epochs if 0 < each.weight < 100]
    shares = [each.weight / 100 for each in epochs]
    limits = rollout_limits(status)
    counted = collect_epochs(ROLLOUT_PAIR, limits, epochs, shares, seen)
    told = evaluate_metrics(
        ROLLOUT_PAIR,
        limits,
        epochs,
        counted,
        seen,
        replica_counts.load_ratio(state.canary_weight(status), *seen.replicas),
    )
    warm = status.step is not None and status.step.warm and bool(epochs) and epochs[-1].number == status.epoch.number
    unreachable_edges = counters.find_unreachable_edges(seen.tallies, seen.reports)
    told = beside_headers(exclude_uncounted_metrics(told, limits, seen), status)
    told = told if unreachable_edges else _with_early_harm(told, status, seen)
    stable, canary = (seen.tallies.of(status.epoch.number, arm, present).assigned for arm in ROLLOUT_PAIR.both)
    killed = find_dead_arm(ROLLOUT_PAIR, limits, seen)
    return Evaluation(
        metrics=told,
        dead=killed != "",
        harm=killed or next((each.message for each in told if each.verdict == MetricVerdict.HARM), ""),
        passed=warm
        and not unreachable_edges
        and min(stable, canary) > 0
        and _is_long(epochs[-1], seen)
        and all(_passes(each, last=state.next_weight(status) == 100) for each in told),
        silent=min(stable, canary) == 0,
        unreachable_edges=tuple(unreachable_edges),
        broken=mismatch_of_units(status, epochs, seen) if limits.has_sticky_units else mismatch_of_requests(counted),
        control=baseline_health.evaluate_baseline(status.plan, seen.blocks, seen.now_s),
        requests=canary,
        guardrails=resolve_thresholds(status.plan.guardrails, seen.traffic),
        lost=_lost(epochs, seen),
    )


def _with_early_harm(
    told: tuple[MetricStatus, ...], status: ExperimentStatus, seen: CollectedCounts
) -> tuple[MetricStatus, ...]:
    """With harm of the candidate's first blocks, as long as the usual test has too few of them."""
    over, evident = seen.tallies.over, arm_shares(status.evidence_epochs)
    lengths = zip(*(over[number].lengths for number in evident if number in over), strict=True)
    if dispersion.has_enough_blocks([sum(each.closed for each in epochs) for epochs in lengths]):
        return told
    known = {number: own[-1] for number, own in include_warmup(status.plan, evident).items()}
    weights = {status.epoch.number: state.canary_weight(status) / 100, **known}
    harm = early_harm.find_early_harm(status.plan, weights, seen.blocks, seen.now_s)
    if harm is None:
        return told
    update = {
        **harm._asdict(),
        "verdict": str(MetricVerdict.HARM),
        "basis": str(DecisionBasis.HARM),
        "needed": None,
        "eta": None,
    }
    return tuple(each.model_copy(update=update) if each.name == ERROR_RATE else each for each in told)


def _lost(epochs: Sequence[EvidenceEpoch], seen: CollectedCounts) -> tuple[int, int]:
    """Of how many requests of each arm nobody knows how they ended, over all epochs of evidence."""
    present, both = seen.present, ROLLOUT_PAIR.both
    stable, canary = (sum(seen.tallies.of(each.number, arm, present).lost for each in epochs) for arm in both)
    return stable, canary


def _is_long(newest: EvidenceEpoch, seen: CollectedCounts) -> bool:
    """Whether the newest epoch tells how its events vary: a last gate looks at nothing else."""
    folded = seen.tallies.folded.get(newest.number)
    return folded is not None and bool(dispersion.has_enough_blocks([each.closed for each in folded.lengths]))


def _passes(told: MetricStatus, *, last: bool) -> bool:
    if told.role == "harm":
        return told.verdict in (MetricVerdict.UNDECIDED, MetricVerdict.PASSED, MetricVerdict.HETEROGENEOUS)
    return told.verdict == MetricVerdict.PASSED or (told.verdict == SUSPENDED and not last)
