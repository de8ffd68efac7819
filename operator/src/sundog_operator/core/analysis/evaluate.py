"""Judges an attempt: counts of the edges in, what its state machine has to know out. Pure.

What compares two arms takes them as a `Pair` and is the same for a candidate beside stable and for an arm of an experiment beside control.
"""

import functools
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    DEFAULT_ALPHA,
    EvidenceEpoch,
    ExperimentStatus,
    FrozenPlan,
    MetricStatus,
    PlanGuardrail,
    is_latency_metric,
)
from sundog_operator.core.analysis import (
    baseline_health,
    counters,
    early_harm,
    first_exposures,
    stable_traffic,
    unit_groups,
)
from sundog_operator.core.analysis.counters import ArmCounts, Block, BlocksByEpoch, Counters, sum_arm_counts
from sundog_operator.core.analysis.unit_groups import GroupCounts
from sundog_operator.core.edge import units
from sundog_operator.core.edge.reported_counts import EVENTS, SLOW
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import freeze, header_match, replica_counts, state_machine
from sundog_operator.core.rollout.evaluation import Evaluation
from sundog_operator.core.rollout.freeze import MIXTURE
from sundog_operator.core.rollout.resolve import (
    ERROR_RATE,
    REJECTIONS,
    RETRIES,
    StableTraffic,
    format_latency,
    latency_guardrails,
    latency_quantile,
    resolve_thresholds,
)
from sundog_operator.core.stats import dispersion, guardrail_test, multiple_testing, rate_ceiling
from sundog_operator.core.stats.guardrail_test import (
    ArmSplit,
    EpochCounts,
    ErrorLevels,
    GroupedCounts,
    GuardrailMetric,
)
from sundog_operator.core.stats.verdicts import DecisionBasis, MetricFinding, MetricVerdict

SUSPENDED: Final = "Suspended"
MISMATCH_LOG_E: Final = math.log(1000)
"""At an error of 0.001: a split that is off by chance alone is paused for once in a thousand rollouts."""

_DEAD_BLOCKS: Final = 3
_DEAD_FAILURES: Final = 20
_DEAD_SHARE: Final = 0.5
_FINE_SHARE: Final = 0.1
_LONGEST_ETA_S: Final = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class CollectedCounts:
    """What was counted of an attempt.

    Attributes:
        tallies: what the edges have counted of it.
        reports: what they report now.
        blocks: those in them.
        traffic: stable's, by which latencies that are not known yet are.
        now_s: Unix seconds.
        timeout_s: of a request.
    """

    tallies: Counters
    reports: Sequence[EdgeReport]
    blocks: BlocksByEpoch
    traffic: StableTraffic
    now_s: float
    timeout_s: float

    @property
    def present(self) -> set[str]:
        """The processes of edges that tell of it now."""
        return {source for source, _ in counters.assigned_rows(self.tallies.attempt, self.reports)}


@dataclass(frozen=True, slots=True)
class RolloutCounts(CollectedCounts):
    """What a rollout is judged by. `replicas` are healthy ones of stable and of the candidate."""

    replicas: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ArmPair:
    """Two arms that are compared.

    Attributes:
        control: the one that the other is compared with.
        arm: the other.
        who: what that one is called in a sentence.
        place: which it is of those whose blocks were folded.
    """

    control: str = names.STABLE
    arm: str = names.CANARY
    who: str = "the candidate"
    place: int = 0

    @property
    def both(self) -> tuple[str, str]:
        """Their names."""
        return self.control, self.arm


ROLLOUT_PAIR: Final = ArmPair()
UNITS_TEXT: Final = "units and requests without one"
ArmShares = tuple[float, ...]
"""Of what comes, that of each arm; of sum 1."""


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """What an arm is held to.

    Attributes:
        guardrails: what it may not be worse in, by how much.
        levels: how much error each test may have.
        next_weight: the share of traffic that it is to have then, in (0, 1].
        newest_alone: whether rates are judged by the newest epoch only.
        newest_times: whether latencies are.
        keeps_units: whether what comes of one unit goes to one arm.
        bake: the candidate's percent in epochs that decide no gate, and in which harm is looked for all the same; None for none, or where
            there are no others.
    """

    guardrails: Sequence[PlanGuardrail]
    levels: ErrorLevels
    next_weight: float
    newest_alone: bool
    newest_alone_for_latency: bool
    has_sticky_units: bool
    bake: int | None = None


