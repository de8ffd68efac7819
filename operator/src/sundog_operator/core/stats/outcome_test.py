"""Whether an arm of an experiment is better than control by the outcomes of its units: success metrics, which are rates or means of a unit.

A unit is counted once, in the epoch and arm of its first exposure, whatever becomes of it later (intention to treat). Its outcomes come
after that, some of them long after. All of what is here compares arms within an epoch, so an epoch whose outcomes are not in yet has few
of them in both arms alike, and the ratio is fair at every moment. It is so as long as (1) outcomes are counted by the epoch of the
exposure, not by the time at which they come: else weights that change would mix; (2) arms answer equally late. An arm that merely has the
same outcomes sooner is ahead for a while, and may be found better for that; for whom that matters, an outcome is to be counted only some
fixed time after the exposure, by whoever counts. Of a mean a unit's total grows while it comes back: then the null is that at no moment the
arms differ, and no theorem covers a total without an end.

A **rate** is the share of exposed units whose first event was above 0. It is judged by those units alone (`ratios`): which arm each is of
is a draw with the arms' shares, so the error is exact, with any number of epochs and whatever the base rate does. That needs a split that
is as the shares say, which the sample-ratio test sees to.

A **mean** is the sum of a unit's values, by exposed unit (`contrasts`): asymptotic, with a burn-in.

Everything is judged at α by the number of tests, each direction by itself: P(an arm that is not better is ever found better) ≤ α over all
arms and metrics at all looks, whatever depends on what, for probabilities of errors add up at most (Ville and the union bound).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import count_ratio, mean_ratio, multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.mean_ratio import UnitValueSums
from sundog_operator.core.stats.pooled_count_ratio import RatioEvidence, make_mixture
from sundog_operator.core.stats.verdicts import format_rough_duration

OutcomeType = Literal["rate", "mean"]
OutcomeGoal = Literal["increase", "decrease"]

MILLIONTHS: Final = 1_000_000
"""Of which a value of feedback is a whole number."""

DEFAULT_EFFECT: Final = 0.05
"""The relative effect for which evidence is tuned where the plan names none. It is valid for all."""

_TIMES_THE_EFFECT: Final = 2.0
"""As wide are mixtures: effects of half to four times the least one are found about as soon as by a mixture of their own."""

_USUAL_VARIATION: Final = 3.0
"""A unit's standard deviation by its mean, as of a rate of 10 %; by it the mixture of means is tuned, nothing else depends on it."""

ARM_IS_OUT: Final = "the arm is out"
"""Said instead of what will decide."""

_LEAST_RATIO: Final = 1e-6
_WHOLE: Final = frozenset({int})


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
class OutcomeMetric:
    """An outcome that an arm may win by, as it is frozen in the plan.

    Attributes:
        name: for sentences.
        type: rate or mean.
        goal: which way is better.
        minimum_effect: the least relative effect that is worth finding, such as 0.02; None or 0 for none.
    """

    name: str
    type: OutcomeType = "rate"
    goal: OutcomeGoal = "increase"
    minimum_effect: float | None = None

    @property
    def effect(self) -> float:
        """The relative effect for which its evidence is tuned."""
        return self.minimum_effect or DEFAULT_EFFECT

    @property
    def scale(self) -> float:
        """Of the mixture of ratios, as a logarithm."""
        return _TIMES_THE_EFFECT * self.effect

    @property
    def deviation(self) -> float:
        """Of the mixture of means, in standard deviations of a unit."""
        return self.scale / _USUAL_VARIATION

    @property
    def sign(self) -> int:
        """1 where more is better, else −1."""
        return 1 if self.goal == "increase" else -1

    @property
    def worth(self) -> float:
        """The ratio to control's that is just worth finding; NaN where none is named."""
        if not self.minimum_effect:
            return math.nan
        return max(1 + self.sign * self.minimum_effect, _LEAST_RATIO)


class OutcomeCounts(NamedTuple):
    """One metric of one arm in one epoch. All are whole numbers.

    Attributes:
        exposed: units that were first exposed then and there.
        units: those of them that had an event.
        positive: those whose first event was above 0.
        total: the sum of all units' totals, in millionths.
        squares: the sum of the squares of units' totals, each in millionths: so in millionths of millionths.
    """

    exposed: int = 0
    units: int = 0
    positive: int = 0
    total: int = 0
    squares: int = 0

    @property
    def valid(self) -> bool:
        """Whether they can have been counted."""
        return (
            _WHOLE.issuperset(map(type, self))
            and self.exposed >= self.units >= self.positive >= 0
            and self.units * self.squares >= self.total**2
        )


