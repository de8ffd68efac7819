"""Outcomes of units by arm and epoch, and their metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import mean_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

OutcomeType = Literal["rate", "mean", "ratio"]
OutcomeGoal = Literal["increase", "decrease"]
MILLIONTHS: Final = 1_000_000
"""Values of feedback are whole numbers of millionths."""
DEFAULT_EFFECT: Final = 0.05
"""Relative effect that the tests are tuned for where the plan names none. They are valid for all effects."""
_TIMES_THE_EFFECT: Final = 2.0
"""Width of the mixtures by the effect: effects of half to four times the least one are found about as fast as with their own mixture."""
_USUAL_VARIATION: Final = 3.0
"""Coefficient of variation of a unit, as of a rate of 10 %; only the mixture of means and of ratios is tuned by it."""
_LEAST_RATIO: Final = 1e-6
_WHOLE: Final = frozenset({int})


@dataclass(frozen=True, slots=True)
class OutcomeMetric:
    """Outcome metric of the frozen plan.

    Attributes:
        name: the name in sentences.
        type: rate, mean, or ratio of sums.
        goal: the better direction.
        minimum_effect: the least relative effect that is worth finding, such as 0.02; None or 0 for none.
        margin: of a guardrail, how much worse than control an arm may be, such as 0.03, below 1 where more is better; else None.
        adjusted: whether a mean is adjusted by a covariate.
        window_s: the conversion window in seconds: units count so long after their exposure; 0 without one.
        label: what is measured, in sentences; empty for the name.
        counted: what the observations are called in sentences.
        by_units: whether a rate is tested by the known numbers of units (`binomial_ratio`), not by events and planned shares alone.
    """

    name: str
    type: OutcomeType = "rate"
    goal: OutcomeGoal = "increase"
    minimum_effect: float | None = None
    margin: float | None = None
    adjusted: bool = False
    window_s: float = 0.0
    label: str = ""
    counted: str = "units"
    by_units: bool = False

    @property
    def effect(self) -> float:
        """Relative effect that the test is tuned for; for a guardrail, the distance of an equal arm from the margin."""
        return self.margin or self.minimum_effect or DEFAULT_EFFECT

    @property
    def tested(self) -> float:
        """Ratio to control's value that the nulls are about: 1, or the one at a guardrail's margin."""
        return 1.0 if self.margin is None else max(1 - self.sign * self.margin, _LEAST_RATIO)

    @property
    def scale(self) -> float:
        """Scale of the mixture of ratios, a log ratio."""
        return _TIMES_THE_EFFECT * self.effect

    @property
    def deviation(self) -> float:
        """Scale of the mixture of means and of ratios of sums, in standard deviations of a unit."""
        return self.scale / _USUAL_VARIATION

    @property
    def sign(self) -> int:
        """1 where more is better, −1 otherwise."""
        return 1 if self.goal == "increase" else -1

    @property
    def worth(self) -> float:
        """Ratio to control's value at the minimum effect; NaN without one."""
        if not self.minimum_effect:
            return math.nan
        return max(1 + self.sign * self.minimum_effect, _LEAST_RATIO)


class OutcomeCounts(NamedTuple):
    """Counts of one metric, arm and epoch; all are whole numbers.

    Attributes:
        exposed: units whose first exposure was in this epoch and arm.
        units: those of them with an event.
        positive: those whose first event was above 0.
        total: sum of units' totals, in millionths.
        squares: sum of units' squared totals, in squared millionths.
        other_units: units with an event of the denominator of a ratio, or of the covariate of a mean.
        other_total: sum of units' totals of that, in millionths.
        other_squares: sum of these totals' squares, in squared millionths.
        product: sum of units' two totals multiplied, in squared millionths.
    """

    exposed: int = 0
    units: int = 0
    positive: int = 0
    total: int = 0
    squares: int = 0
    other_units: int = 0
    other_total: int = 0
    other_squares: int = 0
    product: int = 0

    @property
    def valid(self) -> bool:
        """True if the numbers are consistent counts."""
        return (
            _WHOLE.issuperset(map(type, self))
            and self.exposed >= self.units >= self.positive >= 0
            and self.units * self.squares >= self.total**2
            and self.exposed >= self.other_units >= 0
            and self.other_units * self.other_squares >= self.other_total**2
            and self.squares * self.other_squares >= self.product**2
        )


def describe_units(metric: OutcomeMetric, rows: Sequence[OutcomeCounts]) -> tuple[float, float] | None:
    """Return (value, standard deviation of a unit) of an arm over its epochs; None without data.

    The deviation of a rate is left out as 0. That of a ratio is of units' linearised values, and that of an adjusted mean of what the
    covariate leaves, see `mean_ratio`.
    """
    count = sum(row.exposed for row in rows)
    total, squares = sum(row.total for row in rows), sum(row.squares for row in rows)
    if not count:
        return None
    if metric.type == "rate":
        return sum(row.positive for row in rows) / count, 0.0
    base, product = sum(row.other_total for row in rows), sum(row.product for row in rows)
    if metric.type == "mean":
        mean = total / count
        variance = squares / count - mean**2
        of_covariate = sum(row.other_squares for row in rows) / count - (base / count) ** 2
        if metric.adjusted and of_covariate > 0:
            variance -= (product / count - mean * base / count) ** 2 / of_covariate
        return mean / MILLIONTHS, math.sqrt(max(0.0, variance)) / MILLIONTHS
    if base <= 0:
        return None
    ratio = total / base
    residual = squares - 2 * ratio * product + ratio**2 * sum(row.other_squares for row in rows)
    return ratio, math.sqrt(max(0.0, residual / count)) / (base / count)


@dataclass(frozen=True, slots=True)
class OutcomeEpoch:
    """Outcomes of the units that were first exposed in an epoch, in which weights are constant.

    Attributes:
        shares: each arm's share of the assignments, control first, of any positive sum; 0 for an arm that was dropped.
        outcomes: for each metric, the counts of each arm in that order.
    """

    shares: Sequence[float]
    outcomes: Sequence[Sequence[OutcomeCounts]]


@dataclass(frozen=True, slots=True)
class OutcomePairs:
    """Control and other arms in the epochs that have both, for one metric.

    Attributes:
        control: the fields of control's `OutcomeCounts`, shape (fields, ..., epochs); 0 where there is nothing to compare.
        treatment: those of the arm, same shape.
        weight: the arm's share of the assignments to both, in (0, 1); broadcasts to (..., epochs).
    """

    control: mean_ratio.Integers
    treatment: mean_ratio.Integers
    weight: Numbers

    @property
    def exposed(self) -> tuple[mean_ratio.Integers, mean_ratio.Integers]:
        """Units of control and of each arm, summed over epochs."""
        return self.control[0].sum(-1), self.treatment[0].sum(-1)


def pair_with_control(shares: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return each arm's share of the assignments to it and control, and whether both had any; each of shape (arms, epochs)."""
    both = (shares[1:] > 0) & (shares[0] > 0)
    with np.errstate(all="ignore"):
        return shares[1:] / (shares[1:] + shares[0]), both
