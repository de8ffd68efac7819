"""Results of the tests of an outcome metric, and their sentences for people."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.findings import format_rough_duration
from sundog_operator.core.stats.known_ends import known_ends
from sundog_operator.core.stats.outcome_counts import OutcomeMetric

ARM_IS_OUT: Final = "the arm was dropped"
"""Part of a message that replaces the need of more data."""


class OutcomeVerdict(StrEnum):
    """Verdict on one outcome metric of one arm. Guardrails have `PASSED` and `HARM`, other metrics the last three."""

    NO_DATA = "NoData"
    INVALID = "Invalid"
    UNDECIDED = "Undecided"
    HETEROGENEOUS = "Heterogeneous"
    PASSED = "Passed"
    HARM = "Harm"
    BETTER = "Better"
    WORSE = "Worse"
    NO_EFFECT = "NoEffect"


@dataclass(frozen=True, slots=True)
class OutcomeFinding:
    """Result for one outcome metric of one arm beside control.

    Attributes:
        metric: the metric.
        control: control's rate, mean or ratio over all epochs, a mean in the values' unit; NaN without exposures.
        arm: the arm's rate, mean or ratio.
        uplift: the arm's value divided by control's, minus 1, epoch by epoch; NaN where unknown.
        lower: lower end of the interval of the uplift. Intervals of all arms and metrics hold together at every evaluation; NaN where
            unknown.
        upper: upper end; infinite where still unknown.
        better: log E against "not better, in the direction of the goal"; for a guardrail against "worse than its margin".
        worse: log E against "not worse"; for a guardrail against "within its margin".
        exposed: units of both arms.
        needed: units of both arms at which the test typically decides at the present rates; infinite for never, NaN once decided.
        eta_s: seconds until then; infinite where unknown.
        verdict: the verdict.
        events: of a metric of the edge, the events of control and of the arm; `exposed` is then their sum. Empty for outcomes.
        held: why the counts allow no verdict; empty where they do.
        requests: of a metric of the edge, the requests of control and of the arm. Empty for outcomes.
        dispersion: φ ≥ 1 of the events of a metric of the edge.
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
    events: tuple[int, ...] = ()
    held: str = ""
    requests: tuple[int, ...] = ()
    dispersion: float = 1.0

    def hold(self, why: str) -> Self:
        """Return the finding without a verdict, and the reason; counts that are missing or invalid stay so."""
        has_counts = self.verdict not in (OutcomeVerdict.NO_DATA, OutcomeVerdict.INVALID)
        verdict = OutcomeVerdict.UNDECIDED if has_counts else self.verdict
        return replace(self, verdict=verdict, needed=math.nan, eta_s=math.inf, held=why)

    @property
    def improvement(self) -> tuple[float, float]:
        """Ends of the interval in the direction of the goal; negative is worse."""
        return (self.lower, self.upper) if self.metric.goal == "increase" else (-self.upper, -self.lower)

    def sentence(self, arm: str = "the arm", control: str = "control", *, out: bool = False) -> str:
        """Return the finding as a sentence; `out` is for a dropped arm, which gets no more units."""
        of_arm = f"{self.metric.label or self.metric.name} of {arm}"
        match self.verdict:
            case OutcomeVerdict.NO_DATA:
                return f"{of_arm}: {self.held or 'nothing was counted yet'}"
            case OutcomeVerdict.INVALID:
                return f"{of_arm}: the counters are invalid"
        observed = f"{of_arm} {self._describe_uplift(control)}"
        match self.verdict:
            case OutcomeVerdict.HETEROGENEOUS:
                so = "the arm cannot win by it" if self.metric.margin is None else "it cannot pass"
                return f"{observed}: no single ratio fits all epochs, so {so}"
            case OutcomeVerdict.PASSED:
                return f"{observed}: within its margin of {_percent(self.metric.effect)}"
            case OutcomeVerdict.HARM:
                return f"{observed}: worse than its margin of {_percent(self.metric.effect)}"
            case OutcomeVerdict.BETTER:
                return f"{observed}: better"
            case OutcomeVerdict.WORSE:
                return f"{observed}: worse"
            case OutcomeVerdict.NO_EFFECT:
                return f"{observed}: less than the minimum effect of {_percent(self.metric.effect)}"
        need = ARM_IS_OUT if out else self.held or self._describe_need(control)
        return f"{observed}: {need}" if self.metric.margin is None else f"{observed}; {self._describe_margin()}: {need}"

    def _describe_margin(self) -> str:
        direction = "below" if self.metric.goal == "increase" else "above"
        return f"up to {_percent(self.metric.effect)} {direction} is allowed"

    def _describe_uplift(self, control: str) -> str:
        if math.isinf(self.uplift):
            return f"is {_number(self.arm)}, and {control} has none"
        if math.isnan(self.uplift):
            return f"is {_number(self.arm)}, {control}'s {_number(self.control)}"
        uplift = f"is {_percent(abs(self.uplift))} {'below' if self.uplift < 0 else 'above'} {control}'s"
        if math.isnan(self.lower):
            return uplift
        ends = known_ends(1 + self.lower, 1 + self.upper)
        if not ends:
            return f"{uplift} (the interval is still unknown)"
        upper = _signed(self.upper) if len(ends) > 1 else "any"
        return f"{uplift} ({_signed(self.lower)} to {upper} at every evaluation)"

    def _describe_need(self, control: str) -> str:
        """Return the units that typically decide, and the time until then."""
        if self.metric.margin is not None and self.metric.type != "rate" and not self.control > 0:
            return f"a margin in percent needs a {self.metric.type} of {control} above 0"
        if not math.isfinite(self.needed):
            return f"no number of {self.metric.counted} will decide"
        needs = f"needs about {self.needed - self.exposed:.0f} more {self.metric.counted}"
        return f"{needs}, in about {format_rough_duration(self.eta_s)}" if math.isfinite(self.eta_s) else needs


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _signed(share: float) -> str:
    return f"{100 * share:+.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}"


class OutcomeFindings(NamedTuple):
    """Findings as arrays of the pairs' shape (...); `growth` returns the factor of units that typically decides."""

    control: Numbers
    arm: Numbers
    uplift: Numbers
    lower: Numbers
    upper: Numbers
    better: Numbers
    worse: Numbers
    verdict: NDArray[np.object_]
    growth: Callable[[], Numbers]
