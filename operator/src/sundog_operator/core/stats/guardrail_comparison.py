"""Tests of the guardrail metrics of one treatment, from plain counts by metric and epoch. The other modules take arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import absolute_floor, cluster_variance, count_ratio, dispersion, verdicts
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import DecisionBasis, MetricFinding, MetricFindings, MetricVerdict
from sundog_operator.core.stats.unit_rates import UnitEvents


@dataclass(frozen=True, slots=True)
class GuardrailMetric:
    """Limits of one kind of event.

    Attributes:
        margin: the largest relative increase of the treatment's rate, such as 0.25.
        floor: the absolute increase of the rate that always passes a gate; 0 for none.
        next_weight: the share of traffic that the gate leads to, in (0, 1].
        gates: whether a gate waits for the metric; harm is tested for every metric.
    """

    margin: float
    floor: float
    next_weight: float
    gates: bool = True


@dataclass(frozen=True, slots=True)
class GroupedCounts:
    """Counts by group of units, if units stay with an arm. The last group has the requests without a group.

    Attributes:
        requests: of control and of the treatment, the requests by group.
        events: for each metric, of control and of the treatment, the events by group.
        requests_without_unit: requests of both arms without a unit.
        events_without_unit: for each metric, the events of those requests, of control and of the treatment.
    """

    requests: tuple[Sequence[int], Sequence[int]]
    events: Sequence[tuple[Sequence[int], Sequence[int]]]
    requests_without_unit: int
    events_without_unit: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class SampledUnits:
    """Counts of sampled units in an epoch; all epochs have the same units in the same order.

    Attributes:
        weight: the treatment's share of the units, in (0, 1).
        requests: of each unit, shape (units,).
        events: for each metric, the events of each unit; they may be scaled to those that are tested.
        is_treatment: whether the treatment had the unit.
        requests_before: of each unit, before the rollout.
        events_before: for each metric, the events of each unit before the rollout.
    """

    weight: float
    requests: Numbers
    events: Sequence[Numbers]
    is_treatment: NDArray[np.bool_]
    requests_before: Numbers
    events_before: Sequence[Numbers]

    def scale_events(self, factors: Sequence[tuple[float, float]]) -> Self:
        """Return a copy with the events of control's units and of the treatment's multiplied by a factor each, for each metric."""
        events = [
            np.where(self.is_treatment, treatment * own, control * own)
            for own, (control, treatment) in zip(self.events, factors, strict=True)
        ]
        return replace(self, events=events)


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """Counts of an epoch, in which weights are constant.

    Attributes:
        weight: the treatment's share of the assignments, in (0, 1); if units stay with an arm, its share of the received requests.
        requests: of control and of the treatment.
        events: for each metric, events of control and of the treatment.
        blocks: for each metric and block length, the shortest first, the six numbers of `dispersion.BlockMoments`.
        by_unit: counts by group of units, if units stay with an arm; else None.
        units: counts of sampled units, if units stay with an arm and all edges report them; else None.
    """

    weight: float
    requests: tuple[int, int]
    events: Sequence[tuple[int, int]]
    blocks: Sequence[Sequence[tuple[int, ...]]]
    by_unit: GroupedCounts | None = None
    units: SampledUnits | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ErrorLevels:
    """Levels of error of the tests, and the mixture that all tests use.

    Attributes:
        alpha: the error allowed in each direction.
        harm_shares: number of equal parts into which the error of harm is split. These metrics share one part equally.
        gate_error_share: this gate's share of the error of gates.
        mixture: the concentrations of the mixture's parts.
        harm_error_share: the share of the error of harm that the early-harm test leaves to these metrics.
    """

    alpha: float
    harm_shares: int = 1
    gate_error_share: float = 1.0
    mixture: Sequence[float] = count_ratio.CONCENTRATIONS
    harm_error_share: float = 1.0


def evaluate_counts(
    metrics: Sequence[GuardrailMetric], epochs: Sequence[EpochCounts], levels: ErrorLevels, *, newest_alone: bool
) -> list[MetricFinding]:
    """Return the finding of each metric; without epochs, as if nothing was counted.

    A finding has the ratio and interval of the decision that was made or is pending. That decision is about harm if harm was found, or if
    no gate waits for the metric. Otherwise it is about the gate, which tests the newest epoch alone if `newest_alone`.
    """
    if not epochs:
        epochs = [EpochCounts(0.5, (0, 0), [(0, 0)] * len(metrics), [[(0,) * 6]] * len(metrics))]
    if not metrics:
        return []
    limits, counts = _limits(metrics, levels), make_event_counts(len(metrics), epochs)
    findings = verdicts.evaluate_verdicts(counts, limits, newest_alone=newest_alone)
    undecided = (findings.verdict == MetricVerdict.UNDECIDED) & np.array([metric.gates for metric in metrics])
    units, seconds = absolute_floor.units_for_floor(counts, limits, undecided)
    decided = _with_decided_intervals(metrics, counts, limits, findings, newest_alone=newest_alone)
    return [_with_floor(each, units[index], seconds[index]) for index, each in enumerate(decided)]


def _with_decided_intervals(
    metrics: Sequence[GuardrailMetric],
    counts: EventCounts,
    limits: MetricLimits,
    findings: MetricFindings,
    *,
    newest_alone: bool,
) -> list[MetricFinding]:
    """Return each finding with the ratio, interval and limit of the decision that was made or is pending."""
    gates = np.array([metric.gates for metric in metrics])
    of_harm = (findings.verdict == MetricVerdict.HARM) | ~gates
    gate = findings.ratio, *verdicts.gate_interval(counts, limits, newest_alone=newest_alone)
    harm = verdicts.harm_interval(counts, limits) if of_harm.any() else gate
    ends = [np.where(of_harm & counts.valid, *both) for both in zip(harm, gate, strict=True)]
    is_one_of_several = newest_alone and counts.control.shape[-1] > 1
    found = []
    for index, metric in enumerate(metrics):
        ratio, lower, upper = (float(end[index]) for end in ends)
        finding = findings.at(index)
        if of_harm[index]:
            # If no single ratio fits all epochs, only the lower end decides on harm.
            upper = upper if upper >= lower else math.inf
            finding = replace(finding, ratio=ratio, basis=DecisionBasis.HARM, allowed=1 + metric.margin)
        else:
            # Likewise, only the upper end decides on passing.
            lower = min(lower, upper)
            finding = replace(finding, basis=DecisionBasis.THIS_STEP if is_one_of_several else DecisionBasis.ALL_STEPS)
        if counts.valid[index]:
            finding = replace(finding, lower=lower, upper=upper)
        found.append(finding if metric.gates else _without_gate(finding))
    return found


def _without_gate(finding: MetricFinding) -> MetricFinding:
    """Return the finding of a metric that no gate waits for. Only harm is decided, so a pass becomes undecided."""
    verdict = MetricVerdict.UNDECIDED if finding.verdict == MetricVerdict.PASSED else finding.verdict
    return replace(finding, verdict=verdict, by_floor=False, needed=math.nan, eta_s=math.inf)


def _with_floor(finding: MetricFinding, units: float, seconds: float) -> MetricFinding:
    """Return the finding with the requests and time that it still needs to pass by its floor, if it can."""
    if not math.isfinite(units):
        return finding
    return replace(finding, units=units, eta_s=min(seconds, finding.eta_s))


def treatment_dispersion(epoch: EpochCounts, metric: int) -> float:
    """Return the dispersion φ ≥ 1 of the treatment's own events of a metric, given by its index.

    It is that over blocks, or the worst-case design effect of requests where units stay with an arm, if that is larger.
    """
    lengths = [BlockMoments(*(np.array([part], float) for part in length)) for length in epoch.blocks[metric]]
    # With a tested share of 0, φ is the dispersion of the treatment's events alone.
    phi = float(dispersion.dispersion_factor(lengths, np.zeros(1)))
    groups = _groups(1, [epoch])
    return phi if groups is None else max(phi, float(cluster_variance.request_design_effect(groups)[0]))


def measure_dispersion(ratios: Sequence[float], epochs: Sequence[EpochCounts], *, of_harm: bool) -> list[float]:
    """Return, for each metric, the dispersion φ ≥ 1 by which its test of harm or of the gate divides log E; 1 without epochs."""
    if not epochs or not ratios:
        return [1.0] * len(ratios)
    tested = np.array([each if math.isfinite(each) and each > 0 else 1.0 for each in ratios])
    counts = make_event_counts(len(ratios), epochs)
    _, found = counts.log_e(tested, "above" if of_harm else "below", count_ratio.CONCENTRATIONS)
    return [float(each) for each in found]


def find_measured_epochs(epochs: Sequence[EpochCounts]) -> list[EpochCounts]:
    """Return the epochs that the test of harm uses: those with enough blocks for their dispersion; all where none has."""
    measured = [
        each
        for each in epochs
        if each.blocks and dispersion.has_enough_blocks([length[0] for length in each.blocks[0]])
    ]
    return measured or list(epochs)


def _limits(metrics: Sequence[GuardrailMetric], levels: ErrorLevels) -> MetricLimits:
    margin, floor, weight = (
        np.array([getattr(metric, name) for metric in metrics]) for name in ("margin", "floor", "next_weight")
    )
    tests = len(metrics) * levels.harm_shares / levels.harm_error_share
    return MetricLimits(margin, floor, weight, levels.alpha, tests, levels.gate_error_share, levels.mixture)


def make_event_counts(metrics: int, epochs: Sequence[EpochCounts]) -> EventCounts:
    """Return the counts as arrays of shape (metrics, epochs), from at least one epoch."""
    events = np.array([[epoch.events[index] for epoch in epochs] for index in range(metrics)], float)
    units = np.array([[epoch.requests for epoch in epochs]] * metrics, float)
    weight = np.array([epoch.weight for epoch in epochs])
    blocks = np.array([[epoch.blocks[index] for epoch in epochs] for index in range(metrics)], float)
    return EventCounts(
        control=events[..., 0],
        treatment=events[..., 1],
        control_units=units[..., 0],
        treatment_units=units[..., 1],
        weight=weight,
        blocks=[BlockMoments(*np.moveaxis(blocks[:, :, length], -1, 0)) for length in range(blocks.shape[2])],
        groups=_groups(metrics, epochs),
        units=_units(metrics, epochs),
    )


def _units(metrics: int, epochs: Sequence[EpochCounts]) -> UnitEvents | None:
    """Return counts of units as arrays of shape (metrics, epochs, units); None unless every epoch has them."""
    sampled = [epoch.units for epoch in epochs if epoch.units is not None]
    if len(sampled) < len(epochs):
        return None

    def for_each_metric(part: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(part, (metrics, *part.shape))

    return UnitEvents(
        requests=for_each_metric(np.stack([each.requests for each in sampled])),
        events=np.array([[each.events[index] for each in sampled] for index in range(metrics)], float),
        is_treatment=for_each_metric(np.stack([each.is_treatment for each in sampled])),
        weight=for_each_metric(np.array([each.weight for each in sampled])),
        requests_before=for_each_metric(sampled[0].requests_before),
        events_before=np.array([sampled[0].events_before[index] for index in range(metrics)], float),
    )


def _groups(metrics: int, epochs: Sequence[EpochCounts]) -> GroupedEvents | None:
    """Return counts by group as arrays of shape (metrics, epochs, groups); None unless every epoch has them."""
    grouped = [epoch.by_unit for epoch in epochs if epoch.by_unit is not None]
    if len(grouped) < len(epochs):
        return None
    events = np.array([[each.events[index] for each in grouped] for index in range(metrics)], float)
    requests = np.array([[each.requests for each in grouped]] * metrics, float)
    alone = np.array([[each.events_without_unit[index] for each in grouped] for index in range(metrics)], float)
    return GroupedEvents(
        control=events[:, :, 0],
        treatment=events[:, :, 1],
        control_requests=requests[:, :, 0],
        treatment_requests=requests[:, :, 1],
        control_without_unit=alone[..., 0],
        treatment_without_unit=alone[..., 1],
        requests_without_unit=np.array([[each.requests_without_unit for each in grouped]] * metrics, float),
    )
