"""What counts of events decide for candidates: harm, leave to go on, or what is still missing. Many metrics and arms at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import (
    cluster_variance,
    count_ratio,
    multiple_testing,
    proportion,
)
from sundog_operator.core.stats import (
    dispersion as stats_dispersion,
)
from sundog_operator.core.stats.beta_binomial import Numbers, Side
from sundog_operator.core.stats.cluster_variance import GroupedEvents
from sundog_operator.core.stats.dispersion import BlockMoments
from sundog_operator.core.stats.power import sample_size

_OF_THE_BOUND: Final = 0.1
_LEAST_RATE: Final = 1e-12
_FACTORS: Final = np.geomspace(1.0, 1e4, 93)
"""By which what was counted may have grown: each a tenth above the one before."""

_STRIDE: Final = 4
"""From the first of the factors to the last."""


class MetricVerdict(StrEnum):
    """Of one metric of one arm. Only `PASSED` lets anything go on."""

    NO_DATA = "NoData"
    INVALID = "Invalid"
    UNDECIDED = "Undecided"
    HETEROGENEOUS = "Heterogeneous"
    PASSED = "Passed"
    HARM = "Harm"


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


class DecisionBasis(StrEnum):
    """Of which decision a ratio and its interval are: a gate by all its epochs, a gate by the newest alone, or harm."""

    ALL_STEPS = "AllSteps"
    THIS_STEP = "ThisStep"
    HARM = "Harm"


@dataclass(frozen=True, slots=True)
class MetricFinding:
    """What is known of one metric of one arm, by the decision that is made or pending: that of the gate, or that on harm.

    Attributes:
        ratio: of the rates, the candidate's to control's; NaN where there were no events.
        lower: end of the interval that holds at every look, where the test of that decision has it; NaN with `upper` where no ratio fits
            all epochs.
        upper: the other end.
        harm: log E against "within the margin", divided by the dispersion.
        passing: log E against "worse than allowed", divided by it.
        allowed: the ratio up to which the next weight is given; above which it is harm, where the decision is that.
        needed: events of both arms, in all, that typically decide if the ratio is what it seems; infinite where none do.
        eta_s: seconds until there are so many, at the pace of the epochs that are looked at; infinite where that is never.
        verdict: what follows.
        by_floor: whether it passed by its floor, and not by its margin.
        units: the candidate's requests, in all, at which the floor is known to be kept if the rates stay; infinite where that is never,
            NaN where it was not asked for.
        basis: of which decision ratio, interval and `allowed` are.
    """

    ratio: float
    lower: float
    upper: float
    harm: float
    passing: float
    allowed: float
    needed: float
    eta_s: float
    verdict: MetricVerdict
    by_floor: bool = False
    units: float = math.nan
    basis: DecisionBasis = DecisionBasis.ALL_STEPS

    def sentence(self, metric: str, control: str = "control") -> str:
        """For a person; `control` is what that arm is called."""
        match self.verdict:
            case MetricVerdict.NO_DATA:
                return f"{metric}: nothing was counted yet"
            case MetricVerdict.INVALID:
                return f"{metric}: the counters are no counts"
            case MetricVerdict.HETEROGENEOUS:
                return f"{metric}: no one ratio fits all epochs, so none is promoted on"
        seen = self._seen(metric, control)
        match self.verdict:
            case MetricVerdict.HARM:
                return f"{seen}: worse than its margin"
            case MetricVerdict.PASSED if self.by_floor:
                return f"{seen}: no more above {control}'s rate than its floor allows"
            case MetricVerdict.PASSED:
                return f"{seen}: no worse than the {self.allowed:.3g} times that are allowed"
        if self.basis == DecisionBasis.HARM:
            return f"{seen}; more than {self.allowed:.3g} times is harm"
        return f"{seen}, and {self._limit(control)}: {self._wanted()}"

    def _limit(self, control: str) -> str:
        """How much is allowed; a margin that is in a threshold already leaves a ratio of 1."""
        times = f"{self.allowed:.3g}"
        return f"no more than {control}'s are allowed" if times == "1" else f"{times} times are allowed"

    def _seen(self, metric: str, control: str) -> str:
        alone = " in this step" if self.basis == DecisionBasis.THIS_STEP else ""
        if math.isnan(self.ratio):
            return f"{metric} happened in neither arm{alone}"
        if math.isnan(self.lower) or math.isnan(self.upper):
            return f"{metric} is {self.ratio:.3g} times {control}'s{alone}"
        if math.isinf(self.ratio):
            often = f"more than {self.lower:.3g} times as often as there at every look"
            return f"{metric} never happened in {control}{alone} ({often})"
        ends = f"({self.lower:.3g} to {self.upper:.3g} at every look)"
        return f"{metric} is {self.ratio:.3g} times {control}'s{alone} {ends}"

    def _wanted(self) -> str:
        """What will decide."""
        by_floor = f"about {self.units:.0f} requests of the candidate decide" if math.isfinite(self.units) else ""
        if math.isnan(self.ratio) and by_floor:
            wanted = by_floor
        elif math.isfinite(self.needed):
            wanted = f"about {self.needed:.0f} events decide" + (
                f", or {by_floor.removesuffix(' decide')}" if by_floor else ""
            )
        else:
            wanted = by_floor or "no number of events will decide"
        # Where nothing more has to be counted, time alone is missing, which is told beside it.
        soon = math.isfinite(self.eta_s) and self.eta_s >= 1
        return f"{wanted}, in some {format_rough_duration(self.eta_s)}" if soon else wanted


def format_rough_duration(seconds: float) -> str:
    """A time for people, who read it as a guess."""
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    name, length = next((each for each in units if seconds >= 2 * each[1]), ("seconds", 1.0))
    return f"{seconds / length:.0f} {name}"


@dataclass(frozen=True, slots=True)
class MetricFindings:
    """`Finding`s as arrays of the shape of the metrics and arms."""

    ratio: Numbers
    lower: Numbers
    upper: Numbers
    harm: Numbers
    passing: Numbers
    allowed: Numbers
    needed: Numbers
    eta_s: Numbers
    verdict: NDArray[np.object_]
    by_floor: NDArray[np.bool_]

    def at(self, *index: int) -> MetricFinding:
        """One of them."""
        return MetricFinding(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


def evaluate_verdicts(
    counts: EventCounts, limits: MetricLimits, *, promotes: bool | NDArray[np.bool_]
) -> MetricFindings:
    """Findings for any counts. Harm is looked for in all epochs; where the step promotes, leave is given by the newest alone.

    Ratio and interval are those of the gate, the interval by a quicker test than the gate's. Whether one ratio fits all epochs is asked
    where the gate pools them: a ratio that changes, as that of a tail does with load, says nothing against a gate that looks at one epoch.

    A ratio that changes over epochs within the null breaks neither test, but a bad newest epoch can hide behind good older ones: so the
    last step does not look at those. A floor never does: it compares rates, and of epochs with other weights and other rates the sums of
    an arm may be lower than the other's although none of its own is (Simpson). `promotes` is of a shape that fits the metrics and arms.
    """
    valid = counts.valid
    sane = counts.only(valid)
    gate = sane.newest(promotes)
    harm, _ = sane.log_e(1 + np.asarray(limits.margin), "above", limits.concentrations)
    passing, phi = gate.log_e(limits.allowed, "below", limits.concentrations)
    bar = phi * multiple_testing.log_e_threshold(limits.gate_alpha)
    lower, upper = count_ratio.ratio_interval(gate.control, gate.candidate, gate.weight, bar, limits.concentrations)
    ratio = count_ratio.maximum_likelihood_ratio(gate.control, gate.candidate, gate.weight)
    early = ~sane.enough
    verdict = _verdicts(valid, gate, limits, harm, passing, early=early, empty=np.isnan(lower))
    newest = sane.newest(True)
    long = newest.has_units & newest.enough
    open_ = (verdict == MetricVerdict.UNDECIDED) & long & (limits.room > 0)
    by_floor = np.zeros(verdict.shape, bool)
    if open_.any():
        clumped = np.broadcast_to(np.maximum(newest.dispersion(limits.allowed), newest.of_requests()), open_.shape)
        below = _is_below_floor(newest.sums[:, open_], _fitting(limits.room, open_), clumped[open_], limits.gate_alpha)
        by_floor[open_] = below
        verdict[by_floor] = MetricVerdict.PASSED
    allowed = np.broadcast_to(limits.allowed, valid.shape)
    needed = _needed(
        gate, allowed, phi * multiple_testing.log_e_threshold(limits.gate_alpha / 2), verdict == MetricVerdict.UNDECIDED
    )
    ratio, lower, upper = (np.where(valid, part, np.nan) for part in (ratio, lower, upper))
    return MetricFindings(ratio, lower, upper, harm, passing, allowed, needed, _eta_s(gate, needed), verdict, by_floor)


def gate_interval(
    counts: EventCounts, limits: MetricLimits, *, promotes: bool | NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """(lower, upper) of the ratio as the gate tests it: it passes by the margin exactly where the upper end is at most `allowed`."""
    gate = counts.only(counts.valid).newest(promotes)
    return gate.interval(limits.allowed, limits.gate_alpha / 2, limits.concentrations)


def harm_interval(counts: EventCounts, limits: MetricLimits) -> tuple[Numbers, Numbers, Numbers]:
    """(ratio, lower, upper) as harm is tested: it is found exactly where the lower end is at least 1 + margin."""
    sane = counts.only(counts.valid)
    ratio = count_ratio.maximum_likelihood_ratio(sane.control, sane.candidate, sane.weight)
    boundary = 1 + np.asarray(limits.margin)
    return ratio, *sane.interval(boundary, limits.alpha / limits.tests, limits.concentrations)


def _verdicts(
    valid: NDArray[np.bool_],
    gate: EventCounts,
    limits: MetricLimits,
    harm: Numbers,
    passing: Numbers,
    *,
    early: NDArray[np.bool_],
    empty: NDArray[np.bool_],
) -> NDArray[np.object_]:
    """Of each, floors aside; what comes first in the list goes before the others."""
    cases = [
        (~valid, MetricVerdict.INVALID),
        (~gate.has_units, MetricVerdict.NO_DATA),
        (early, MetricVerdict.UNDECIDED),
        (harm >= multiple_testing.log_e_threshold(limits.alpha / limits.tests), MetricVerdict.HARM),
        (empty, MetricVerdict.HETEROGENEOUS),
        (passing >= multiple_testing.log_e_threshold(limits.gate_alpha / 2), MetricVerdict.PASSED),
    ]
    found = np.full(valid.shape, MetricVerdict.UNDECIDED, object)
    for where, verdict in reversed(cases):
        found[where] = verdict
    return found


def _fitting(limit: Numbers, where: NDArray[np.bool_]) -> Numbers:
    """Of some, a limit that may be the same for several."""
    return np.broadcast_to(limit, where.shape)[where]


def _is_below_floor(sums: Numbers, room: Numbers, phi: Numbers, alpha: float) -> NDArray[np.bool_]:
    """Whether the candidate's rate is at most the floor above control's: without it a service that has no errors never passes.

    Control's rate is bounded from below, and what is that and the floor is tested against the candidate's counts. Where there are few
    events the first bound is 0 or nearly, whatever its level: most of the error is left to the second.

    Args:
        sums: as of `Counts`, shape (4, ...).
        room: by how much the rate may be above control's, above 0, shape (...).
        phi: the dispersion, shape (...).
        alpha: the error of the gate.
    """
    control, candidate, control_units, candidate_units = sums
    optimum = proportion.optimum_for_rate(room)
    bounding, testing = alpha / 2 * _OF_THE_BOUND, alpha / 2 * (1 - _OF_THE_BOUND)

    def keeps(least: Numbers) -> NDArray[np.bool_]:
        rate = np.clip(least + room, _LEAST_RATE, 1 - _LEAST_RATE)
        evidence = proportion.log_e(candidate, candidate_units, rate, optimum, 2 * testing, "below") / phi
        found: NDArray[np.bool_] = evidence >= multiple_testing.log_e_threshold(testing)
        return found

    # Where control's rate as it was seen leaves too little room, a lower one leaves less.
    possible = keeps(control / control_units)
    if not possible.any():
        return possible
    return keeps(
        proportion.lower_bound(
            control, control_units, phi * multiple_testing.log_e_threshold(bounding), optimum, bounding
        )
    )


def units_for_floor(counts: EventCounts, limits: MetricLimits, wanted: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """The candidate's requests at which its floor is known to be kept if the rates stay, and in how many seconds.

    Infinite where that is never, and where it is not wanted: what is not valid cannot be.
    """
    units, seconds = np.full(wanted.shape, np.inf), np.full(wanted.shape, np.inf)
    newest = counts.newest(True)
    wanted = np.asarray(wanted & newest.has_units & (limits.room > 0))
    if wanted.any():
        gate = newest.at(wanted)
        phi = np.maximum(gate.dispersion(_fitting(limits.allowed, wanted)), gate.of_requests())
        room, sums = _fitting(limits.room, wanted), gate.sums[:, None]
        times = _first_factor(lambda factors: _is_below_floor(sums * factors, room, phi, limits.gate_alpha), phi.size)
        counted_s = gate.closed * stats_dispersion.LENGTHS_S[0]
        units[wanted] = gate.sums[3] * times
        seconds[wanted] = np.where(counted_s > 0, np.maximum(counted_s, 1.0) * (times - 1), np.inf)
    return units, seconds


def _first_factor(keeps: Callable[[Numbers], NDArray[np.bool_]], some: int) -> Numbers:
    """Of each of some the least of the factors that keeps, as all larger ones do; infinite where none does."""
    coarse = keeps(np.repeat(_FACTORS[::_STRIDE, None], some, 1))
    until = _STRIDE * coarse.argmax(0)
    before = np.maximum(until - np.arange(_STRIDE)[:, None], 0)
    found = np.where(keeps(_FACTORS[before]), _FACTORS[before], np.inf).min(0)
    return np.where(coarse.any(0), found, np.inf)


def _eta_s(gate: EventCounts, needed: Numbers) -> Numbers:
    events, seconds = (gate.control + gate.candidate).sum(-1), gate.closed * stats_dispersion.LENGTHS_S[0]
    with np.errstate(all="ignore"):
        left = np.maximum(needed - events, 0.0) * seconds / events
    return np.where((events > 0) & (seconds > 0), left, np.where(np.isnan(needed), np.nan, np.inf))


def _needed(gate: EventCounts, allowed: Numbers, bar: Numbers, wanted: NDArray[np.bool_]) -> Numbers:
    """Of those that are wanted, the events of both arms that typically decide; NaN of the others."""
    found = np.full(wanted.shape, np.nan)
    if not wanted.any():
        return found
    control, candidate, weight = (
        np.broadcast_to(part, gate.control.shape)[wanted] for part in (gate.control, gate.candidate, gate.weight)
    )
    ratio = count_ratio.maximum_likelihood_ratio(control, candidate, weight)
    # What has not happened yet may still: half an event keeps the guess above 0.
    ratio = np.where(np.isnan(ratio), 1.0, np.maximum(ratio, 0.5 / (control.sum(-1) + 1)))
    found[wanted] = sample_size.events_needed(ratio, allowed[wanted], weight[:, -1], bar[wanted], "below")
    return found
