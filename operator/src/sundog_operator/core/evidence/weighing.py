"""Evidence of one candidate out of plain counts, by metric and epoch: for those who decide and have no arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sundog_operator.core.evidence import sample_ratio, verdicts
from sundog_operator.core.evidence.dispersion import Blocks
from sundog_operator.core.evidence.verdicts import Counts, Finding, Limits, Verdict


@dataclass(frozen=True, slots=True)
class Metric:
    """What one kind of event may cost.

    Attributes:
        margin: by which share the candidate may have more, such as 0.25.
        floor: by how much its rate may be higher at a gate; 0 for none.
        next_weight: the share of traffic that is asked for, in (0, 1].
        newest_alone: whether a gate looks at the newest epoch only.
    """

    margin: float
    floor: float
    next_weight: float
    newest_alone: bool


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was counted while the weights stood still.

    Attributes:
        weight: the candidate's share of the assignments, in (0, 1).
        units: requests of control and of the candidate.
        events: of each metric, those of control and of the candidate.
        blocks: of each metric, for each length of blocks the shortest first, the six numbers of `dispersion.Blocks`.
    """

    weight: float
    units: tuple[int, int]
    events: Sequence[tuple[int, int]]
    blocks: Sequence[Sequence[tuple[int, ...]]]


def weigh(metrics: Sequence[Metric], epochs: Sequence[Epoch], alpha: float) -> list[Finding]:
    """What is found of each metric; with no epoch nothing was counted.

    `alpha` is the error of each direction, that of harm being shared among the metrics.
    """
    if not epochs:
        epochs = [Epoch(0.5, (0, 0), [(0, 0)] * len(metrics), [[(0,) * 6]] * len(metrics))]
    if not metrics:
        return []
    limits, counts = _limits(metrics, alpha), _counts(len(metrics), epochs)
    alone = np.array([metric.newest_alone for metric in metrics])
    findings = verdicts.judge(counts, limits, promotes=alone)
    undecided = findings.verdict == Verdict.UNDECIDED
    units, seconds = verdicts.units_for_floor(counts, limits, undecided, promotes=alone)
    return [_with_floor(findings.at(index), units[index], seconds[index]) for index in range(len(metrics))]


def _with_floor(finding: Finding, units: float, seconds: float) -> Finding:
    """With what decides by the floor, where anything is to be decided."""
    if not math.isfinite(units):
        return finding
    return replace(finding, units=units, eta_s=min(seconds, finding.eta_s))


def mismatch(epochs: Sequence[Epoch]) -> float:
    """Log E against "requests fall to the arms by their weights"; 0 without epochs that have two arms."""
    epochs = [epoch for epoch in epochs if 0 < epoch.weight < 1]
    if not epochs:
        return 0.0
    units = np.array([epoch.units for epoch in epochs], float)
    shares = np.array([(1 - epoch.weight, epoch.weight) for epoch in epochs])
    return float(sample_ratio.log_e(units, shares))


def _limits(metrics: Sequence[Metric], alpha: float) -> Limits:
    margin, floor, weight = (
        np.array([getattr(metric, name) for metric in metrics]) for name in ("margin", "floor", "next_weight")
    )
    return Limits(margin, floor, weight, alpha, len(metrics))


def _counts(metrics: int, epochs: Sequence[Epoch]) -> Counts:
    """Arrays of shape (metrics, epochs)."""
    events = np.array([[epoch.events[index] for epoch in epochs] for index in range(metrics)], float)
    units = np.array([[epoch.units for epoch in epochs]] * metrics, float)
    weight = np.array([epoch.weight for epoch in epochs])
    blocks = np.array([[epoch.blocks[index] for epoch in epochs] for index in range(metrics)], float)
    return Counts(
        control=events[..., 0],
        candidate=events[..., 1],
        control_units=units[..., 0],
        candidate_units=units[..., 1],
        weight=weight,
        blocks=[Blocks(*np.moveaxis(blocks[:, :, length], -1, 0)) for length in range(blocks.shape[2])],
    )
