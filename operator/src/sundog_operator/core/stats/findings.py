"""What the tests of a metric found."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers


class MetricVerdict(StrEnum):
    """Of one metric of one arm. Only `PASSED` lets anything go on."""

    NO_DATA = "NoData"
    INVALID = "Invalid"
    UNDECIDED = "Undecided"
    HETEROGENEOUS = "Heterogeneous"
    PASSED = "Passed"
    HARM = "Harm"


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
