"""Results of the tests of a guardrail metric, and their sentences for people."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.known_ends import known_ends


class MetricVerdict(StrEnum):
    """Verdict on one metric of one arm. Only `PASSED` lets a gate pass. Statuses of earlier releases may have `Heterogeneous`."""

    NO_DATA = "NoData"
    INVALID = "Invalid"
    UNDECIDED = "Undecided"
    PASSED = "Passed"
    HARM = "Harm"


class DecisionBasis(StrEnum):
    """Decision that a ratio and its interval belong to: a gate over all its epochs, a gate over the newest epoch, or harm."""

    ALL_STEPS = "AllSteps"
    THIS_STEP = "ThisStep"
    HARM = "Harm"


@dataclass(frozen=True, slots=True)
class MetricFinding:
    """Result for one metric of one arm, by the decision that was made or is pending: the gate's or that on harm.

    Attributes:
        ratio: the treatment's rate divided by control's; NaN without events.
        harm: log E against "within the margin", divided by the dispersion, and no more than bursts can show.
        passing: log E against "worse than allowed", divided by the dispersion.
        allowed: largest ratio at which the gate passes; for the basis harm, the ratio above which it is harm.
        needed: total events of both arms that typically decide if the ratio stays; infinite where none do.
        eta_s: seconds until then, at the pace of the tested epochs; infinite for never.
        verdict: the verdict.
        by_floor: whether it passed by its floor, not by its margin.
        units: total requests of the treatment at which it passes by the floor if rates stay; infinite for never, NaN where not computed.
        basis: the decision that ratio, interval and `allowed` belong to.
        lower: lower end of the interval, which holds at every evaluation; NaN for invalid counts.
        upper: upper end, NaN likewise.
    """

    ratio: float
    harm: float
    passing: float
    allowed: float
    needed: float
    eta_s: float
    verdict: MetricVerdict
    by_floor: bool = False
    units: float = math.nan
    basis: DecisionBasis = DecisionBasis.ALL_STEPS
    lower: float = math.nan
    upper: float = math.nan

    def sentence(self, metric: str, control: str = "control", treatment: str = "the treatment") -> str:
        """Return the finding as a sentence, given the arms' display names."""
        match self.verdict:
            case MetricVerdict.NO_DATA:
                return f"{metric}: nothing was counted yet"
            case MetricVerdict.INVALID:
                return f"{metric}: the counters are invalid"
        observed = self._describe_ratio(metric, control)
        match self.verdict:
            case MetricVerdict.HARM:
                return f"{observed}: worse than its margin"
            case MetricVerdict.PASSED if self.by_floor:
                return f"{observed}: within its floor above {control}'s rate"
            case MetricVerdict.PASSED:
                return f"{observed}: within the allowed {self.allowed:.3g} times"
        if self.basis == DecisionBasis.HARM:
            return f"{observed}; more than {self.allowed:.3g} times is harm"
        return f"{observed}; {self._describe_limit(control)}: {self._describe_need(treatment)}"

    def _describe_limit(self, control: str) -> str:
        """Return the limit in words. A latency's margin is in its threshold already, which leaves a ratio of 1."""
        times = f"{self.allowed:.3g}"
        return f"no more than {control}'s is allowed" if times == "1" else f"up to {times} times is allowed"

    def _describe_ratio(self, metric: str, control: str) -> str:
        alone = " in this step" if self.basis == DecisionBasis.THIS_STEP else ""
        if math.isnan(self.ratio):
            return f"{metric} happened in neither arm{alone}"
        ends = known_ends(self.lower, self.upper)
        if not ends:
            return f"{metric} is {self.ratio:.3g} times {control}'s{alone}"
        if math.isinf(self.ratio):
            often = f"more than {self.lower:.3g} times as often in the other arm at every evaluation"
            return f"{metric} never happened in {control}{alone} ({often})"
        between = " to ".join(f"{end:.3g}" for end in ends) if len(ends) > 1 else f"{ends[0]:.3g} or more"
        return f"{metric} is {self.ratio:.3g} times {control}'s{alone} ({between} at every evaluation)"

    def _describe_need(self, treatment: str) -> str:
        """Return the events or requests that typically decide, and the time until then."""
        by_floor = f"about {self.units:.0f} requests of {treatment}" if math.isfinite(self.units) else ""
        by_margin = f"about {self.needed:.0f} events" if math.isfinite(self.needed) else ""
        # Without events, those that decide by the margin are a mere guess.
        ways = [by_floor] if math.isnan(self.ratio) and by_floor else [way for way in (by_margin, by_floor) if way]
        if not ways:
            return "no number of events will decide"
        needs = f"needs {' or '.join(ways)}"
        # Where the counts suffice already, only the step's time is missing, and the caller shows that.
        has_wait = math.isfinite(self.eta_s) and self.eta_s >= 1
        return f"{needs}, in about {format_rough_duration(self.eta_s)}" if has_wait else needs


def format_rough_duration(seconds: float) -> str:
    """Return a duration in words, rounded as an estimate."""
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    name, length = next((each for each in units if seconds >= 2 * each[1]), ("seconds", 1.0))
    return f"{seconds / length:.0f} {name}"


@dataclass(frozen=True, slots=True)
class MetricFindings:
    """Findings of many metrics and arms, as arrays of their shape; fields as of `MetricFinding`."""

    ratio: Numbers
    harm: Numbers
    passing: Numbers
    allowed: Numbers
    needed: Numbers
    eta_s: Numbers
    verdict: NDArray[np.object_]
    by_floor: NDArray[np.bool_]

    def at(self, *index: int) -> MetricFinding:
        """Return the finding at an index."""
        return MetricFinding(**{each.name: getattr(self, each.name)[index] for each in fields(self)})
