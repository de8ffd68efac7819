"""Events of two arms over epochs, and the limits that a metric is held to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import (
    cluster_variance,
    count_ratio,
    multiple_testing,
)
from sundog_operator.core.stats import (
    dispersion as stats_dispersion,
)
from sundog_operator.core.stats.beta_binomial import Numbers, Side
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Of metrics that less is better of, for arms beside control.

    Attributes:
        control: control's events, shape (..., epochs); any axes of metrics and arms before that of epochs.
        candidate: the candidate's events, same shape.
        control_units: control's requests, or units where those stay with an arm, same shape.
        candidate_units: the candidate's, same shape.
        weight: the candidate's share of the assignments to both, in (0, 1), of a shape that fits.
        blocks: how the events vary with time, for blocks of each length, the shortest first; their arrays have the same shape.
        groups: how they vary by unit, where units stay with an arm.
    """

    control: Numbers
    candidate: Numbers
    control_units: Numbers
    candidate_units: Numbers
    weight: Numbers
    blocks: Sequence[BlockMoments]
    groups: GroupedEvents | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether every number is one, and none is below 0; shape (...)."""
        counts = np.stack([self.control, self.candidate, self.control_units, self.candidate_units])
        whole = (np.isfinite(counts) & (counts >= 0)).all((0, -1))
        share = ((self.weight > 0) & (self.weight < 1)).all(-1)
        found: NDArray[np.bool_] = np.logical_and(whole, share)
        found = found if self.groups is None else found & self.groups.valid
        return found & np.isfinite(np.array(self.blocks)).all((0, 1, -1)) if self.blocks else found

    @property
    def closed(self) -> Numbers:
        """How many of the shortest blocks are closed, shape (...)."""
        return self.blocks[0].closed.sum(-1) if self.blocks else np.zeros(self.control.shape[:-1])

    @property
    def enough(self) -> NDArray[np.bool_]:
        """Whether enough blocks are closed to know how events come together, of a shape that fits (...)."""
        return stats_dispersion.has_enough_blocks([each.closed.sum(-1) for each in self.blocks])

    @property
    def has_units(self) -> NDArray[np.bool_]:
        """Whether both arms have any, shape (...)."""
        found: NDArray[np.bool_] = (self.control_units.sum(-1) > 0) & (self.candidate_units.sum(-1) > 0)
        return found

    @property
    def sums(self) -> Numbers:
        """Over epochs: events of control and of the candidate, then their units; shape (4, ...)."""
        found: Numbers = np.stack([self.control, self.candidate, self.control_units, self.candidate_units]).sum(-1)
        return found

    def only(self, valid: NDArray[np.bool_]) -> Self:
        """The same with nothing counted where it is not valid."""
        if valid.all():
            return self
        sane = self._each(lambda part: np.where(valid[..., None], part, 0.0))
        return replace(sane, weight=np.where(valid[..., None], self.weight, 0.5))

    def at(self, where: NDArray[np.bool_]) -> Self:
        """Some of them, shape (some, epochs)."""
        return self._each(lambda part: np.broadcast_to(part, self.control.shape)[where])

    def newest(self, alone: bool | NDArray[np.bool_]) -> Self:
        """The same with nothing counted in older epochs, where the newest is to be looked at alone; `alone` fits the shape (...)."""
        if np.all(alone):
            return self._each(lambda part: part[..., -1:])
        if not np.any(alone):
            return self
        looked_at = ~np.asarray(alone)[..., None] | (np.arange(self.weight.shape[-1]) == self.weight.shape[-1] - 1)
        return replace(self._each(lambda part: np.where(looked_at, part, 0.0)), weight=self.weight)

    def _each(self, change: Callable[[Numbers], Numbers]) -> Self:
        return replace(
            self,
            control=change(self.control),
            candidate=change(self.candidate),
            control_units=change(self.control_units),
            candidate_units=change(self.candidate_units),
            weight=change(self.weight),
            blocks=[BlockMoments(*map(change, each)) for each in self.blocks],
            groups=self.groups and self.groups.each(change),
        )

    def dispersion(self, ratio: Numbers) -> Numbers:
        """What log E is divided by, shape (...). Bursts in time and units that differ are two reasons to vary, and each adds its own."""
        null = count_ratio.candidate_share(ratio, self.weight)
        phi = stats_dispersion.dispersion_factor(self.blocks, null)
        return phi if self.groups is None else phi + cluster_variance.design_effect(self.groups, null, self.weight) - 1

    def of_requests(self) -> Numbers:
        """What a request is worth less than a unit where nothing tells yet that requests of a unit differ, shape (...)."""
        return (
            np.ones(self.control.shape[:-1])
            if self.groups is None
            else cluster_variance.request_design_effect(self.groups)
        )

    def log_e(self, ratio: Numbers, side: Side, concentrations: Sequence[float]) -> tuple[Numbers, Numbers]:
        """Log E against a ratio, shape (...), and the dispersion by which it is divided already."""
        phi = np.broadcast_to(self.dispersion(ratio), self.control.shape[:-1])
        return count_ratio.log_e(self.control, self.candidate, self.weight, ratio, side, concentrations) / phi, phi

    def interval(self, ratio: Numbers, alpha: float, concentrations: Sequence[float]) -> tuple[Numbers, Numbers]:
        """(lower, upper): the ratios that no test of one side at that level rejects, with the dispersion against a ratio."""
        bar = np.broadcast_to(self.dispersion(ratio), self.control.shape[:-1]) * multiple_testing.log_e_threshold(alpha)
        return count_ratio.one_sided_interval(self.control, self.candidate, self.weight, bar, concentrations)


@dataclass(frozen=True, slots=True)
class MetricLimits:
    """What metrics may cost; each number or array of a shape that fits the metrics and arms.

    Attributes:
        margin: by which share the candidate may be worse, such as 0.25.
        floor: by how much its rate may be worse, in the rate's unit; 0 for none.
        next_weight: the share of traffic that is asked for, in (0, 1].
        alpha: the error of each direction.
        tests: metrics times arms, and times what looks for harm beside them, among which the error of harm is shared; more by as much as
            early harm has of it.
        gate_share: of the error, what this gate has: less than all where it looks at an epoch that may begin anew.
        concentrations: of the mixture, as frozen in the plan.
    """

    margin: float | Numbers
    floor: float | Numbers
    next_weight: float | Numbers
    alpha: float
    tests: float = 1
    gate_error_share: float = 1.0
    concentrations: Sequence[float] = count_ratio.CONCENTRATIONS

    @property
    def gate_alpha(self) -> float:
        """The error of the gate; half of it is for each of its two ways to pass."""
        return self.alpha * self.gate_error_share

    @property
    def allowed(self) -> Numbers:
        """The ratio up to which the next weight is given."""
        return np.asarray(multiple_testing.allowed_ratio(self.margin, self.next_weight))

    @property
    def room(self) -> Numbers:
        """By how much the candidate's rate may be above control's by the floor; 0 without one."""
        return np.asarray(self.floor) / self.next_weight
