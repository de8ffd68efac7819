"""Status of each metric."""

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
from sundog_operator.core import metric_text
from sundog_operator.core.analysis import blocks, edge_reports
from sundog_operator.core.analysis.arm_pair import (
    ArmPair,
    CollectedCounts,
    EvaluationLimits,
    decides,
    shows_harm,
)
from sundog_operator.core.analysis.epoch_counts import EpochComparison, later_than_allowed
from sundog_operator.core.analysis.outcome_status import make_rate
from sundog_operator.core.kubernetes import names
from sundog_operator.core.stats import dispersion, guardrail_comparison, rate_ceiling
from sundog_operator.core.stats.findings import DecisionBasis, MetricFinding, MetricVerdict
from sundog_operator.core.stats.guardrail_comparison import (
    EpochCounts,
    ErrorLevels,
    GuardrailMetric,
)
from sundog_operator.core.stats.known_ends import known_ends
from sundog_operator.core.trial import replica_counts
from sundog_operator.core.trial.default_plan import (
    ERROR_RATE,
    format_latency,
    latency_guardrails,
    latency_quantile,
)
from sundog_operator.core.trial.rollout import header_match

SUSPENDED: Final = "Suspended"
_LONGEST_ETA_S: Final = 365 * 86_400.0


def evaluate_metrics(
    pair: ArmPair,
    limits: EvaluationLimits,
    epochs: Sequence[EvidenceEpoch],
    counted: Sequence[EpochComparison],
    collected: CollectedCounts,
    times: float,
) -> tuple[MetricStatus, ...]:
    """Return the status of each metric of an arm. `times` is the load of its replicas relative to control's."""
    gates = [each.gate for each, epoch in zip(counted, epochs, strict=True) if decides(limits, epoch)]
    harms = [each.harm for each, epoch in zip(counted, epochs, strict=True) if shows_harm(limits, epoch)]
    findings = _test_metrics(limits, gates)
    harmful = findings if gates == harms else _test_metrics(limits, harms)
    measured = guardrail_comparison.find_measured_epochs(harms)
    doubt = "if all lost requests failed" if len(harms) == len(counted) else f"while {pair.who} had more load"
    chosen = [
        _choose_finding(guardrail, _ChosenFinding(finding, gates), _ChosenFinding(harm, measured, of_harm=True), doubt)
        for guardrail, finding, harm in zip(limits.guardrails, findings, harmful, strict=True)
    ]
    alpha, dispersions = limits.levels.alpha, _measure_dispersions(chosen)
    closed = int(gates[-1].blocks[0][0][0]) if gates and gates[-1].blocks else 0
    newest, late = gates[-1] if gates else None, later_than_allowed(pair, limits, epochs, collected)
    unknown = [each.unknown for each, epoch in zip(counted, epochs, strict=True) if decides(limits, epoch)]
    lost_by_control = sum(
        each.lost_by_control for each, epoch in zip(counted, epochs, strict=True) if shows_harm(limits, epoch)
    )
    statuses = [
        _check_ceiling(
            pair,
            _with_values(_make_status(pair, guardrail, own, own.events(index), times), own, alpha, phi),
            guardrail,
            index,
            newest,
            limits.levels,
            late,
        )
        for index, (guardrail, own, phi) in enumerate(zip(limits.guardrails, chosen, dispersions, strict=True))
    ]
    charged = [_count_lost(own, unknown, lost_by_control) for own in chosen]
    return tuple(
        _with_earliest_time(_with_lost_requests(pair, each, unknown, lost), closed)
        for each, lost in zip(statuses, charged, strict=True)
    )


def _count_lost(chosen: "_ChosenFinding", unknown: Sequence[tuple[int, int]], lost_by_control: int) -> tuple[int, int]:
    """Return how many failures of control and of the arm, by the counts of a decision, are requests with an unknown end."""
    if chosen.of_harm:
        return lost_by_control, 0
    return 0, sum(map(sum, unknown[len(unknown) - len(chosen.epochs) :]))


def _measure_dispersions(chosen: Sequence["_ChosenFinding"]) -> list[float]:
    """Return the dispersion of each metric's events, by the counts of its decision and at the ratio that this tests."""
    ratios = [each.finding.allowed for each in chosen]
    known: dict[tuple[int, bool], list[float]] = {}
    found = []
    for index, each in enumerate(chosen):
        key = id(each.epochs), each.of_harm
        if key not in known:
            known[key] = guardrail_comparison.measure_dispersion(ratios, each.epochs, of_harm=each.of_harm)
        found.append(known[key][index])
    return found


def _with_values(metric: MetricStatus, chosen: "_ChosenFinding", alpha: float, dispersion: float) -> MetricStatus:
    """Add both arms' rates, and as how many independent events their events count."""
    requests = [sum(epoch.requests[side] for epoch in chosen.epochs) for side in (0, 1)]
    values = tuple(
        make_rate(events, own, alpha, dispersion) for events, own in zip(metric.events, requests, strict=True)
    )
    depends = dispersion > 1 and any(metric.events)
    independent = float(f"{sum(metric.events) / dispersion:.3g}") if depends else None
    counted = metric.model_copy(
        update={"measure": "rate", "values": values if any(requests) else None, "independent_events": independent}
    )
    text = metric_text.describe_independence(counted)
    return counted.model_copy(update={"message": f"{metric.message}; {text}"}) if text else counted