def evaluate_rollout(status: ExperimentStatus, seen: RolloutCounts) -> Evaluation:
    """What the evidence says of an attempt whose plan has guardrails."""
    present = seen.present
    # One arm alone tells nothing of two.
    epochs = [each for each in status.evidence_epochs if 0 < each.weight < 100]
    shares = [each.weight / 100 for each in epochs]
    limits = _limits(status)
    counted = collect_epochs(ROLLOUT_PAIR, limits, epochs, shares, seen)
    told = evaluate_metrics(
        ROLLOUT_PAIR,
        limits,
        epochs,
        counted,
        seen,
        replica_counts.load_ratio(state_machine.canary_weight(status), *seen.replicas),
    )
    warm = status.step is not None and status.step.warm and bool(epochs) and epochs[-1].number == status.epoch.number
    unreachable_edges = counters.find_unreachable_edges(seen.tallies, seen.reports)
    told = _beside_headers(exclude_uncounted_metrics(told, limits, seen), status)
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
        and all(_passes(each, last=state_machine.next_weight(status) == 100) for each in told),
        silent=min(stable, canary) == 0,
        unreachable_edges=tuple(unreachable_edges),
        broken=_mismatch_of_units(status, epochs, seen) if limits.has_sticky_units else _mismatch_of_requests(counted),
        control=baseline_health.evaluate_baseline(status.plan, seen.blocks, seen.now_s),
        requests=canary,
        guardrails=resolve_thresholds(status.plan.guardrails, seen.traffic),
        lost=_lost(epochs, seen),
    )


def _with_early_harm(
    told: tuple[MetricStatus, ...], status: ExperimentStatus, seen: CollectedCounts
) -> tuple[MetricStatus, ...]:
    """With harm of the candidate's first blocks, as long as the usual test has too few of them."""
    over, evident = seen.tallies.over, _shares(status.evidence_epochs)
    lengths = zip(*(over[number].lengths for number in evident if number in over), strict=True)
    if dispersion.has_enough_blocks([sum(each.closed for each in epochs) for epochs in lengths]):
        return told
    known = {number: own[-1] for number, own in include_warmup(status.plan, evident).items()}
    weights = {status.epoch.number: state_machine.canary_weight(status) / 100, **known}
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


def _limits(status: ExperimentStatus) -> EvaluationLimits:
    following, plan = state_machine.next_weight(status) / 100, status.plan
    return EvaluationLimits(
        guardrails=plan.guardrails,
        levels=error_levels(plan, gate_error_share=_gate_share(status) if following == 1 else 1.0),
        next_weight=following,
        newest_alone=following == 1,
        newest_alone_for_latency=True,
        has_sticky_units=units.is_sticky(plan),
        bake=_bake(plan),
    )


def error_levels(plan: FrozenPlan, *, arms: int = 1, gate_error_share: float = 1.0) -> ErrorLevels:
    """The error of one of so many arms, as a plan has frozen it."""
    alpha = (plan.alpha or DEFAULT_ALPHA) / arms
    return ErrorLevels(
        alpha, plan.harm_shares or 1, gate_error_share, plan.mixture or MIXTURE, 1 - (plan.early_harm or 0.0)
    )


def _gate_share(status: ExperimentStatus) -> float:
    """What the gate in question has of the error where it looks at the newest epoch alone: the rest is for epochs that begin anew."""
    deciding = [each for each in status.evidence_epochs if 0 < each.weight < 100 and each.weight != _bake(status.plan)]
    return multiple_testing.epoch_error_share(1 + (deciding[-1].restarts if deciding else 0))


