"""Judges an attempt: counts of the edges in, what its state machine has to know out. Pure."""

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sundog_operator.api import DEFAULT_ALPHA, EvidenceEpoch, ExperimentStatus, MetricStatus, PlanGuardrail, is_latency
from sundog_operator.core import names, units
from sundog_operator.core.evidence import ceilings, dispersion, weighing
from sundog_operator.core.evidence.verdicts import Finding, Verdict
from sundog_operator.core.evidence.weighing import Epoch, Metric, Split, Units
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import control, exposures, grouped, load, machine, tallies
from sundog_operator.core.rollout.grouped import Grouped
from sundog_operator.core.rollout.judgement import Judgement
from sundog_operator.core.rollout.reported import EVENTS
from sundog_operator.core.rollout.resolve import (
    ERROR_RATE,
    REJECTIONS,
    Traffic,
    spoken,
    with_thresholds,
)
from sundog_operator.core.rollout.tallies import Block, Blocks, Tallies, Tally, sum_of

SUSPENDED: Final = "Suspended"
MISMATCH_LOG_E: Final = math.log(1000)
"""At an error of 0.001: a split that is off by chance alone is paused for once in a thousand rollouts."""

_DEAD_BLOCKS: Final = 3
_DEAD_FAILURES: Final = 20
_DEAD_SHARE: Final = 0.5
_FINE_SHARE: Final = 0.1
_LONGEST_ETA_S: Final = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What an attempt is judged by.

    Attributes:
        tallies: what the edges have counted of it.
        reports: what they report now.
        blocks: those in them.
        traffic: stable's, by which latencies that are not known yet are.
        replicas: healthy replicas of stable and of the candidate.
        now_s: Unix seconds.
        timeout_s: of a request.
    """

    tallies: Tallies
    reports: Sequence[EdgeReport]
    blocks: Blocks
    traffic: Traffic
    replicas: tuple[int, int]
    now_s: float
    timeout_s: float


def judge(status: ExperimentStatus, seen: Seen) -> Judgement:
    """What the evidence says of an attempt whose plan has guardrails."""
    present = {source for source, _ in tallies.rows_of(seen.tallies.attempt, seen.reports)}
    # One arm alone tells nothing of two.
    epochs = [each for each in status.evidence_epochs if 0 < each.weight < 100]
    late = tallies.overdue(seen.tallies.attempt, seen.reports, seen.now_s, seen.timeout_s)
    counted = [
        _counted(status, each, seen.tallies, present, late.get((each.number, names.CANARY), 0)) for each in epochs
    ]
    told = _tell_all(status, epochs, counted, load.ratio(machine.canary_weight(status), *seen.replicas))
    warm = status.step is not None and status.step.warm and bool(epochs) and epochs[-1].number == status.epoch.number
    unheard = tallies.silent(seen.tallies, seen.reports)
    ungrouped = _keeps_units(status) and tallies.ungrouped(seen.tallies.attempt, seen.reports)
    if ungrouped:
        told = tuple(map(_without_units, told))
    stable, canary = (
        seen.tallies.of(status.epoch.number, arm, present).assigned for arm in (names.STABLE, names.CANARY)
    )
    return Judgement(
        metrics=told,
        harm=_dead(status, seen) or next((each.message for each in told if each.verdict == Verdict.HARM), ""),
        passed=warm
        and not unheard
        and min(stable, canary) > 0
        and _is_long(epochs[-1], seen)
        and all(_passes(each, last=machine.next_weight(status) == 100) for each in told),
        silent=min(stable, canary) == 0,
        unheard=tuple(unheard),
        broken=_mismatch_of_units(status, epochs, seen) if _keeps_units(status) else _mismatch_of_requests(counted),
        control=control.watch(status.plan, seen.blocks, seen.now_s),
        requests=canary,
        guardrails=tuple(with_thresholds(each, seen.traffic) for each in status.plan.guardrails),
    )


def _keeps_units(status: ExperimentStatus) -> bool:
    """Whether what comes of one unit goes to one arm."""
    return units.frozen_in(status.plan) != units.REQUEST


def _is_long(newest: EvidenceEpoch, seen: Seen) -> bool:
    """Whether the newest epoch tells how its events vary: a last gate looks at nothing else."""
    folded = seen.tallies.folded.get(newest.number)
    return folded is not None and folded.lengths[0].closed >= dispersion.LEAST_BLOCKS


@dataclass(frozen=True, slots=True)
class _Counted:
    """An epoch as gates see it, and as the test of harm does: what became of a request that nobody knows of is taken for the worse.

    Requests that run on although their time is over fail at gates alone: they may still be answered, and harm is not taken back.
    """

    gate: Epoch
    harm: Epoch


def _counted(
    status: ExperimentStatus, epoch: EvidenceEpoch, known: Tallies, present: Collection[str], overdue: int
) -> _Counted:
    stable, canary = (known.of(epoch.number, arm, present) for arm in (names.STABLE, names.CANARY))
    folded = known.folded.get(epoch.number, tallies.Folded(0))
    kinds = [_kind(guardrail) for guardrail in status.plan.guardrails]
    blocks = [[(each.closed, *each.sums[EVENTS.index(kind)]) for each in folded.lengths] for kind in kinds]

    def made(stable: Tally, canary: Tally) -> Epoch:
        events = [(int(getattr(stable, kind)), int(getattr(canary, kind))) for kind in kinds]
        requests = stable.assigned, canary.assigned
        if not _keeps_units(status):
            return Epoch(epoch.weight / 100, requests, events, blocks)
        by_arm = [grouped.of(known.groups, epoch.number, arm) for arm in (names.STABLE, names.CANARY)]
        by_unit = _by_unit(
            by_arm, requests, [(EVENTS.index(kind), own) for kind, own in zip(kinds, events, strict=True)]
        )
        # Who asks often draws a share of requests that is not the weight: rates are compared by the requests that came.
        weight = canary.assigned / sum(requests) if min(requests) else epoch.weight / 100
        return Epoch(weight, requests, events, blocks, by_unit)

    return _Counted(gate=made(stable, _failed(canary, overdue)), harm=made(_failed(stable), canary))


def _by_unit(
    arms: Sequence[Grouped], requests: tuple[int, int], events: Sequence[tuple[int, tuple[int, int]]]
) -> Units:
    """What is known by group of units, given all requests of each arm and all events of each kind, which has that place in `EVENTS`."""

    def split(column: int, whole: tuple[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        stable, canary = (_with_rest(arm[column], all_) for arm, all_ in zip(arms, whole, strict=True))
        return stable, canary

    def alone(column: int) -> tuple[int, int]:
        stable, canary = (arm[column][grouped.ALONE] for arm in arms)
        return stable, canary

    return Units(
        requests=split(0, requests),
        events=[split(1 + kind, whole) for kind, whole in events],
        requests_alone=sum(alone(0)),
        events_alone=[alone(1 + kind) for kind, _ in events],
    )


def _with_rest(column: Sequence[int], whole: int) -> Sequence[int]:
    """The groups' counts and, as those of a last one, what nobody knows the group of: at worst all of it was one unit's."""
    return (*column[: grouped.GROUPS], max(0, whole - sum(column)))


def _kind(guardrail: PlanGuardrail) -> str:
    """Which of the events that are told apart a metric is about."""
    return {ERROR_RATE: "errors", REJECTIONS: "rejections"}.get(guardrail.metric, "slow")


def _failed(tally: Tally, overdue: int = 0) -> Tally:
    """With what was lost, and what is overdue, as failures."""
    return tally._replace(errors=tally.errors + tally.lost + overdue)


def _tell_all(
    status: ExperimentStatus, epochs: Sequence[EvidenceEpoch], counted: Sequence[_Counted], times: float
) -> tuple[MetricStatus, ...]:
    gates = [each.gate for each, epoch in zip(counted, epochs, strict=True) if not epoch.troubled]
    harms = [each.harm for each in counted]
    findings = _weigh(status, gates)
    harmful = findings if gates == harms else _weigh(status, harms)
    events = [
        tuple(map(sum, zip(*(epoch.events[index] for epoch in gates), strict=True))) for index in range(len(findings))
    ]
    closed = int(gates[-1].blocks[0][0][0]) if gates and gates[-1].blocks else 0
    newest, alpha = gates[-1] if gates else None, status.plan.alpha or DEFAULT_ALPHA
    told = [
        _below_ceiling(_tell(guardrail, finding, harm, happened, times), guardrail.max, index, newest, alpha)
        for index, (guardrail, finding, harm, happened) in enumerate(
            zip(status.plan.guardrails, findings, harmful, events, strict=True)
        )
    ]
    return tuple(_tell_earliest(each, closed) for each in told)


def _below_ceiling(
    told: MetricStatus, ceiling: float | None, index: int, newest: Epoch | None, alpha: float
) -> MetricStatus:
    """No gate passes what is not known to be below its ceiling, as the newest epoch has it."""
    if ceiling is None or newest is None or told.verdict != Verdict.PASSED:
        return told
    (_, hits), (_, trials) = newest.events[index], newest.units
    if ceilings.is_below(hits, trials, newest.blocks[index], ceiling, alpha, weighing.clumping(newest)):
        return told
    message = f"{told.name} of the candidate is not known to be below max {ceiling * 100:g} % yet: {hits} of {trials} requests"
    return told.model_copy(update={"verdict": str(Verdict.UNDECIDED), "message": message})


def _weigh(status: ExperimentStatus, epochs: Sequence[Epoch]) -> list[Finding]:
    following = machine.next_weight(status) / 100
    metrics = [
        # What takes long is compared with a time that has the margin in it already.
        Metric(0.0, each.floor, following, newest_alone=True)
        if is_latency(each.metric)
        else Metric(each.margin, each.floor, following, newest_alone=following == 1)
        for each in status.plan.guardrails
    ]
    return weighing.weigh(metrics, epochs, status.plan.alpha or DEFAULT_ALPHA)


def _tell(
    guardrail: PlanGuardrail, finding: Finding, harm: Finding, events: tuple[int, ...], times: float
) -> MetricStatus:
    finding = harm if harm.verdict == Verdict.HARM else finding
    verdict, message = finding.verdict, finding.sentence(_name(guardrail), names.STABLE)
    if verdict != harm.verdict and verdict == Verdict.HARM:
        verdict, message = (
            Verdict.UNDECIDED,
            f"{message} if all requests that were lost failed",
        )
    told = str(verdict)
    if is_latency(guardrail.metric) and guardrail.threshold_microseconds is None:
        told = str(Verdict.UNDECIDED)
        message = f"{guardrail.metric}: waits until stable has answered enough to know what a long answer is"
    elif is_latency(guardrail.metric):
        told, message = _by_load(verdict, message, times)
    return MetricStatus(
        name=guardrail.metric,
        role=guardrail.role,
        arm=names.CANARY,
        events=events,
        ratio=_number(finding.ratio),
        interval=tuple(end for end in map(_number, (finding.lower, finding.upper)) if end is not None),
        allowed=_number(finding.allowed),
        verdict=told,
        needed=_number(finding.needed),
        eta=_eta(finding.eta_s),
        message=message,
    )


def _without_units(told: MetricStatus) -> MetricStatus:
    """Nothing follows from requests of which it is not known how they depend on each other."""
    message = f"{told.name}: its edges do not count groups of units yet"
    return told.model_copy(update={"verdict": str(Verdict.UNDECIDED), "message": message, "eta": None})


def _tell_earliest(told: MetricStatus, closed: int) -> MetricStatus:
    """Say so where it is too early for anything but events, however many of those there are."""
    missing = dispersion.LEAST_BLOCKS - closed
    if missing <= 0 or told.verdict != Verdict.UNDECIDED:
        return told
    least, counted = dispersion.LEAST_BLOCKS * tallies.BLOCK_S, closed * tallies.BLOCK_S
    soonest = timedelta(seconds=missing * tallies.BLOCK_S)
    return told.model_copy(
        update={
            "message": f"{told.message}; no gate opens before {least} s were counted, so far {counted} s",
            "eta": max(told.eta, soonest) if told.eta is not None else None,
        }
    )


def _name(guardrail: PlanGuardrail) -> str:
    stable, canary = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
    if stable is None or canary is None:
        return guardrail.metric
    return f"{guardrail.metric} (answers above {spoken(stable)}, the candidate's above {spoken(canary)})"


def _by_load(verdict: Verdict, message: str, times: float) -> tuple[str, str]:
    """Latencies are compared only as far as the replicas' unequal loads do not explain them."""
    if math.isnan(times) and verdict in (Verdict.HARM, Verdict.PASSED, Verdict.UNDECIDED):
        return Verdict.UNDECIDED, f"{message}; not judged while an arm has no healthy replica"
    told = f"each replica of the candidate has {times:.3g} times the load of one of stable"
    if verdict == Verdict.HARM and times > load.EQUAL:
        return Verdict.UNDECIDED, f"{message}; but {told}"
    if verdict in (Verdict.PASSED, Verdict.UNDECIDED) and times < 1 / load.EQUAL:
        return SUSPENDED, f"{message}; not judged while {told}"
    return str(verdict), message