def _with_lost_requests(
    pair: ArmPair, metric: MetricStatus, unknown: Sequence[tuple[int, int]], charged: tuple[int, int]
) -> MetricStatus:
    """Add the lost and the overdue requests, and whose failures they are: the arm's at gates, control's for harm."""
    lost, overdue = (sum(column) for column in zip(*unknown, strict=True)) if unknown else (0, 0)
    if metric.name != ERROR_RATE:
        return metric
    if any(charged):
        metric = metric.model_copy(update={"lost": charged})
    if charged[0] and metric.verdict != MetricVerdict.HARM:
        text = f"{charged[0]} lost requests of unknown outcome count as failures of {pair.control}"
        return metric.model_copy(update={"message": f"{metric.message}; {text}"})
    if not lost + overdue:
        return metric
    parts = (
        f"{lost} lost requests of unknown outcome" if lost else "",
        f"{overdue} requests that still run after their timeout" if overdue else "",
    )
    besides = "besides, " if metric.verdict == MetricVerdict.HARM else ""
    message = f"{metric.message}; {besides}{pair.who} has {' and '.join(filter(None, parts))}"
    return metric.model_copy(update={"message": message})


def _check_ceiling(
    pair: ArmPair,
    metric: MetricStatus,
    guardrail: PlanGuardrail,
    index: int,
    newest: EpochCounts | None,
    levels: ErrorLevels,
    late: Mapping[str, tuple[int, int]],
) -> MetricStatus:
    """Keep a metric undecided that is not known to be below its maximum, on the newest epoch."""
    longest = guardrail.max_microseconds
    ceiling = guardrail.max if longest is None else 1 - latency_quantile(guardrail.metric)
    if ceiling is None or newest is None or metric.verdict not in (MetricVerdict.PASSED, SUSPENDED):
        return metric
    hits, trials = (newest.events[index][1], newest.requests[1]) if longest is None else late[guardrail.metric]
    if rate_ceiling.is_below(
        hits,
        trials,
        newest.blocks[index],
        ceiling,
        levels.alpha * levels.gate_error_share,
        guardrail_comparison.request_design_effect(newest),
    ):
        return metric
    limit = f"{ceiling * 100:g} %" if longest is None else format_latency(longest)
    above = "" if longest is None else f"; at most {ceiling * 100:.3g} % may take longer"
    message = (
        f"{metric.name} of {pair.who} is not known to be below max {limit} yet: {hits} of {trials} requests{above}"
    )
    return metric.model_copy(update={"verdict": str(MetricVerdict.UNDECIDED), "message": message})


def _test_metrics(limits: EvaluationLimits, epochs: Sequence[EpochCounts]) -> list[MetricFinding]:
    metrics = [
        GuardrailMetric(
            # The canary's latency threshold contains the margin already.
            0.0 if is_latency_metric(each.metric) else each.margin,
            each.floor,
            limits.next_weight,
            gates=each.role == "guardrail",
        )
        for each in limits.guardrails
    ]
    return guardrail_comparison.evaluate_counts(metrics, epochs, limits.levels, newest_alone=limits.newest_alone)


@dataclass(frozen=True, slots=True)
class _ChosenFinding:
    """The finding of a metric that decides, its epochs, and why it is no harm although it says so; empty where that is certain.

    `of_harm`: the epochs have the counts of the test for harm.
    """

    finding: MetricFinding
    epochs: Sequence[EpochCounts]
    doubt: str = ""
    of_harm: bool = False

    def events(self, index: int) -> tuple[int, int]:
        """Return the events of (control, the arm), for the metric with that index."""
        columns = zip((0, 0), *(epoch.events[index] for epoch in self.epochs), strict=True)
        control, arm = (sum(column) for column in columns)
        return control, arm


def _choose_finding(guardrail: PlanGuardrail, gate: _ChosenFinding, harm: _ChosenFinding, doubt: str) -> _ChosenFinding:
    """Choose the finding of the decision: harm if there is any, or if no gate waits for the metric; else the gate's.

    `doubt`: why a gate may find harm where the test for harm does not.
    """
    if harm.finding.verdict == MetricVerdict.HARM or guardrail.role == "harm":
        return harm
    if gate.finding.basis == DecisionBasis.THIS_STEP:
        return replace(gate, epochs=gate.epochs[-1:])
    return replace(gate, doubt=doubt if gate.finding.verdict == MetricVerdict.HARM else "")