def _bake(plan: FrozenPlan) -> int | None:
    """The candidate's percent in a bake after others; one that it has first, as after a shadow, is all there is to tell."""
    baked = next((step.weight for step in plan.steps if step.gate == freeze.BAKE), None)
    return baked if baked is not None and any(0 < step.weight < baked for step in plan.steps) else None


def _is_long(newest: EvidenceEpoch, seen: CollectedCounts) -> bool:
    """Whether the newest epoch tells how its events vary: a last gate looks at nothing else."""
    folded = seen.tallies.folded.get(newest.number)
    return folded is not None and bool(dispersion.has_enough_blocks([each.closed for each in folded.lengths]))


@dataclass(frozen=True, slots=True)
class EpochComparison:
    """An epoch as gates see it, and as the test of harm does: what became of a request that nobody knows of is taken for the worse.

    Both see what lies in blocks, by which it is known how events come together: gates in those whose requests have ended, harm in those
    that are over. Requests that run on although their time is over fail at gates alone: they may still be answered, and harm is not taken
    back.

    Attributes:
        split: how all requests until now fell to the arms.
        unknown: of how many requests of the arm nobody knows how they ended, and how many run on although their time is over.
    """

    gate: EpochCounts
    harm: EpochCounts
    split: ArmSplit
    unknown: tuple[int, int] = (0, 0)


def collect_epochs(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    shares: Sequence[float],
    seen: CollectedCounts,
) -> list[EpochComparison]:
    """What was counted of a pair in epochs of evidence, in each of which the arm was to get such a share of what both get."""
    late = counters.count_overdue_requests(seen.tallies.attempt, seen.reports, seen.now_s, seen.timeout_s)
    present = seen.present
    return [
        _compared(pair, limits, each.number, share, seen.tallies, present, late.get((each.number, pair.arm), 0))
        for each, share in zip(epochs, shares, strict=True)
    ]


def _compared(
    pair: ArmPair,
    limits: EvaluationLimits,
    epoch: int,
    share: float,
    known: Counters,
    present: Collection[str],
    overdue: int,
) -> EpochComparison:
    until_now = [known.of(epoch, name, present) for name in pair.both]
    control, arm = until_now
    kinds = _kinds(limits.guardrails)
    by_unit = _units_of(pair, kinds, epoch, known, until_now, overdue) if limits.has_sticky_units else None

    def made(folded: counters.EpochBlocks, failed_control: int, failed_arm: int) -> EpochCounts:
        blocks = [
            [(each.closed, *each.of(EVENTS.index(kind), pair.place)) for each in folded.lengths] for kind in kinds
        ]
        counts = folded.counts(pair.place)
        both = [_with_unknown_ends(*each) for each in zip(counts, until_now, (failed_control, failed_arm), strict=True)]
        requests = both[0].assigned, both[1].assigned
        events = [(int(getattr(both[0], kind)), int(getattr(both[1], kind))) for kind in kinds]
        # Who asks often draws a share of requests that is not the weight: rates are compared by the requests that came.
        weight = requests[1] / sum(requests) if limits.has_sticky_units and min(requests) else share
        return EpochCounts(weight, requests, events, blocks, by_unit)

    none = counters.EpochBlocks.begun(0, 1 + pair.place)
    gate = made(known.folded.get(epoch, none), 0, arm.lost + overdue)
    harm = made(known.over.get(epoch, none), control.lost, 0)
    return EpochComparison(gate, harm, ArmSplit.of_two(share, (control.assigned, arm.assigned)), (arm.lost, overdue))


def _with_unknown_ends(counts: ArmCounts, until_now: ArmCounts, failed: int) -> ArmCounts:
    """What blocks have, and what was lost, which no block has; so many requests are taken for failures."""
    return counts._replace(assigned=counts.assigned + until_now.lost, errors=counts.errors + failed)