def _passes(told: MetricStatus, *, last: bool) -> bool:
    if told.role == "harm":
        return told.verdict in (Verdict.UNDECIDED, Verdict.PASSED, Verdict.HETEROGENEOUS)
    return told.verdict == Verdict.PASSED or (told.verdict == SUSPENDED and not last)


def _mismatch_of_requests(counted: Sequence[_Counted]) -> str:
    splits = [Split(each.gate.weight, each.gate.units) for each in counted]
    return _mismatch(weighing.mismatch(splits), splits, "requests")


def _mismatch_of_units(status: ExperimentStatus, epochs: Sequence[EvidenceEpoch], seen: Seen) -> str:
    """Units count once, at their first request, by the weight that was in force then; requests without one count as such."""
    weights = {each.number: each.weight / 100 for each in epochs}
    if status.plan.warmup_requests and status.plan.warmup_duration:
        # The warm-up has the same weight; most units come first in it.
        weights = {**{each.number - 1: each.weight / 100 for each in epochs}, **weights}
    first = exposures.first(seen.tallies.attempt, seen.reports, seen.now_s - tallies.GRACE_S - seen.timeout_s)
    arms = (names.STABLE, names.CANARY)
    found, alone = [], []
    for number, weight in weights.items():
        stable, canary = (first.get((number, arm), 0) for arm in arms)
        found.append(Split(weight, (stable, canary)))
        stable, canary = (grouped.of(seen.tallies.groups, number, arm)[0][grouped.ALONE] for arm in arms)
        alone.append(Split(weight, (stable, canary)))
    log_e = weighing.mismatch(found, weighing.UNITS_CONCENTRATION) + weighing.mismatch(alone)
    return _mismatch(log_e, [*found, *alone], "units and requests without one")


