"""What is known of each metric, for the status."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from sundog_operator.api import (
    EvidenceEpoch,
    ExperimentStatus,
    MetricStatus,
    PlanGuardrail,
    is_latency_metric,
)
from sundog_operator.core.analysis import (
    blocks,
    counters,
)
from sundog_operator.core.analysis.arm_pair import ArmPair, CollectedCounts, EvaluationLimits, decides
from sundog_operator.core.analysis.epoch_counts import EpochComparison, later_than_allowed
from sundog_operator.core.kubernetes import names
from sundog_operator.core.rollout import header_match, replica_counts
from sundog_operator.core.rollout.resolve import (
    ERROR_RATE,
    format_latency,
    latency_guardrails,
    latency_quantile,
)
from sundog_operator.core.stats import dispersion, guardrail_test, rate_ceiling
from sundog_operator.core.stats.findings import DecisionBasis, MetricFinding, MetricVerdict
from sundog_operator.core.stats.guardrail_test import (
    EpochCounts,
    ErrorLevels,
    GuardrailMetric,
)

SUSPENDED: Final = "Suspended"
_LONGEST_ETA_S: Final = 365 * 86_400.0


def evaluate_metrics(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    counted: Sequence[EpochComparison],
    seen: CollectedCounts,
    times: float,
) -> tuple[MetricStatus, ...]:
    """What is known of each metric of an arm, a replica of which has so many times the load of one of control."""
    gates = [each.gate for each, epoch in zip(counted, epochs, strict=True) if decides(limits, epoch)]
    harms = [each.harm for each in counted]
    findings = _weigh(limits, gates)
    harmful = findings if gates == harms else _weigh(limits, harms)
    decided = [
        _decided(guardrail, _Decided(finding, gates), _Decided(harm, harms))
        for guardrail, finding, harm in zip(limits.guardrails, findings, harmful, strict=True)
    ]
    closed = int(gates[-1].blocks[0][0][0]) if gates and gates[-1].blocks else 0
    newest, late = gates[-1] if gates else None, later_than_allowed(pair, limits, epochs, seen)
    unknown = [each.unknown for each, epoch in zip(counted, epochs, strict=True) if decides(limits, epoch)]
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
    verdict, message = finding.verdict, finding.sentence(_name(pair, guardrail), pair.control, pair.who)
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


def beside_headers(told: tuple[MetricStatus, ...], status: ExperimentStatus) -> tuple[MetricStatus, ...]:
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
    least, counted = dispersion.MIN_BLOCKS * blocks.BLOCK_S, closed * blocks.BLOCK_S
    soonest = timedelta(seconds=missing * blocks.BLOCK_S)
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


def _number(value: float) -> float | None:
    """For a status: four digits, and nothing for what is no number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _eta(seconds: float) -> timedelta | None:
    if not math.isfinite(seconds) or seconds > _LONGEST_ETA_S:
        return None
    return timedelta(seconds=math.ceil(seconds))
