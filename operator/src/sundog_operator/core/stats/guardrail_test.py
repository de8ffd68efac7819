"""Evidence of one candidate out of plain counts, by metric and epoch: for those who decide and have no arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sundog_operator.core.stats import cluster_variance, count_ratio, floor_test, sample_ratio, verdicts
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.event_counts import EventCounts, MetricLimits
from sundog_operator.core.stats.findings import DecisionBasis, MetricFinding, MetricFindings, MetricVerdict


@dataclass(frozen=True, slots=True)
class GuardrailMetric:
    """What one kind of event may cost.

    Attributes:
        margin: by which share the candidate may have more, such as 0.25.
        floor: by how much its rate may be higher at a gate; 0 for none.
        next_weight: the share of traffic that is asked for, in (0, 1].
        newest_alone: whether a gate looks at the newest epoch only.
        gates: whether a gate waits for it; harm is looked for in any.
    """

    margin: float
    floor: float
    next_weight: float
    newest_alone: bool
    gates: bool = True


UNITS_CONCENTRATION: Final = 60.0
"""Of the mixture by which units are looked at: tightest after some thousand, of which edges have a sample."""


@dataclass(frozen=True, slots=True)
class GroupedCounts:
    """The same by group of units, where units stay with an arm, those without a group in a last one.

    Attributes:
        requests: by group, those of control and those of the candidate.
        events: of each metric, by group, those of control and those of the candidate.
        requests_alone: how many requests had no unit.
        events_alone: of each metric, the events among those, of control and of the candidate.
    """

    requests: tuple[Sequence[int], Sequence[int]]
    events: Sequence[tuple[Sequence[int], Sequence[int]]]
    requests_without_unit: int
    events_without_unit: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class EpochCounts:
    """What was counted while the weights stood still.

    Attributes:
        weight: the candidate's share of the assignments, in (0, 1); where units stay with an arm, its share of the requests that came.
        units: requests of control and of the candidate.
        events: of each metric, those of control and of the candidate.
        blocks: of each metric, for each length of blocks the shortest first, the six numbers of `dispersion.Blocks`.
        by_unit: the same by group of units, where units stay with an arm.
    """

    weight: float
    units: tuple[int, int]
    events: Sequence[tuple[int, int]]
    blocks: Sequence[Sequence[tuple[int, ...]]]
    by_unit: GroupedCounts | None = None


@dataclass(frozen=True, slots=True)
class ErrorLevels:
    """How much error each test may have, and the mixture that all of them use.

    Attributes:
        alpha: of each direction.
        harm_shares: into how many parts that of harm goes, of which these metrics have one and each an equal part of it.
        gate_share: of that of gates, what this one has.
        mixture: the concentrations of its parts.
        harm_left: of the error of harm, what the first blocks of a candidate leave to these metrics.
    """

    alpha: float
    harm_shares: int = 1
    gate_error_share: float = 1.0
    mixture: Sequence[float] = count_ratio.CONCENTRATIONS
    harm_error_share: float = 1.0


def evaluate_counts(
    metrics: Sequence[GuardrailMetric], epochs: Sequence[EpochCounts], levels: ErrorLevels
) -> list[MetricFinding]:
    """What is found of each metric; with no epoch nothing was counted.

    Ratio and interval are those of the decision that is made or pending: of harm where that was found, or where no gate waits for the
    metric, else of the gate.
    """
    if not epochs:
        epochs = [EpochCounts(0.5, (0, 0), [(0, 0)] * len(metrics), [[(0,) * 6]] * len(metrics))]
    if not metrics:
        return []
    limits, counts = _limits(metrics, levels), _counts(len(metrics), epochs)
    alone = np.array([metric.newest_alone for metric in metrics])
    findings = verdicts.evaluate_verdicts(counts, limits, promotes=alone)
    undecided = (findings.verdict == MetricVerdict.UNDECIDED) & np.array([metric.gates for metric in metrics])
    units, seconds = floor_test.units_for_floor(counts, limits, undecided)
    told = _as_decided(metrics, counts, limits, findings)
    return [_with_floor(each, units[index], seconds[index]) for index, each in enumerate(told)]


def _as_decided(
    metrics: Sequence[GuardrailMetric], counts: EventCounts, limits: MetricLimits, findings: MetricFindings
) -> list[MetricFinding]:
    """Each finding with ratio, interval and limit of the decision that is made or pending."""
    alone, gates = (np.array([getattr(metric, name) for metric in metrics]) for name in ("newest_alone", "gates"))
    of_harm = (findings.verdict == MetricVerdict.HARM) | ~gates
    gate = findings.ratio, *verdicts.gate_interval(counts, limits, promotes=alone)
    harm = verdicts.harm_interval(counts, limits) if of_harm.any() else gate
    fits = (findings.verdict != MetricVerdict.HETEROGENEOUS) & counts.valid
    ends = [np.where(of_harm, *both) for both in zip(harm, gate, strict=True)]
    several = counts.control.shape[-1] > 1
    found = []
    for index, metric in enumerate(metrics):
        ratio, lower, upper = (float(end[index]) for end in ends)
        told = findings.at(index)
        if not fits[index]:
            told = replace(told, lower=math.nan, upper=math.nan)
        elif of_harm[index]:
            # Of epochs that no one ratio fits the end gives way that decides nothing.
            told = replace(told, ratio=ratio, lower=lower, upper=upper if upper >= lower else math.inf)
        else:
            told = replace(told, lower=min(lower, upper), upper=upper)
        if of_harm[index]:
            told = replace(told, basis=DecisionBasis.HARM, allowed=1 + metric.margin)
        elif metric.newest_alone and several:
            told = replace(told, basis=DecisionBasis.THIS_STEP)
        found.append(told if metric.gates else _without_gate(told))
    return found


def _without_gate(finding: MetricFinding) -> MetricFinding:
    """No gate waits for it: nothing passes, and nothing but harm is to be decided."""
    passes = finding.verdict in (MetricVerdict.PASSED, MetricVerdict.HETEROGENEOUS)
    verdict = MetricVerdict.UNDECIDED if passes else finding.verdict
    return replace(finding, verdict=verdict, by_floor=False, needed=math.nan, eta_s=math.inf)


def _with_floor(finding: MetricFinding, units: float, seconds: float) -> MetricFinding:
    """With what decides by the floor, where anything is to be decided."""
    if not math.isfinite(units):
        return finding
    return replace(finding, units=units, eta_s=min(seconds, finding.eta_s))


def request_design_effect(epoch: EpochCounts) -> float:
    """What requests are worth less than independent ones, at worst, where units stay with an arm; 1 where they do not."""
    groups = _groups(1, [epoch])
    return 1.0 if groups is None else float(cluster_variance.request_design_effect(groups)[0])


@dataclass(frozen=True, slots=True)
class ArmSplit:
    """How many fell to each arm, and which share of them each was to have, of sum 1."""

    shares: tuple[float, ...]
    units: tuple[int, ...]

    @classmethod
    def of_two(cls, weight: float, units: tuple[int, int]) -> "ArmSplit":
        """Control and a candidate that was to have that share."""
        return cls((1 - weight, weight), units)


def mismatch_log_e(splits: Sequence[ArmSplit], concentration: float = sample_ratio.CONCENTRATION) -> float:
    """Log E against "they fall to the arms by their weights", each counted once; 0 without any that have two arms."""
    return sum(_mismatch(split, concentration) for split in splits)


def _mismatch(split: ArmSplit, concentration: float) -> float:
    with_a_share = [(share, units) for share, units in zip(split.shares, split.units, strict=True) if share > 0]
    if len(with_a_share) < 2:
        return 0.0
    shares, units = (np.array([column], float) for column in zip(*with_a_share, strict=True))
    return float(sample_ratio.log_e(units, shares, concentration * shares))


def _limits(metrics: Sequence[GuardrailMetric], levels: ErrorLevels) -> MetricLimits:
    margin, floor, weight = (
        np.array([getattr(metric, name) for metric in metrics]) for name in ("margin", "floor", "next_weight")
    )
    tests = len(metrics) * levels.harm_shares / levels.harm_error_share
    return MetricLimits(margin, floor, weight, levels.alpha, tests, levels.gate_error_share, levels.mixture)


def _counts(metrics: int, epochs: Sequence[EpochCounts]) -> EventCounts:
    """Arrays of shape (metrics, epochs)."""
    events = np.array([[epoch.events[index] for epoch in epochs] for index in range(metrics)], float)
    units = np.array([[epoch.units for epoch in epochs]] * metrics, float)
    weight = np.array([epoch.weight for epoch in epochs])
    blocks = np.array([[epoch.blocks[index] for epoch in epochs] for index in range(metrics)], float)
    return EventCounts(
        control=events[..., 0],
        candidate=events[..., 1],
        control_units=units[..., 0],
        candidate_units=units[..., 1],
        weight=weight,
        blocks=[BlockMoments(*np.moveaxis(blocks[:, :, length], -1, 0)) for length in range(blocks.shape[2])],
        groups=_groups(metrics, epochs),
    )


def _groups(metrics: int, epochs: Sequence[EpochCounts]) -> GroupedEvents | None:
    """Arrays of shape (metrics, epochs, groups), where every epoch tells of units."""
    told = [epoch.by_unit for epoch in epochs if epoch.by_unit is not None]
    if len(told) < len(epochs):
        return None
    events = np.array([[each.events[index] for each in told] for index in range(metrics)], float)
    requests = np.array([[each.requests for each in told]] * metrics, float)
    alone = np.array([[each.events_without_unit[index] for each in told] for index in range(metrics)], float)
    return GroupedEvents(
        control=events[:, :, 0],
        candidate=events[:, :, 1],
        control_requests=requests[:, :, 0],
        candidate_requests=requests[:, :, 1],
        control_without_unit=alone[..., 0],
        candidate_without_unit=alone[..., 1],
        requests_without_unit=np.array([[each.requests_without_unit for each in told]] * metrics, float),
    )
