"""Event counts of two arms over epochs, and the limits of a metric."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import cluster_variance, count_ratio, dispersion, multiple_testing, root_finding
from sundog_operator.core.stats.beta_binomial import Numbers, Side
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.unit_rates import UnitEvents, UnitTest

_LEAST_SHARE_OF_BURSTS: Final = 0.5
"""Share of bursts that a treatment may have at any weight: its replicas have no more load than control's, so they are at most as many."""

_FAR: Final = 35.0
"""Largest log ratio that is searched."""


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Event counts of metrics where less is better, for arms beside control.

    Attributes:
        control: control's events, shape (..., epochs), after any axes of metrics and arms.
        treatment: the treatment's events, same shape.
        control_units: control's requests, or its units where those stay with an arm, same shape.
        treatment_units: the treatment's requests or units, same shape.
        weight: the treatment's share of the assignments to both arms, in (0, 1); broadcasts.
        blocks: sums over time blocks of each length, the shortest first, with arrays of the same shape.
        groups: counts by group of units, where units stay with an arm.
        units: counts of a sample of units, where units stay with an arm and the edges report them.
    """

    control: Numbers
    treatment: Numbers
    control_units: Numbers
    treatment_units: Numbers
    weight: Numbers
    blocks: Sequence[BlockMoments]
    groups: GroupedEvents | None = None
    units: UnitEvents | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """True where all numbers are finite, none is negative, and weights are in (0, 1); shape (...)."""
        counts = np.stack([self.control, self.treatment, self.control_units, self.treatment_units])
        whole = (np.isfinite(counts) & (counts >= 0)).all((0, -1))
        share = ((self.weight > 0) & (self.weight < 1)).all(-1)
        found: NDArray[np.bool_] = np.logical_and(whole, share)
        found = found if self.groups is None else found & self.groups.valid
        return found & np.isfinite(np.array(self.blocks)).all((0, 1, -1)) if self.blocks else found

    @property
    def closed(self) -> Numbers:
        """Number of closed blocks of the shortest length, shape (...)."""
        return self.blocks[0].closed.sum(-1) if self.blocks else np.zeros(self.control.shape[:-1])

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """True for epochs with enough closed blocks to measure their own dispersion; shape (..., epochs).

        Blocks of older epochs do not help a new one: with other weights and replicas, its bursts have other sizes.
        """
        enough = dispersion.has_enough_blocks([each.closed for each in self.blocks])
        return np.broadcast_to(enough, self.control.shape)

    @property
    def enough(self) -> NDArray[np.bool_]:
        """True where the newest epoch is measured, as gates need it; shape (...)."""
        return self.is_measured[..., -1]

    @property
    def has_units(self) -> NDArray[np.bool_]:
        """True where both arms have units; shape (...)."""
        found: NDArray[np.bool_] = (self.control_units.sum(-1) > 0) & (self.treatment_units.sum(-1) > 0)
        return found

    @property
    def sums(self) -> Numbers:
        """Sums over epochs: control's and the treatment's events, then their units; shape (4, ...)."""
        found: Numbers = np.stack([self.control, self.treatment, self.control_units, self.treatment_units]).sum(-1)
        return found

    def only(self, valid: NDArray[np.bool_]) -> Self:
        """Return a copy with all counts 0 where `valid` is false."""
        if valid.all():
            return self
        kept = self._each(lambda part: np.where(valid[..., None], part, 0.0))
        return replace(kept, weight=np.where(valid[..., None], self.weight, 0.5))

    def only_measured(self) -> Self:
        """Return a copy without the counts of epochs that are too young to measure their dispersion."""
        kept = self.is_measured
        if kept.all():
            return self
        units = self.units and self.units.of_epochs(kept)
        return replace(self._each(lambda part: np.where(kept, part, 0.0)), weight=self.weight, units=units)

    def at(self, where: NDArray[np.bool_]) -> Self:
        """Return the counts at `where`, of shape (selected, epochs)."""
        found = self._each(lambda part: np.broadcast_to(part, self.control.shape)[where])
        return replace(found, units=self.units and self.units.at(where))

    def select(self, where: Sequence[bool]) -> Self:
        """Return the counts of some metrics, of shape (selected, epochs)."""
        return self.at(np.asarray(where))

    def newest(self, alone: bool = True) -> Self:
        """Return a copy without the counts of older epochs, if `alone`."""
        if not alone:
            return self
        return replace(self._each(lambda part: part[..., -1:]), units=self.units and self.units.newest())

    def _each(self, change: Callable[[Numbers], Numbers]) -> Self:
        return replace(
            self,
            control=change(self.control),
            treatment=change(self.treatment),
            control_units=change(self.control_units),
            treatment_units=change(self.treatment_units),
            weight=change(self.weight),
            blocks=[BlockMoments(*map(change, each)) for each in self.blocks],
            groups=self.groups and self.groups.each(change),
        )

    def dispersion(self, ratio: Numbers, *, of_harm: bool = False) -> Numbers:
        """Return the dispersion φ ≥ 1 by which log E, of harm or another one, is divided, shape (...).

        Bursts in time and differences between units are separate sources of variance, so their excesses above 1 add up.
        """
        null = count_ratio.treatment_share(ratio, self.weight)
        phi = dispersion.dispersion_factor(self.blocks, null, of_harm=of_harm)
        return phi if self.groups is None else phi + cluster_variance.design_effect(self.groups, null, self.weight) - 1

    def request_design_effect(self) -> Numbers:
        """Return the design effect of requests, shape (...), for counts whose events do not show yet whether units differ."""
        return (
            np.ones(self.control.shape[:-1])
            if self.groups is None
            else cluster_variance.request_design_effect(self.groups)
        )

    def log_e(self, ratio: Numbers, side: Side, concentrations: Sequence[float]) -> tuple[Numbers, Numbers]:
        """Return log E against a ratio, already divided by the dispersion, and that dispersion; each of shape (...).

        Above the ratio, it is that of harm.
        """
        of_harm = side == "above"
        phi = np.array(np.broadcast_to(self.dispersion(ratio, of_harm=of_harm), self.control.shape[:-1]))
        found = count_ratio.log_e(self.control, self.treatment, self.weight, ratio, side, concentrations) / phi
        where, by_unit = self._by_unit(ratio, of_harm=of_harm)
        if by_unit is not None:
            found[where], phi[where] = by_unit.log_e(1 if side == "above" else -1)
        return found - self._cost_of_two_tests, phi

    def harm_log_e(self, ratio: Numbers, concentrations: Sequence[float]) -> Numbers:
        """Return log E for harm: that above a ratio, but no more than bursts of the treatment alone can show; shape (...).

        The lesser of two tests is wrong no more often than either. One is right if failures are independent, the other if bursts are.
        """
        found, phi = self.log_e(ratio, "above", concentrations)
        return np.minimum(found, self._burst_log_e(ratio, phi))

    def least_ratio_by_bursts(self, phi: Numbers, alpha: float) -> Numbers:
        """Return the ratio above which bursts of the treatment alone show harm at level α, shape (...); 0 where none is."""

        def excess(log_ratio: Numbers) -> Numbers:
            return self._burst_log_e(np.exp(log_ratio), phi) - multiple_testing.log_e_threshold(alpha)

        inside, outside = np.full(phi.shape, _FAR), np.full(phi.shape, -_FAR)
        with np.errstate(all="ignore"):
            within, beyond = excess(inside), excess(outside)
            found = root_finding.find_crossings(excess, inside, outside, within, beyond)
        return np.exp(np.where((within < 0) & (beyond >= 0), found, -np.inf))

    def _burst_log_e(self, ratio: Numbers, phi: Numbers) -> Numbers:
        """Return log E if each of the treatment's independent events, a burst or a failure, fell by chance on one of its replicas."""
        found: Numbers = (self.treatment * log_e_of_burst(ratio, self.weight)).sum(-1) / phi
        return found

    @property
    def _cost_of_two_tests(self) -> float:
        """How much log E loses because groups are tested at some evaluations and units at others: the mean of two E is an E."""
        return 0.0 if self.units is None else math.log(2)

    @property
    def is_by_unit(self) -> NDArray[np.bool_]:
        """True where a sample of units is tested, not all requests; shape (...)."""
        return np.zeros(self.control.shape[:-1], bool) if self.units is None else self.units.usable

    def _by_unit(self, ratio: Numbers, *, of_harm: bool) -> tuple[NDArray[np.bool_], "_UnitComparison | None"]:
        """Return where units are tested, and their comparison with a ratio there; None if it is nowhere."""
        where = self.is_by_unit
        if self.units is None or not where.any():
            return where, None
        here, null = replace(self, groups=None, units=None).at(where), np.broadcast_to(ratio, where.shape)[where]
        share = count_ratio.treatment_share(null, here.weight)
        with np.errstate(all="ignore"):
            chance = 1 / ((here.control + here.treatment) * share * (1 - share)).sum(-1)
        bursts = dispersion.dispersion_factor(here.blocks, share, of_harm=of_harm)
        return where, _UnitComparison(self.units.at(where), null, chance, bursts)

    def estimate_ratio(self) -> Numbers:
        """Return the estimate of the ratio, shape (...); NaN without events."""
        found = np.array(count_ratio.maximum_likelihood_ratio(self.control, self.treatment, self.weight))
        if self.units is not None and (where := self.is_by_unit).any():
            found[where] = self.units.at(where).estimate_ratio()
        return found

    def interval(
        self, ratio: Numbers, alpha: float, concentrations: Sequence[float], *, of_harm: bool = False
    ) -> tuple[Numbers, Numbers]:
        """Return (lower, upper): the ratios that no one-sided test at level α rejects, given the dispersion at `ratio`."""
        level = multiple_testing.log_e_threshold(alpha) + self._cost_of_two_tests
        bar = np.broadcast_to(self.dispersion(ratio, of_harm=of_harm), self.control.shape[:-1]) * level
        lower, upper = map(
            np.array, count_ratio.one_sided_interval(self.control, self.treatment, self.weight, bar, concentrations)
        )
        where, by_unit = self._by_unit(ratio, of_harm=of_harm)
        if by_unit is not None:
            lower[where], upper[where] = by_unit.interval(level)
        return lower, upper