@dataclass(frozen=True, slots=True)
class OutcomeEpoch:
    """What came of the units that were first exposed while the weights stood still.

    Attributes:
        shares: of each arm, control first, as assigned; of any sum above 0. An arm that was out by then has 0.
        outcomes: of each metric, those of each arm in that order.
    """

    shares: Sequence[float]
    outcomes: Sequence[Sequence[OutcomeCounts]]


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


def evaluate_outcomes(
    metrics: Sequence[OutcomeMetric],
    epochs: Sequence[OutcomeEpoch],
    alpha: float,
    *,
    tests: int | None = None,
    elapsed_s: float = math.nan,
) -> list[list[OutcomeFinding]]:
    """Of each metric, a finding of each arm beside control, in the order of the shares.

    Args:
        metrics: as in the plan.
        epochs: those of evidence, at least one; all with the same arms.
        alpha: the error of each direction, of all tests together.
        tests: among how many it is shared: metrics times arms as the plan has them, which is also the default.
        elapsed_s: the seconds in which the units were exposed, for what is expected of the future; NaN where nobody can tell.
    """
    shares = np.array([epoch.shares for epoch in epochs], float).T
    level = alpha / max(1, tests or len(metrics) * (len(shares) - 1))
    return [
        _judge(metric, [epoch.outcomes[index] for epoch in epochs], shares, level, elapsed_s)
        for index, metric in enumerate(metrics)
    ]


def find_discoveries(findings: Sequence[Sequence[OutcomeFinding]], alpha: float) -> list[tuple[int, int]]:
    """Secondary metrics that differ from control's, as (metric, arm) of `judge`: with a share of α false ones at most (e-BH).

    It holds at the look at which one stops. E of a difference is the mean of those of both directions.
    """
    places = [(metric, arm) for metric, row in enumerate(findings) for arm in range(len(row))]
    log_es = np.array([np.logaddexp(each.better, each.worse) - math.log(2) for row in findings for each in row])
    return [places[index] for index in multiple_testing.find_discoveries(log_es, alpha)] if places else []


@dataclass(frozen=True, slots=True)
class OutcomePairs:
    """Control and other arms in the epochs that have both, of one metric.

    Attributes:
        control: the fields of `Outcomes` of control, shape (fields, ..., epochs); 0 where there is nothing to compare.
        candidate: those of the arm, same shape.
        weight: the arm's share of the assignments to both, in (0, 1), of a shape that fits (..., epochs).
    """

    control: mean_ratio.Integers
    candidate: mean_ratio.Integers
    weight: Numbers

    @property
    def exposed(self) -> tuple[mean_ratio.Integers, mean_ratio.Integers]:
        """Units of control and of each arm, over epochs."""
        return self.control[0].sum(-1), self.candidate[0].sum(-1)