def _units_of(
    pair: ArmPair, kinds: Sequence[str], epoch: int, known: Counters, until_now: Sequence[ArmCounts], overdue: int
) -> GroupedCounts:
    """What is known by group of units until now, with failures of which nobody knows the group: they may all be one unit's.

    It only tells how much a unit's requests vary together, for which newer counts than those that are judged do no harm.
    """
    by_arm = [unit_groups.sum_groups(known.groups, epoch, name) for name in pair.both]
    control, arm = (
        each._replace(errors=each.errors + each.lost + late) for each, late in zip(until_now, (0, overdue), strict=True)
    )
    events = [(EVENTS.index(kind), (int(getattr(control, kind)), int(getattr(arm, kind)))) for kind in kinds]
    return _by_unit(by_arm, (control.assigned, arm.assigned), events)


def _by_unit(
    arms: Sequence[GroupCounts], requests: tuple[int, int], events: Sequence[tuple[int, tuple[int, int]]]
) -> GroupedCounts:
    """What is known by group of units, given all requests of each arm and all events of each kind, which has that place in `EVENTS`."""

    def split(column: int, whole: tuple[int, int]) -> tuple[Sequence[int], Sequence[int]]:
        stable, canary = (_with_rest(arm[column], all_) for arm, all_ in zip(arms, whole, strict=True))
        return stable, canary

    def alone(column: int) -> tuple[int, int]:
        stable, canary = (arm[column][unit_groups.WITHOUT_UNIT] for arm in arms)
        return stable, canary

    return GroupedCounts(
        requests=split(0, requests),
        events=[split(1 + kind, whole) for kind, whole in events],
        requests_without_unit=sum(alone(0)),
        events_without_unit=[alone(1 + kind) for kind, _ in events],
    )


def _with_rest(column: Sequence[int], whole: int) -> Sequence[int]:
    """The groups' counts and, as those of a last one, what nobody knows the group of: at worst all of it was one unit's."""
    return (*column[: unit_groups.GROUPS], max(0, whole - sum(column)))


_RATES: Final[Mapping[str, str]] = {ERROR_RATE: "errors", REJECTIONS: "rejections", RETRIES: "retried"}


def _kinds(guardrails: Sequence[PlanGuardrail]) -> list[str]:
    """Which of the events that are told apart each metric is about: of latencies each has its own."""
    slow = itertools.chain(SLOW, itertools.repeat(SLOW[-1]))
    return [_RATES.get(each.metric) or next(slow) for each in guardrails]


def _later_than_allowed(
    pair: ArmPair, limits: EvaluationLimits, epochs: Sequence[EvidenceEpoch], seen: CollectedCounts
) -> dict[str, tuple[int, int]]:
    """By latency with a longest time, how many of the arm's requests of the newest epoch of gates may have taken longer, and of how many.

    All do that are not known to have been answered in time or rejected: edges count thresholds to the microsecond, other times by bucket.
    Times are not told by block, so this is of all requests until now; what is late and new only keeps a gate shut.
    """
    longest = {each.metric: each.max_microseconds for each in limits.guardrails if each.max_microseconds is not None}
    newest = next((each.number for each in reversed(epochs) if _decides(limits, each)), 0)
    tally, attempt = seen.tallies.of(newest, pair.arm, seen.present), seen.tallies.attempt
    return {
        metric: (
            max(
                0,
                tally.assigned
                - tally.rejections
                - stable_traffic.count_answers_within(attempt, pair.arm, newest, seen.reports, microseconds),
            ),
            tally.assigned,
        )
        for metric, microseconds in longest.items()
    }


