"""Judges an experiment: each arm beside control, by the engine that judges a candidate beside stable."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from sundog_operator.api import CONTROL, EvidenceEpoch, ExperimentStatus, MetricStatus
from sundog_operator.core.analysis import (
    arm_pair,
    baseline_health,
    counters,
    dead_arm,
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
from sundog_operator.core.experiments import data_loss, outcome_evaluation, state
from sundog_operator.core.experiments.evaluation import ExperimentEvaluation, OutcomeRuling
from sundog_operator.core.experiments.winner import WinnerDecision
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import replica_counts
from sundog_operator.core.rollout.resolve import resolve_thresholds
from sundog_operator.core.stats import guardrail_test
from sundog_operator.core.stats.findings import MetricVerdict
from sundog_operator.core.stats.guardrail_test import ArmSplit


def evaluate_experiment(
    status: ExperimentStatus,
    seen: CollectedCounts,
    replicas: Mapping[str, int],
    feedback: tuple[str, str] | None = None,
) -> ExperimentEvaluation:
    """What the evidence says of an experiment.

    `replicas` are the healthy ones of each arm, control's among them; `feedback` is (reason, message) of why what edges tell of outcomes is
    not to be built on.
    """
    limits, going_on = _limits(status), {arm.name for arm in state.active_arms(status)}
    pairs = [pair for pair in make_pairs(status) if pair.arm in going_on]
    told = {pair.arm: _tell(status, pair, limits, seen, replicas) for pair in pairs}
    harm = {
        arm: next((f"arm {arm}: {each.message}" for each in own if each.verdict == MetricVerdict.HARM), "")
        for arm, own in told.items()
    }
    dead = {pair.arm: dead_arm.find_dead_arm(pair, limits, seen) for pair in pairs}
    present = seen.present
    asked = [CONTROL, *(pair.arm for pair in pairs)]
    requests = [seen.tallies.of(status.epoch.number, arm, present).assigned for arm in asked]
    broken = _mismatch(status, limits, seen)
    watched = baseline_health.evaluate_baseline(status.plan, seen.blocks, seen.now_s, CONTROL, asked[1:])
    unreachable_edges = tuple(counters.find_unreachable_edges(seen.tallies, seen.reports))
    silent = f"{', '.join(unreachable_edges)} has not told what was counted there" if unreachable_edges else ""
    lost = data_loss.find_data_loss(status, seen)
    undecided = broken or watched.message or silent or next((each[1] for each in (feedback, lost) if each), "")
    at = datetime.fromtimestamp(seen.now_s, UTC)
    outcomes = outcome_evaluation.evaluate_experiment_outcomes(status, seen.tallies, _guardrails(told), undecided, at)
    return ExperimentEvaluation(
        metrics=(*(each for own in told.values() for each in own), *outcomes.metrics),
        harm={arm: why for arm, why in harm.items() if why},
        dead={arm: why for arm, why in dead.items() if why},
        broken=broken,
        control=watched,
        unreachable_edges=unreachable_edges,
        requests=min(requests),
        units=_units(status, seen) if limits.has_sticky_units else _requests(status, seen),
        guardrails=resolve_thresholds(status.plan.guardrails, seen.traffic),
        ruling=_ruling(outcomes.decided),
        shares=outcomes.shares,
        rate=outcomes.rate,
        feedback=feedback,
        lost=lost,
        unknown_units_message=data_loss.report_unknown_units(seen),
    )


def _guardrails(told: Mapping[str, Sequence[MetricStatus]]) -> dict[str, dict[str, str]]:
    """Of each arm the verdict of each guardrail that it has to pass."""
    return {arm: {each.name: each.verdict for each in own if each.role == "guardrail"} for arm, own in told.items()}


def _ruling(decided: WinnerDecision | None) -> OutcomeRuling | None:
    return None if decided is None else OutcomeRuling(str(decided.decision), decided.winner, decided.reason)


def make_pairs(status: ExperimentStatus) -> list[ArmPair]:
    """Each arm beside control, in the order in which their blocks are folded."""
    arms = [arm.name for arm in state.treatment_arms(status)]
    return [ArmPair(CONTROL, name, f"arm {name}", place) for place, name in enumerate(arms)]


def _limits(status: ExperimentStatus) -> EvaluationLimits:
    """The error is shared among all arms of the plan. All epochs are evidence of one ratio, whatever weights they have."""
    arms = len(state.treatment_arms(status))
    return EvaluationLimits(
        guardrails=status.plan.guardrails,
        levels=arm_pair.error_levels(status.plan, arms=arms),
        next_weight=1.0,
        newest_alone=False,
        newest_alone_for_latency=False,
        has_sticky_units=units.is_sticky(status.plan),
    )


def _tell(
    status: ExperimentStatus,
    pair: ArmPair,
    limits: EvaluationLimits,
    seen: CollectedCounts,
    replicas: Mapping[str, int],
) -> tuple[MetricStatus, ...]:
    epochs, shares = [], []
    for epoch, by_arm in _shares(status):
        both = by_arm.get(CONTROL, 0), by_arm.get(pair.arm, 0)
        if min(both) > 0:
            epochs.append(epoch)
            shares.append(both[1] / sum(both))
    counted = epoch_counts.collect_epochs(pair, limits, epochs, shares, seen)
    told = metric_status.evaluate_metrics(pair, limits, epochs, counted, seen, _load(status, pair.arm, replicas))
    return metric_status.exclude_uncounted_metrics(told, limits, seen)


def _shares(status: ExperimentStatus) -> Iterator[tuple[EvidenceEpoch, dict[str, int]]]:
    """Epochs of evidence with the buckets of each arm in them."""
    for epoch in status.evidence_epochs:
        if epoch.buckets is not None and len(epoch.buckets) == len(status.arms):
            yield epoch, {arm.name: own for arm, own in zip(status.arms, epoch.buckets, strict=True)}


def _load(status: ExperimentStatus, arm: str, replicas: Mapping[str, int]) -> float:
    """How many times the load of one of stable's replicas one of an arm has."""
    shares = state.target_buckets(status)
    of_stable = sum(shares[name] for name in names.STABLE_ARMS)
    return replica_counts.pool_load_ratio(shares[arm], replicas.get(arm, 0), of_stable, replicas.get(CONTROL, 0))


