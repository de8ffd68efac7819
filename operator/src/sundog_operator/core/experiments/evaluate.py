"""Judges an experiment: each arm beside control, by the engine that judges a candidate beside stable."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from sundog_operator.api import CONTROL, EvidenceEpoch, ExperimentStatus, MetricStatus
from sundog_operator.core.analysis import baseline_health, counters, evaluate, exposures, unit_groups
from sundog_operator.core.analysis.evaluate import MISMATCH_LOG_E, Counted, Limits, Pair
from sundog_operator.core.edge import units
from sundog_operator.core.edge.buckets import BUCKETS
from sundog_operator.core.experiments import data_loss, decision, machine
from sundog_operator.core.experiments.evaluation import Judgement, Ruling
from sundog_operator.core.experiments.winner import Decided
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import load
from sundog_operator.core.rollout.resolve import with_thresholds
from sundog_operator.core.stats import metric_evidence
from sundog_operator.core.stats.metric_evidence import Split
from sundog_operator.core.stats.verdicts import Verdict


def judge(
    status: ExperimentStatus,
    seen: Counted,
    replicas: Mapping[str, int],
    feedback: tuple[str, str] | None = None,
) -> Judgement:
    """What the evidence says of an experiment.

    `replicas` are the healthy ones of each arm, control's among them; `feedback` is (reason, message) of why what edges tell of outcomes is
    not to be built on.
    """
    limits, going_on = _limits(status), {arm.name for arm in machine.going_on(status)}
    pairs = [pair for pair in pairs_of(status) if pair.arm in going_on]
    told = {pair.arm: _tell(status, pair, limits, seen, replicas) for pair in pairs}
    harm = {
        arm: next((f"arm {arm}: {each.message}" for each in own if each.verdict == Verdict.HARM), "")
        for arm, own in told.items()
    }
    dead = {pair.arm: evaluate.dead(pair, limits, seen) for pair in pairs}
    present = seen.present
    asked = [CONTROL, *(pair.arm for pair in pairs)]
    requests = [seen.tallies.of(status.epoch.number, arm, present).assigned for arm in asked]
    broken = _mismatch(status, limits, seen)
    watched = baseline_health.watch(status.plan, seen.blocks, seen.now_s, CONTROL, asked[1:])
    unheard = tuple(counters.silent(seen.tallies, seen.reports))
    silent = f"{', '.join(unheard)} has not told what was counted there" if unheard else ""
    lost = data_loss.found(status, seen)
    undecided = broken or watched.message or silent or next((each[1] for each in (feedback, lost) if each), "")
    at = datetime.fromtimestamp(seen.now_s, UTC)
    outcomes = decision.look(status, seen.tallies, _guardrails(told), undecided, at)
    return Judgement(
        metrics=(*(each for own in told.values() for each in own), *outcomes.metrics),
        harm={arm: why for arm, why in harm.items() if why},
        dead={arm: why for arm, why in dead.items() if why},
        broken=broken,
        control=watched,
        unheard=unheard,
        requests=min(requests),
        units=_units(status, seen) if limits.keeps_units else _requests(status, seen),
        guardrails=with_thresholds(status.plan.guardrails, seen.traffic),
        ruling=_ruling(outcomes.decided),
        shares=outcomes.shares,
        rate=outcomes.rate,
        feedback=feedback,
        lost=lost,
        of_nobody=data_loss.of_nobody(seen),
    )


def _guardrails(told: Mapping[str, Sequence[MetricStatus]]) -> dict[str, dict[str, str]]:
    """Of each arm the verdict of each guardrail that it has to pass."""
    return {arm: {each.name: each.verdict for each in own if each.role == "guardrail"} for arm, own in told.items()}


def _ruling(decided: Decided | None) -> Ruling | None:
    return None if decided is None else Ruling(str(decided.decision), decided.winner, decided.reason)


def pairs_of(status: ExperimentStatus) -> list[Pair]:
    """Each arm beside control, in the order in which their blocks are folded."""
    arms = [arm.name for arm in machine.beside_control(status)]
    return [Pair(CONTROL, name, f"arm {name}", place) for place, name in enumerate(arms)]


def _limits(status: ExperimentStatus) -> Limits:
    """The error is shared among all arms of the plan. All epochs are evidence of one ratio, whatever weights they have."""
    arms = len(machine.beside_control(status))
    return Limits(
        guardrails=status.plan.guardrails,
        levels=evaluate.levels_of(status.plan, arms=arms),
        next_weight=1.0,
        newest_alone=False,
        newest_times=False,
        keeps_units=units.keeps(status.plan),
    )


def _tell(
    status: ExperimentStatus, pair: Pair, limits: Limits, seen: Counted, replicas: Mapping[str, int]
) -> tuple[MetricStatus, ...]:
    epochs, shares = [], []
    for epoch, by_arm in _shares(status):
        both = by_arm.get(CONTROL, 0), by_arm.get(pair.arm, 0)
        if min(both) > 0:
            epochs.append(epoch)
            shares.append(both[1] / sum(both))
    counted = evaluate.count(pair, limits, epochs, shares, seen)
    told = evaluate.tell(pair, limits, epochs, counted, seen, _load(status, pair.arm, replicas))
    return evaluate.as_counted(told, limits, seen)


def _shares(status: ExperimentStatus) -> Iterator[tuple[EvidenceEpoch, dict[str, int]]]:
    """Epochs of evidence with the buckets of each arm in them."""
    for epoch in status.evidence_epochs:
        if epoch.buckets is not None and len(epoch.buckets) == len(status.arms):
            yield epoch, {arm.name: own for arm, own in zip(status.arms, epoch.buckets, strict=True)}


def _load(status: ExperimentStatus, arm: str, replicas: Mapping[str, int]) -> float:
    """How many times the load of one of stable's replicas one of an arm has."""
    shares = machine.buckets_of(status)
    of_stable = sum(shares[name] for name in names.OF_STABLE)
    return load.ratio_to_pool(shares[arm], replicas.get(arm, 0), of_stable, replicas.get(CONTROL, 0))