def evaluate_metrics(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    counted: Sequence[EpochComparison],
    seen: CollectedCounts,
    times: float,
) -> tuple[MetricStatus, ...]:
    """What is known of each metric of an arm, a replica of which has so many times the load of one of control."""
    gates = [each.gate for each, epoch in zip(counted, epochs, strict=True) if _decides(limits, epoch)]
    harms = [each.harm for each in counted]
    findings = _weigh(limits, gates)
    harmful = findings if gates == harms else _weigh(limits, harms)
    decided = [
        _decided(guardrail, _Decided(finding, gates), _Decided(harm, harms))
        for guardrail, finding, harm in zip(limits.guardrails, findings, harmful, strict=True)
    ]
    closed = int(gates[-1].blocks[0][0][0]) if gates and gates[-1].blocks else 0
    newest, late = gates[-1] if gates else None, _later_than_allowed(pair, limits, epochs, seen)
    unknown = [each.unknown for each, epoch in zip(counted, epochs, strict=True) if _decides(limits, epoch)]
    told = [
        _below_ceiling(
            pair, _tell(pair, guardrail, own, own.events(index), times), guardrail, index, newest, limits.levels, late
        )
        for index, (guardrail, own) in enumerate(zip(limits.guardrails, decided, strict=True))
    ]
    return tuple(_tell_earliest(_with_unknown(pair, each, unknown), closed) for each in told)


def _with_unknown(pair: ArmPair, told: MetricStatus, unknown: Sequence[tuple[int, int]]) -> MetricStatus:
    """With how many of its failures are none that anybody saw, where there are some: a gate takes them for failures."""
    lost, overdue = (sum(column) for column in zip(*unknown, strict=True)) if unknown else (0, 0)
    if told.name != ERROR_RATE or not lost + overdue:
        return told
    ends = (
        f"{lost} were lost, nobody knows how they ended" if lost else "",
        f"{overdue} run on although their time is over" if overdue else "",
    )
    beside = "besides, of" if told.verdict == MetricVerdict.HARM else "of"
    message = f"{told.message}; {beside} {pair.who}'s requests {' and '.join(filter(None, ends))}"
    return told.model_copy(update={"message": message})


def _below_ceiling(
    pair: ArmPair,
    told: MetricStatus,
    guardrail: PlanGuardrail,
    index: int,
    newest: EpochCounts | None,
    levels: ErrorLevels,
    late: Mapping[str, tuple[int, int]],
) -> MetricStatus:
    """No gate passes what is not known to be below its ceiling, as the newest epoch has it."""
    longest = guardrail.max_microseconds
    ceiling = guardrail.max if longest is None else 1 - latency_quantile(guardrail.metric)
    if ceiling is None or newest is None or told.verdict not in (MetricVerdict.PASSED, SUSPENDED):
        return told
    hits, trials = (newest.events[index][1], newest.units[1]) if longest is None else late[guardrail.metric]
    if rate_ceiling.is_below(
        hits,
        trials,
        newest.blocks[index],
        ceiling,
        levels.alpha * levels.gate_error_share,
        guardrail_test.request_design_effect(newest),
    ):
        return told
    limit = f"{ceiling * 100:g} %" if longest is None else format_latency(longest)
    above = "" if longest is None else f", of which {ceiling * 100:.3g} % may take longer"
    message = f"{told.name} of {pair.who} is not known to be below max {limit} yet: {hits} of {trials} requests{above}"
    return told.model_copy(update={"verdict": str(MetricVerdict.UNDECIDED), "message": message})


def _decides(limits: EvaluationLimits, epoch: EvidenceEpoch) -> bool:
    """Whether gates look at an epoch: what a bake counts comes after them."""
    return not epoch.troubled and epoch.weight != limits.bake


def _weigh(limits: EvaluationLimits, epochs: Sequence[EpochCounts]) -> list[MetricFinding]:
    following = limits.next_weight
    metrics = [
        # What takes long is compared with a time that has the margin in it already.
        GuardrailMetric(
            0.0, each.floor, following, newest_alone=limits.newest_alone_for_latency, gates=each.role == "guardrail"
        )
        if is_latency_metric(each.metric)
        else GuardrailMetric(
            each.margin, each.floor, following, newest_alone=limits.newest_alone, gates=each.role == "guardrail"
        )
        for each in limits.guardrails
    ]
    return guardrail_test.evaluate_counts(metrics, epochs, limits.levels)