def _mismatch(status: ExperimentStatus, limits: EvaluationLimits, seen: CollectedCounts) -> str:
    """Why nothing can be concluded: units, or requests where each is one, did not fall to the arms as their shares say."""
    arms = [arm.name for arm in status.arms]
    shares = {epoch.number: tuple(by_arm[arm] / BUCKETS for arm in arms) for epoch, by_arm in _shares(status)}
    if limits.has_sticky_units:
        splits, log_e = split_mismatch.count_unit_splits(arms, include_warmup(status, shares), seen)
        what = split_mismatch.UNITS_TEXT
    else:
        present = seen.present
        splits = [
            ArmSplit(own, tuple(seen.tallies.of(number, arm, present).assigned for arm in arms))
            for number, own in shares.items()
        ]
        log_e, what = guardrail_test.mismatch_log_e(splits), "requests"
    if log_e < MISMATCH_LOG_E:
        return outcome_evaluation.find_split_mismatch(status, seen.tallies) if limits.has_sticky_units else ""
    return f"{describe_split(arms, splits, what)}: the split is not as it should be"


def include_warmup(status: ExperimentStatus, shares: Mapping[int, arm_pair.ArmShares]) -> dict[int, arm_pair.ArmShares]:
    """The shares of epochs of evidence, with those of the warm-up before the first one, in which most units come first.

    Where epochs were let go of to make room, the one before those that are left is no warm-up, and may have had other shares.
    """
    if not shares or len(status.evidence_epochs) >= state.MAX_EPOCHS:
        return dict(shares)
    first = min(shares)
    return {**split_mismatch.include_warmup(status.plan, {first: shares[first]}), **shares}


def describe_split(arms: Sequence[str], splits: Sequence[ArmSplit], what: str) -> str:
    """How many fell to each arm, beside what its shares make of all of them; `what` is what fell."""
    total = sum(sum(split.units) for split in splits)
    told = [
        f"{arm} {sum(split.units[place] for split in splits)}"
        f" ({sum(split.shares[place] * sum(split.units) for split in splits):.0f} expected)"
        for place, arm in enumerate(arms)
    ]
    return f"of {total} {what} {', '.join(told)}"


def _requests(status: ExperimentStatus, seen: CollectedCounts) -> dict[str, int]:
    """Requests by arm, those at edges that are gone included."""
    return {arm.name: seen.tallies.over_epochs(arm.name).assigned for arm in status.arms}


def _units(status: ExperimentStatus, seen: CollectedCounts) -> dict[str, int]:
    """Units by arm, estimated from the sample that edges have; none where there is no sample."""
    share, first = first_exposures.sample_first_exposures(seen.tallies.attempt, seen.reports, seen.now_s)
    if not share:
        return {}
    found = {
        arm.name: round(sum(count for (_, name), count in first.items() if name == arm.name) / share)
        for arm in status.arms
    }
    alone = unit_groups.WITHOUT_UNIT
    without = {
        arm.name: sum(
            own[0][alone]
            for rows in seen.tallies.groups.values()
            for (_, name), own in rows.items()
            if name == arm.name
        )
        for arm in status.arms
    }
    return {arm: found[arm] + without[arm] for arm in found}