def _mismatch(status: ExperimentStatus, limits: Limits, seen: Counted) -> str:
    """Why nothing can be concluded: units, or requests where each is one, did not fall to the arms as their shares say."""
    arms = [arm.name for arm in status.arms]
    shares = {epoch.number: tuple(by_arm[arm] / BUCKETS for arm in arms) for epoch, by_arm in _shares(status)}
    if limits.keeps_units:
        splits, log_e = evaluate.splits_of_units(arms, with_warmup(status, shares), seen)
        what = evaluate.OF_UNITS
    else:
        present = seen.present
        splits = [
            Split(own, tuple(seen.tallies.of(number, arm, present).assigned for arm in arms))
            for number, own in shares.items()
        ]
        log_e, what = metric_evidence.mismatch(splits), "requests"
    if log_e < MISMATCH_LOG_E:
        return decision.split_is_off(status, seen.tallies) if limits.keeps_units else ""
    return f"{as_they_fell(arms, splits, what)}: the split is not as it should be"


def with_warmup(status: ExperimentStatus, shares: Mapping[int, evaluate.Shares]) -> dict[int, evaluate.Shares]:
    """The shares of epochs of evidence, with those of the warm-up before the first one, in which most units come first.

    Where epochs were let go of to make room, the one before those that are left is no warm-up, and may have had other shares.
    """
    if not shares or len(status.evidence_epochs) >= machine.MOST_EPOCHS:
        return dict(shares)
    first = min(shares)
    return {**evaluate.with_warmup(status.plan, {first: shares[first]}), **shares}


def as_they_fell(arms: Sequence[str], splits: Sequence[Split], what: str) -> str:
    """How many fell to each arm, beside what its shares make of all of them; `what` is what fell."""
    total = sum(sum(split.units) for split in splits)
    told = [
        f"{arm} {sum(split.units[place] for split in splits)}"
        f" ({sum(split.shares[place] * sum(split.units) for split in splits):.0f} expected)"
        for place, arm in enumerate(arms)
    ]
    return f"of {total} {what} {', '.join(told)}"


def _requests(status: ExperimentStatus, seen: Counted) -> dict[str, int]:
    """Requests by arm, those at edges that are gone included."""
    return {arm.name: seen.tallies.over_epochs(arm.name).assigned for arm in status.arms}


def _units(status: ExperimentStatus, seen: Counted) -> dict[str, int]:
    """Units by arm, estimated from the sample that edges have; none where there is no sample."""
    share, first = exposures.known(seen.tallies.attempt, seen.reports, seen.now_s)
    if not share:
        return {}
    found = {
        arm.name: round(sum(count for (_, name), count in first.items() if name == arm.name) / share)
        for arm in status.arms
    }
    alone = unit_groups.ALONE
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