def _mismatch(log_e: float, splits: Sequence[Split], what: str) -> str:
    return f"{as_they_fell(splits, what)}: the split is not as it should be" if log_e >= MISMATCH_LOG_E else ""


def as_they_fell(splits: Sequence[Split], what: str) -> str:
    """How many fell to the candidate, beside what its weights make of all of them; `what` is what fell."""
    canary, total = sum(split.units[1] for split in splits), sum(sum(split.units) for split in splits)
    expected = sum(split.weight * sum(split.units) for split in splits)
    return f"the candidate got {canary} of {total} {what} where {expected:.0f} were expected"


def _dead(status: ExperimentStatus, seen: Seen) -> str:
    """Whether the candidate fails most of what it gets while stable does not: no statistics, and no wait for them.

    Requests that hang fail when their time is over, and count for when they came: so blocks are looked at that are as old as that.
    """
    newest = int(seen.now_s - tallies.GRACE_S) // tallies.BLOCK_S
    oldest = newest - _DEAD_BLOCKS - math.ceil(seen.timeout_s / tallies.BLOCK_S) - 1
    run: list[Sequence[Block]] = []
    for number in range(oldest, newest):
        own = [blocks[number] for blocks in seen.blocks.values() if number in blocks]
        run = [*run, own] if _is_dead(own) else []
        if len(run) == _DEAD_BLOCKS and (not _keeps_units(status) or _fails_for_many(seen)):
            canary = sum_of(names.CANARY, itertools.chain.from_iterable(run))
            seconds = _DEAD_BLOCKS * tallies.BLOCK_S
            return f"the candidate failed {canary.errors} of {canary.ended} requests in {seconds} s, while {names.STABLE} did not"
    return ""


def _fails_for_many(seen: Seen) -> bool:
    """Whether the candidate has failed in most groups of those who asked it. One user may make most of its requests, and fail anywhere."""
    told = tallies.groups_of(seen.tallies.attempt, seen.reports).values()
    total = functools.reduce(
        grouped.plus, [own for rows in told for (_, arm), own in rows.items() if arm == names.CANARY], grouped.NOTHING
    )
    asked = [place for place, count in enumerate(total[0]) if count]
    return not asked or 2 * sum(total[1][place] > 0 for place in asked) > len(asked)


def _is_dead(own: Sequence[Block]) -> bool:
    canary, stable = sum_of(names.CANARY, own), sum_of(names.STABLE, own)
    return (
        canary.errors >= _DEAD_FAILURES
        # What still runs may yet be answered: failures are often quicker than answers.
        and canary.errors > _DEAD_SHARE * (canary.ended + canary.running)
        and stable.errors < _FINE_SHARE * stable.ended
    )


def _number(value: float) -> float | None:
    """For a status: four digits, and nothing for what is no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _eta(seconds: float) -> timedelta | None:
    if not math.isfinite(seconds) or seconds > _LONGEST_ETA_S:
        return None
    return timedelta(seconds=math.ceil(seconds))