def _make_status(
    pair: ArmPair, guardrail: PlanGuardrail, chosen: _ChosenFinding, events: tuple[int, int], times: float
) -> MetricStatus:
    finding = chosen.finding
    verdict, message = finding.verdict, finding.sentence(_name(pair, guardrail), pair.control, pair.who)
    if chosen.doubt:
        verdict, message = MetricVerdict.UNDECIDED, f"{message} {chosen.doubt}"
    final = str(verdict)
    if is_latency_metric(guardrail.metric) and guardrail.threshold_microseconds is None:
        final = str(MetricVerdict.UNDECIDED)
        message = f"{guardrail.metric}: waits for enough answers of {names.STABLE} to set the threshold"
    elif is_latency_metric(guardrail.metric):
        final, message = _verdict_under_load(pair, verdict, message, times, gates=guardrail.role == "guardrail")
    return MetricStatus(
        name=guardrail.metric,
        role=guardrail.role,
        arm=pair.arm,
        events=events,
        ratio=_number(finding.ratio),
        interval=tuple(float(f"{end:.4g}") for end in known_ends(finding.lower, finding.upper)),
        basis=str(finding.basis),
        allowed=_number(finding.allowed),
        verdict=final,
        needed=_number(finding.needed),
        eta=_eta(finding.eta_s),
        message=message,
    )


def exclude_uncounted_metrics(
    metrics: tuple[MetricStatus, ...], limits: EvaluationLimits, collected: CollectedCounts
) -> tuple[MetricStatus, ...]:
    """Keep metrics undecided that an edge does not count: all without unit groups, or further latencies."""
    attempt, reports = collected.tallies.attempt, collected.reports
    if limits.has_sticky_units and edge_reports.find_edges_without_groups(attempt, reports):
        return tuple(_as_undecided(each, "its edges do not count groups of units yet") for each in metrics)
    further = [each.metric for each in latency_guardrails(limits.guardrails)][1:]
    if not further or not (pods := edge_reports.find_edges_without_latencies(attempt, reports, 1 + len(further))):
        return metrics
    why = f"{', '.join(pods)} does not count answers by several latencies yet"
    return tuple(_as_undecided(each, why) if each.name in further else each for each in metrics)


def _as_undecided(metric: MetricStatus, why: str) -> MetricStatus:
    update = {"verdict": str(MetricVerdict.UNDECIDED), "message": f"{metric.name}: {why}", "eta": None}
    return metric.model_copy(update=update)


def beside_headers(metrics: tuple[MetricStatus, ...], status: ExperimentStatus) -> tuple[MetricStatus, ...]:
    """Keep slow latencies undecided while requests by header are additional to the canary's share: that load may explain them."""
    if not header_match.active_headers(status):
        return metrics
    return tuple(
        each.model_copy(
            update={
                "verdict": str(MetricVerdict.UNDECIDED),
                "message": f"{each.message}; but requests by header are additional to its share",
            }
        )
        if is_latency_metric(each.name) and each.verdict == MetricVerdict.HARM
        else each
        for each in metrics
    )


def _with_earliest_time(metric: MetricStatus, closed: int) -> MetricStatus:
    """Add the least time of evidence to the message while it is not reached, whatever the number of events."""
    missing = dispersion.MIN_BLOCKS - closed
    if missing <= 0 or metric.verdict != MetricVerdict.UNDECIDED:
        return metric
    least, counted = dispersion.MIN_BLOCKS * blocks.BLOCK_S, closed * blocks.BLOCK_S
    soonest = timedelta(seconds=missing * blocks.BLOCK_S)
    return metric.model_copy(
        update={
            "message": f"{metric.message}; no gate opens before {least} s of data, so far {counted} s",
            "eta": max(metric.eta, soonest) if metric.eta is not None else None,
        }
    )


def _name(pair: ArmPair, guardrail: PlanGuardrail) -> str:
    stable, canary = guardrail.threshold_microseconds, guardrail.candidate_threshold_microseconds
    if stable is None or canary is None:
        return guardrail.metric
    return f"{guardrail.metric} (answers above {format_latency(stable)}, {pair.who}'s above {format_latency(canary)})"


def _verdict_under_load(
    pair: ArmPair, verdict: MetricVerdict, message: str, times: float, *, gates: bool
) -> tuple[str, str]:
    """Return verdict and message of a latency; keep it undecided as far as the replicas' unequal loads may explain it."""
    if math.isnan(times) and verdict in (MetricVerdict.HARM, MetricVerdict.PASSED, MetricVerdict.UNDECIDED):
        return MetricVerdict.UNDECIDED, f"{message}; not evaluated while an arm has no healthy replica"
    load = f"each replica of {pair.who} has {times:.3g} times the load of one of stable"
    if verdict == MetricVerdict.HARM and times > replica_counts.MAX_COMPARABLE_RATIO:
        return MetricVerdict.UNDECIDED, f"{message}; but {load}"
    if (
        gates
        and verdict in (MetricVerdict.PASSED, MetricVerdict.UNDECIDED)
        and times < 1 / replica_counts.MAX_COMPARABLE_RATIO
    ):
        return SUSPENDED, f"{message}; not evaluated while {load}"
    return str(verdict), message


def _number(value: float) -> float | None:
    """Round to four digits for a status; None for NaN and infinity."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _eta(seconds: float) -> timedelta | None:
    if not math.isfinite(seconds) or seconds > _LONGEST_ETA_S:
        return None
    return timedelta(seconds=math.ceil(seconds))