def log_e_of_burst(ratio: float | Numbers, weight: Numbers) -> Numbers:
    """Return what an independent event of the treatment says at most against a ratio of the rates, shape (..., epochs): log(1/θ).

    Requests are assigned by weight, bursts fall by replica: a treatment with a hundredth of the requests may have half of the replicas. So
    θ is that of the larger of the two shares.
    """
    found: Numbers = -np.log(count_ratio.treatment_share(ratio, np.maximum(weight, _LEAST_SHARE_OF_BURSTS)))
    return found


@dataclass(frozen=True, slots=True)
class _UnitComparison:
    """A sample of units, and what its units do not show; each of shape (...).

    Attributes:
        units: the sample.
        ratio: the tested ratio.
        chance: variance of the log ratio of as many independent events.
        bursts: dispersion over blocks of time. A stall hits all units of an arm.
    """

    units: UnitEvents
    ratio: Numbers
    chance: Numbers
    bursts: Numbers

    def log_e(self, sign: int) -> tuple[Numbers, Numbers]:
        """Return log E on one side of the ratio, already divided by the dispersion of bursts, and the dispersion of all."""
        test = self.units.test(self.ratio)
        excess = self._excess(test)
        with np.errstate(all="ignore"):
            phi = np.maximum(excess * test.error / self.chance, 1.0)
        return test.log_e(sign) / excess, phi

    def interval(self, level: float) -> tuple[Numbers, Numbers]:
        """Return the ratios that no one-sided test rejects at this log E, as (lower, upper)."""
        return self.units.interval(level * self._excess(self.units.test(self.ratio)))

    def _excess(self, test: UnitTest) -> Numbers:
        """Return the factor by which bursts add to the variance over units."""
        with np.errstate(all="ignore"):
            found = (self.bursts - 1) * self.chance / test.error
        return 1 + np.where(np.isfinite(found), found, 0.0)


@dataclass(frozen=True, slots=True)
class MetricLimits:
    """Limits of metrics; each number or array broadcasts to the metrics and arms.

    Attributes:
        margin: the largest relative increase of the rate, such as 0.25.
        floor: the absolute increase of the rate that always passes, in the rate's unit; 0 for none.
        next_weight: the share of traffic that the gate leads to, in (0, 1].
        alpha: the error of each direction.
        tests: number of tests that share the error of harm: metrics times arms, and more where early harm has a part of it.
        gate_error_share: this gate's share of the error; below 1 where it tests an epoch that may start again.
        concentrations: those of the mixture, frozen in the plan.
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
        """Error of the gate; its two ways to pass have half of it each."""
        return self.alpha * self.gate_error_share

    @property
    def allowed(self) -> Numbers:
        """Largest ratio at which the gate passes."""
        return np.asarray(multiple_testing.allowed_ratio(self.margin, self.next_weight))

    @property
    def allowed_increase(self) -> Numbers:
        """Largest difference of the treatment's rate to control's that passes by the floor; 0 without a floor."""
        return np.asarray(self.floor) / self.next_weight