def _pairs(shares: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Of each arm its share of the assignments to it and control, and whether both had some; shape (arms, epochs)."""
    both = (shares[1:] > 0) & (shares[0] > 0)
    with np.errstate(all="ignore"):
        return shares[1:] / (shares[1:] + shares[0]), both


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


def compare_pairs(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    """What any counts say of a metric, given what log E has to reach."""
    return (_of_rate if metric.type == "rate" else _of_mean)(metric, pairs, bar)


def _of_rate(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    control, candidate = (np.asarray(arm[2], float) for arm in (pairs.control, pairs.candidate))
    evidence = RatioEvidence(control, candidate, pairs.weight, make_mixture(metric.scale))
    ratio, likelihood = evidence.maximum_likelihood()
    # With a ratio of its own in each epoch events are this much more likely than with any that they have in common.
    differs = (
        count_ratio.log_e(control, candidate, pairs.weight, 1.0) - likelihood >= bar
        if control.shape[-1] > 1
        else np.zeros(ratio.shape, bool)
    )
    above, below = evidence.above(), evidence.below()
    return _compared(
        metric,
        pairs,
        (_each(control.sum(-1), pairs.exposed[0]), _each(candidate.sum(-1), pairs.exposed[1])),
        ratio,
        evidence.interval(bar),
        (above, below),
        lambda ratio: evidence.growth(ratio, bar),
        differs,
        bar,
    )


def _of_mean(metric: OutcomeMetric, pairs: OutcomePairs, bar: float) -> OutcomeFindings:
    control, candidate = (UnitValueSums(arm[0], arm[1], arm[3], arm[4]) for arm in (pairs.control, pairs.candidate))
    seen = mean_ratio.make_contrast(control, candidate)
    with np.errstate(all="ignore"):
        ratio = np.where(seen.control > 0, seen.candidate / seen.control, np.nan)
    means = (
        _each(arm.total.sum(-1), exposed * MILLIONTHS)
        for arm, exposed in zip((control, candidate), pairs.exposed, strict=True)
    )
    above, below = (seen.log_e(1.0, metric.deviation, sign) for sign in (1, -1))
    return _compared(
        metric,
        pairs,
        means,
        ratio,
        seen.interval(metric.deviation, bar),
        (above, below),
        lambda ratio: seen.growth(ratio, metric.deviation, bar),
        np.zeros(ratio.shape, bool),
        bar,
    )


def _compared(
    metric: OutcomeMetric,
    pairs: OutcomePairs,
    values: Iterable[Numbers],
    ratio: Numbers,
    interval: tuple[Numbers, Numbers],
    log_es: tuple[Numbers, Numbers],
    growth: Callable[[Numbers | None], Numbers],
    differs: NDArray[np.bool_],
    bar: float,
) -> OutcomeFindings:
    better, worse = log_es if metric.goal == "increase" else log_es[::-1]
    lower, upper = interval
    # What is not known is not below.
    small = upper < metric.worth if metric.goal == "increase" else lower > metric.worth
    cases = [
        ((pairs.exposed[0] == 0) | (pairs.exposed[1] == 0), OutcomeVerdict.NO_DATA),
        (worse >= bar, OutcomeVerdict.WORSE),
        (differs, OutcomeVerdict.HETEROGENEOUS),
        (better >= bar, OutcomeVerdict.BETTER),
        (small, OutcomeVerdict.NO_EFFECT),
    ]
    verdict = np.full(ratio.shape, OutcomeVerdict.UNDECIDED, object)
    for where, found in reversed(cases):
        verdict[where] = found

    def soonest() -> Numbers:
        first = growth(None)
        return first if math.isnan(metric.worth) else np.minimum(first, growth(np.full(ratio.shape, metric.worth)))

    control, arm = values
    return OutcomeFindings(control, arm, ratio - 1, lower - 1, upper - 1, better, worse, verdict, soonest)


def _each(total: Numbers, exposed: mean_ratio.Integers) -> Numbers:
    with np.errstate(all="ignore"):
        found: Numbers = np.asarray(total, float) / np.asarray(exposed, float)
    return found


def _judge(
    metric: OutcomeMetric, outcomes: Sequence[Sequence[OutcomeCounts]], shares: Numbers, alpha: float, elapsed_s: float
) -> list[OutcomeFinding]:
    """Of one metric; `outcomes` by epoch and arm, shares of shape (arms, epochs)."""
    valid = np.array([all(row[arm].valid for row in outcomes) for arm in range(len(shares))])
    sane = valid[1:] & valid[0]
    weight, counted = _pairs(shares)
    counted &= sane[:, None]
    counts = np.array(outcomes, object).transpose(2, 1, 0)
    pairs = OutcomePairs(
        control=np.where(counted, counts[:, :1], 0),
        candidate=np.where(counted, counts[:, 1:], 0),
        weight=np.where(counted, weight, 0.5),
    )
    known = compare_pairs(metric, pairs, multiple_testing.log_e_threshold(alpha))
    growth = known.growth() if (known.verdict == OutcomeVerdict.UNDECIDED).any() else known.uplift
    control, candidate = pairs.exposed
    return [
        _finding(metric, known, arm, control[arm] + candidate[arm], float(growth[arm]), elapsed_s)
        if sane[arm]
        else OutcomeFinding(metric, verdict=OutcomeVerdict.INVALID)
        for arm in range(len(sane))
    ]


def _finding(
    metric: OutcomeMetric, known: OutcomeFindings, arm: int, exposed: int, growth: float, elapsed_s: float
) -> OutcomeFinding:
    """Of one arm, given how many units both have, and how many times as many typically decide."""
    verdict: OutcomeVerdict = known.verdict[arm]
    if verdict == OutcomeVerdict.NO_DATA:
        return OutcomeFinding(metric, exposed=exposed)
    needed, eta_s = (
        (exposed * growth, (growth - 1) * elapsed_s) if verdict == OutcomeVerdict.UNDECIDED else (math.nan, math.nan)
    )
    return OutcomeFinding(
        metric,
        control=float(known.control[arm]),
        arm=float(known.arm[arm]),
        uplift=float(known.uplift[arm]),
        lower=float(known.lower[arm]),
        upper=float(known.upper[arm]),
        better=float(known.better[arm]),
        worse=float(known.worse[arm]),
        exposed=exposed,
        needed=needed,
        eta_s=math.inf if math.isnan(eta_s) else eta_s,
        verdict=verdict,
    )