@dataclass(frozen=True, slots=True)
class _Decided:
    """What is found of a metric, by which epochs, and whether it is harm only if all requests failed that were lost."""

    finding: MetricFinding
    epochs: Sequence[EpochCounts]
    harm_by_losses: bool = False

    def events(self, index: int) -> tuple[int, int]:
        """Control's and the arm's, of the metric with that index."""
        columns = zip((0, 0), *(epoch.events[index] for epoch in self.epochs), strict=True)
        control, arm = (sum(column) for column in columns)
        return control, arm


def _decided(guardrail: PlanGuardrail, gate: _Decided, harm: _Decided) -> _Decided:
    """What is found by the decision that is made or pending: harm where it is that, or where no gate waits for the metric."""
    if harm.finding.verdict == MetricVerdict.HARM or guardrail.role == "harm":
        return harm
    if gate.finding.basis == DecisionBasis.THIS_STEP:
        return replace(gate, epochs=gate.epochs[-1:])
    return replace(gate, harm_by_losses=gate.finding.verdict == MetricVerdict.HARM)


def _tell(
    pair: ArmPair, guardrail: PlanGuardrail, decided: _Decided, events: tuple[int, int], times: float
) -> MetricStatus:
    finding = decided.finding
    verdict, message = finding.verdict, finding.sentence(_name(pair, guardrail), pair.control)
    if decided.harm_by_losses:
        verdict, message = MetricVerdict.UNDECIDED, f"{message} if all requests that were lost failed"
    told = str(verdict)
    if is_latency_metric(guardrail.metric) and guardrail.threshold_microseconds is None:
        told = str(MetricVerdict.UNDECIDED)
        message = f"{guardrail.metric}: waits until {names.STABLE} has answered enough to know what a long answer is"
    elif is_latency_metric(guardrail.metric):
        told, message = _by_load(pair, verdict, message, times, gates=guardrail.role == "guardrail")
    return MetricStatus(
        name=guardrail.metric,
        role=guardrail.role,
        arm=pair.arm,
        events=events,
        ratio=_number(finding.ratio),
        interval=tuple(end for end in map(_number, (finding.lower, finding.upper)) if end is not None),
        basis=str(finding.basis),
        allowed=_number(finding.allowed),
        verdict=told,
        needed=_number(finding.needed),
        eta=_eta(finding.eta_s),
        message=message,
    )


def exclude_uncounted_metrics(
    told: tuple[MetricStatus, ...], limits: EvaluationLimits, seen: CollectedCounts
) -> tuple[MetricStatus, ...]:
    """Nothing follows from what an edge does not count: how requests depend on each other, or what takes long by a further latency."""
    attempt, reports = seen.tallies.attempt, seen.reports
    if limits.has_sticky_units and counters.find_edges_without_groups(attempt, reports):
        return tuple(_uncounted(each, "its edges do not count groups of units yet") for each in told)
    further = [each.metric for each in latency_guardrails(limits.guardrails)][1:]
    if not further or not (pods := counters.find_edges_without_latencies(attempt, reports, 1 + len(further))):
        return told
    why = f"{', '.join(pods)} does not count answers by several latencies yet"
    return tuple(_uncounted(each, why) if each.name in further else each for each in told)


def _uncounted(told: MetricStatus, why: str) -> MetricStatus:
    update = {"verdict": str(MetricVerdict.UNDECIDED), "message": f"{told.name}: {why}", "eta": None}
    return told.model_copy(update=update)


def _beside_headers(told: tuple[MetricStatus, ...], status: ExperimentStatus) -> tuple[MetricStatus, ...]:
    """Requests by header come on top of the candidate's share: that it is slow is no harm of its own meanwhile."""
    if not header_match.active_headers(status):
        return told
    return tuple(
        each.model_copy(
            update={
                "verdict": str(MetricVerdict.UNDECIDED),
                "message": f"{each.message}; but requests by header come on top of its share",
            }
        )
        if is_latency_metric(each.name) and each.verdict == MetricVerdict.HARM
        else each
        for each in told
    )


