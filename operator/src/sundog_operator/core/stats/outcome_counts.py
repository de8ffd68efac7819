"""Outcomes of units, by arm and epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import mean_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

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
_LEAST_RATIO: Final = 1e-6
_WHOLE: Final = frozenset({int})


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


def pair_with_control(shares: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Of each arm its share of the assignments to it and control, and whether both had some; shape (arms, epochs)."""
    both = (shares[1:] > 0) & (shares[0] > 0)
    with np.errstate(all="ignore"):
        return shares[1:] / (shares[1:] + shares[0]), both
