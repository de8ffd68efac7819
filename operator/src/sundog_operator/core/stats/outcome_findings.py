"""What the tests of an outcome found."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.stats.outcome_counts import OutcomeMetric

ARM_IS_OUT: Final = "the arm is out"
"""Said instead of what will decide."""


class OutcomeVerdict(StrEnum):
    """Of one success metric of one arm."""

    NO_DATA = "NoData"
    INVALID = "Invalid"
    UNDECIDED = "Undecided"
    HETEROGENEOUS = "Heterogeneous"
    BETTER = "Better"
    WORSE = "Worse"
    NO_EFFECT = "NoEffect"


@dataclass(frozen=True, slots=True)
class OutcomeFinding:
    """What is known of one success metric of one arm beside control.

    Attributes:
        metric: which one.
        control: control's rate or mean as it was counted over all epochs, a mean in the unit of the values; NaN without exposures.
        arm: the arm's.
        uplift: the arm's to control's, less 1, epoch by epoch; NaN where that is not known.
        lower: end of the interval that holds at every look, with those of all arms and metrics at once; NaN where it is not known.
        upper: the other end; infinite where it is not known yet.
        better: log E against "in the goal's direction it is not better".
        worse: log E against "it is not worse".
        exposed: units of both arms.
        needed: units of both arms at which it typically is decided, if all goes on as it did; infinite where it never is, NaN where it is.
        eta_s: seconds until then; infinite where nobody can tell.
        verdict: what follows.
    """

    metric: OutcomeMetric
    control: float = math.nan
    arm: float = math.nan
    uplift: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    better: float = -math.inf
    worse: float = -math.inf
    exposed: int = 0
    needed: float = math.nan
    eta_s: float = math.inf
    verdict: OutcomeVerdict = OutcomeVerdict.NO_DATA

    @property
    def improvement(self) -> tuple[float, float]:
        """The ends of the interval in the direction of the goal: below 0 is worse."""
        return (self.lower, self.upper) if self.metric.goal == "increase" else (-self.upper, -self.lower)

    def sentence(self, arm: str = "the arm", control: str = "control", *, out: bool = False) -> str:
        """For a person; `out` of an arm to which no units come any more, so that nothing will decide."""
        match self.verdict:
            case OutcomeVerdict.NO_DATA:
                return f"{self.metric.name}: nothing was counted yet"
            case OutcomeVerdict.INVALID:
                return f"{self.metric.name}: the counters are no counts"
        seen = f"{self.metric.name} of {arm} {self._seen(control)}"
        match self.verdict:
            case OutcomeVerdict.HETEROGENEOUS:
                return f"{seen}: no one ratio fits all epochs, so nothing is won by it"
            case OutcomeVerdict.BETTER:
                return f"{seen}: better"
            case OutcomeVerdict.WORSE:
                return f"{seen}: worse"
            case OutcomeVerdict.NO_EFFECT:
                return f"{seen}: not the {_percent(self.metric.effect)} that are worth finding"
        return f"{seen}: {ARM_IS_OUT if out else self._wanted()}"

    def _seen(self, control: str) -> str:
        if math.isinf(self.uplift):
            return f"is {_number(self.arm)}, and {control} has none"
        if math.isnan(self.uplift):
            return f"is {_number(self.arm)}, {control}'s {_number(self.control)}"
        seen = f"is {_percent(abs(self.uplift))} {'below' if self.uplift < 0 else 'above'} {control}'s"
        if math.isnan(self.lower):
            return seen
        upper = "any" if math.isinf(self.upper) else _signed(self.upper)
        return f"{seen} ({_signed(self.lower)} to {upper} at every look)"

    def _wanted(self) -> str:
        """What will decide."""
        if not math.isfinite(self.needed):
            return "no number of units will decide"
        wanted = f"about {self.needed - self.exposed:.0f} more units decide"
        return f"{wanted}, in some {format_rough_duration(self.eta_s)}" if math.isfinite(self.eta_s) else wanted


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}"


class OutcomeFindings(NamedTuple):
    """`Finding`s as arrays of the shape (...) of the pairs; `growth` tells how many times as many units typically decide."""

    control: Numbers
    arm: Numbers
    uplift: Numbers
    lower: Numbers
    upper: Numbers
    better: Numbers
    worse: Numbers
    verdict: NDArray[np.object_]
    growth: Callable[[], Numbers]