def _tell_earliest(told: MetricStatus, closed: int) -> MetricStatus:
    """Say so where it is too early for anything but events, however many of those there are."""
    missing = dispersion.MIN_BLOCKS - closed
    if missing <= 0 or told.verdict != MetricVerdict.UNDECIDED:
        return told
    least, counted = dispersion.MIN_BLOCKS * counters.BLOCK_S, closed * counters.BLOCK_S
    soonest = timedelta(seconds=missing * counters.BLOCK_S)
    return told.model_copy(
        update={
            "message": f"{told.message}; no gate opens before {least} s were counted, so far {counted} s",
            "eta": max(told.eta, soonest) if told.eta is not None else None,
        }
    )


def _name(pair: ArmPair, guardrail: PlanGuardrail) -> str:
    stable, canary = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
    if stable is None or canary is None:
        return guardrail.metric
    return f"{guardrail.metric} (answers above {format_latency(stable)}, {pair.who}'s above {format_latency(canary)})"


def _by_load(pair: ArmPair, verdict: MetricVerdict, message: str, times: float, *, gates: bool) -> tuple[str, str]:
    """Latencies are compared only as far as the replicas' unequal loads do not explain them."""
    if math.isnan(times) and verdict in (MetricVerdict.HARM, MetricVerdict.PASSED, MetricVerdict.UNDECIDED):
        return MetricVerdict.UNDECIDED, f"{message}; not judged while an arm has no healthy replica"
    told = f"each replica of {pair.who} has {times:.3g} times the load of one of stable"
    if verdict == MetricVerdict.HARM and times > replica_counts.MAX_COMPARABLE_RATIO:
        return MetricVerdict.UNDECIDED, f"{message}; but {told}"
    if (
        gates
        and verdict in (MetricVerdict.PASSED, MetricVerdict.UNDECIDED)
        and times < 1 / replica_counts.MAX_COMPARABLE_RATIO
    ):
        return SUSPENDED, f"{message}; not judged while {told}"
    return str(verdict), message


def _passes(told: MetricStatus, *, last: bool) -> bool:
    if told.role == "harm":
        return told.verdict in (MetricVerdict.UNDECIDED, MetricVerdict.PASSED, MetricVerdict.HETEROGENEOUS)
    return told.verdict == MetricVerdict.PASSED or (told.verdict == SUSPENDED and not last)


def _mismatch_of_requests(counted: Sequence[EpochComparison]) -> str:
    splits = [each.split for each in counted]
    return _mismatch(guardrail_test.mismatch_log_e(splits), splits, "requests")


def _mismatch_of_units(status: ExperimentStatus, epochs: Sequence[EvidenceEpoch], seen: CollectedCounts) -> str:
    splits, log_e = count_unit_splits(ROLLOUT_PAIR.both, include_warmup(status.plan, _shares(epochs)), seen)
    return _mismatch(log_e, splits, UNITS_TEXT)


def _shares(epochs: Sequence[EvidenceEpoch]) -> dict[int, ArmShares]:
    """Those of stable and the candidate."""
    return {each.number: (1 - each.weight / 100, each.weight / 100) for each in epochs}


def include_warmup(plan: FrozenPlan, by_epoch: Mapping[int, ArmShares]) -> dict[int, ArmShares]:
    """The shares of epochs of evidence, with those of their warm-ups: these have the same weights, and most units come first in them."""
    if not plan.warmup_requests or not plan.warmup_duration:
        return dict(by_epoch)
    return {**{number - 1: own for number, own in by_epoch.items()}, **by_epoch}


def count_unit_splits(
    arms: Sequence[str], shares: Mapping[int, ArmShares], seen: CollectedCounts
) -> tuple[list[ArmSplit], float]:
    """How units fell to arms by the shares of each epoch, and log E against that they did so by chance.

    Units count once, at their first request, by the weight that was in force then; requests without one count as such.
    """
    before_s = seen.now_s - counters.GRACE_S - seen.timeout_s
    first = first_exposures.count_first_exposures(seen.tallies.attempt, seen.reports, before_s)
    found, alone = [], []
    for number, own in shares.items():
        found.append(ArmSplit(own, tuple(first.get((number, arm), 0) for arm in arms)))
        without = (
            unit_groups.sum_groups(seen.tallies.groups, number, arm)[0][unit_groups.WITHOUT_UNIT] for arm in arms
        )
        alone.append(ArmSplit(own, tuple(without)))
    return [*found, *alone], guardrail_test.mismatch_log_e(
        found, guardrail_test.UNITS_CONCENTRATION
    ) + guardrail_test.mismatch_log_e(alone)


def _mismatch(log_e: float, splits: Sequence[ArmSplit], what: str) -> str:
    return f"{describe_split(splits, what)}: the split is not as it should be" if log_e >= MISMATCH_LOG_E else ""


def describe_split(splits: Sequence[ArmSplit], what: str) -> str:
    """How many fell to the candidate, beside what its weights make of all of them; `what` is what fell."""
    canary, total = sum(split.units[-1] for split in splits), sum(sum(split.units) for split in splits)
    expected = sum(split.shares[-1] * sum(split.units) for split in splits)
    return f"{ROLLOUT_PAIR.who} got {canary} of {total} {what} where {expected:.0f} were expected"


def find_dead_arm(pair: ArmPair, limits: EvaluationLimits, seen: CollectedCounts) -> str:
    """Whether an arm fails most of what it gets while control does not: no statistics, and no wait for them.

    Requests that hang fail when their time is over, and count for when they came: so blocks are looked at that are as old as that.
    """
    newest = int(seen.now_s - counters.GRACE_S) // counters.BLOCK_S
    oldest = newest - _DEAD_BLOCKS - math.ceil(seen.timeout_s / counters.BLOCK_S) - 1
    run: list[Sequence[Block]] = []
    for number in range(oldest, newest):
        own = [blocks[number] for blocks in seen.blocks.values() if number in blocks]
        run = [*run, own] if _is_dead(pair, own) else []
        if len(run) == _DEAD_BLOCKS and (not limits.has_sticky_units or _fails_for_many(pair, seen)):
            arm = sum_arm_counts(pair.arm, itertools.chain.from_iterable(run))
            seconds = _DEAD_BLOCKS * counters.BLOCK_S
            return (
                f"{pair.who} failed {arm.errors} of {arm.ended} requests in {seconds} s, while {pair.control} did not"
            )
    return ""


def _fails_for_many(pair: ArmPair, seen: CollectedCounts) -> bool:
    """Whether the arm has failed in most groups of those who asked it. One user may make most of its requests, and fail anywhere."""
    told = counters.collect_groups(seen.tallies.attempt, seen.reports).values()
    total = functools.reduce(
        unit_groups.add_groups,
        [own for rows in told for (_, arm), own in rows.items() if arm == pair.arm],
        unit_groups.ZERO_GROUPS,
    )
    asked = [place for place, count in enumerate(total[0]) if count]
    return not asked or 2 * sum(total[1][place] > 0 for place in asked) > len(asked)


def _is_dead(pair: ArmPair, own: Sequence[Block]) -> bool:
    arm, control = sum_arm_counts(pair.arm, own), sum_arm_counts(pair.control, own)
    return (
        arm.errors >= _DEAD_FAILURES
        # What still runs may yet be answered: failures are often quicker than answers.
        and arm.errors > _DEAD_SHARE * (arm.ended + arm.running)
        and control.errors < _FINE_SHARE * control.ended
    )


def _number(value: float) -> float | None:
    """For a status: four digits, and nothing for what is no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _eta(seconds: float) -> timedelta | None:
    if not math.isfinite(seconds) or seconds > _LONGEST_ETA_S:
        return None
    return timedelta(seconds=math.ceil(seconds))
