"""Test and confidence sequence of the ratio of two means, or of two ratios of sums, control's and a treatment's, over epochs.

An epoch has the weight h = n_A·n_B/(n_A + n_B), the inverse variance of a difference between equally variable arms. So an epoch in which
one arm has few units, as with adaptive weights, hardly counts. The test compares averages over epochs, control's Σh·ȳ_A/Σh with the
treatment's. It assumes neither a constant ratio nor a constant difference. Its time is Σh, in which the sum Σh(ȳ_B − ȳ_A) gathers variance
evenly for any weights. The test is asymptotic: an epoch counts once each arm has its burn-in of `BURN_IN` units with a value other than 0.
Sources: Waudby-Smith et al. (arXiv 2103.06476), the Lyapunov form; Howard et al. (arXiv 1810.08240) for the one-sided mixture.

An arm's variance is taken as no smaller than that of both arms together. With heavy tails, an arm without its large values so far has a
small mean and a small variance. The other arm has usually had such values.

A **ratio of sums** is Σ numerators / Σ denominators over the units of an arm. Units are independent, the parts of a ratio within a unit are
not. So a unit counts by its linearised value, (numerator − R·denominator) / mean denominator, of which the variance is the ratio's by the
delta method (Deng et al., arXiv 1803.06336). Both sums have the weights of the epochs: R = Σh·numerator / Σh·denominator (the combined
ratio estimate of survey sampling). It is the ratio of the arms' units in the same mixture of epochs, and its bias falls with all units, not
with those of an epoch.

Sums are whole numbers, so variances lose no digits. Their shape is (..., epochs), after any axes of metrics and arms.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from sundog_operator.core.stats.beta_binomial import Numbers

Integers = NDArray[np.object_]
"""Integers of any size."""

BURN_IN: Final = 30
"""Units with a value that each arm of an epoch needs before its variance is used."""

_FACTORS: Final = np.geomspace(1.0, 1e6, 145)
"""Factors by which the counts may grow; each is a tenth above the one before."""


@dataclass(frozen=True, slots=True)
class UnitValueSums:
    """Sums over the units of an arm.

    Attributes:
        count: all units; a unit without a value has 0.
        valued: units with a value other than 0.
        total: Σy, in any unit.
        squares: Σy², in that unit's square.
    """

    count: Integers
    valued: Integers
    total: Integers
    squares: Integers

    def plus(self, other: Self) -> Self:
        """Return the sums of both arms together."""
        return replace(
            self,
            count=self.count + other.count,
            valued=self.valued + other.valued,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def mean(self) -> Numbers:
        """Mean of a unit; 0 without units."""
        return _floats(self.total / np.maximum(self.count, 1))

    @property
    def variance(self) -> Numbers:
        """Variance of a unit; 0 with fewer than two units."""
        spread = self.count * self.squares - self.total * self.total
        return _floats(spread / (np.maximum(self.count, 1) * np.maximum(self.count - 1, 1)))


@dataclass(frozen=True, slots=True)
class UnitRatioSums:
    """Sums over the units of an arm, for a ratio of sums.

    Attributes:
        numerator: of each unit's numerator.
        denominator: of each unit's denominator, with the same count.
        product: Σ numerator·denominator.
    """

    numerator: UnitValueSums
    denominator: UnitValueSums
    product: Integers

    def plus(self, other: Self) -> Self:
        """Return the sums of both arms together."""
        return replace(
            self,
            numerator=self.numerator.plus(other.numerator),
            denominator=self.denominator.plus(other.denominator),
            product=self.product + other.product,
        )

    @property
    def valued(self) -> Integers:
        """The smaller number of units with a numerator and of units with a denominator."""
        return np.minimum(self.numerator.valued, self.denominator.valued)

    @property
    def covariance(self) -> Numbers:
        """Covariance of a unit's numerator and denominator; 0 with fewer than two units."""
        count = self.numerator.count
        spread = count * self.product - self.numerator.total * self.denominator.total
        return _floats(spread / (np.maximum(count, 1) * np.maximum(count - 1, 1)))

    def linearise(self, time: Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratio and the variance of a linearised unit, of shapes (..., 1) and (..., epochs); NaN without weights.

        `time` has the weights of the epochs, shape (..., epochs).
        """
        with np.errstate(all="ignore"):
            denominator = (time * self.denominator.mean).sum(-1, keepdims=True)
            ratio = (time * self.numerator.mean).sum(-1, keepdims=True) / denominator
            base = denominator / time.sum(-1, keepdims=True)
            spread = self.numerator.variance - 2 * ratio * self.covariance + ratio**2 * self.denominator.variance
            return ratio, np.maximum(spread, 0.0) / base**2


def _floats(wholes: Integers) -> Numbers:
    return np.asarray(wholes, float)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two averages over epochs, not yet divided by the time; each of shape (...).

    Attributes:
        control: Σh·ȳ_A.
        treatment: Σh·ȳ_B.
        control_variance: variance of `control`.
        treatment_variance: variance of `treatment`.
        time: Σh, 0 where no epoch counts yet.
    """

    control: Numbers
    treatment: Numbers
    control_variance: Numbers
    treatment_variance: Numbers
    time: Numbers

    def grown(self, times: float | Numbers) -> Self:
        """Return the contrast with `times` as many units like those so far."""
        return replace(self, **{each.name: getattr(self, each.name) * times for each in fields(self)})

    def log_e(self, ratio: float | Numbers, deviation: float, sign: int) -> Numbers:
        """Return log E against "the treatment's average is at most `ratio` times control's", shape (...); −∞ without data.

        With a sign of −1 the null is "at least". `deviation` is the mixture's, in standard deviations of a unit: effects of about that size
        are found the fastest.
        """
        z, spread = self._z(ratio), self.time * deviation**2
        with np.errstate(all="ignore"):
            kept = spread / (1 + spread)
            found = math.log(2) - 0.5 * np.log1p(spread) + kept * z**2 / 2 + log_ndtr(sign * z * np.sqrt(kept))
        return np.where(np.isnan(found), -np.inf, found)

    def log_e_two_sided(self, ratio: float | Numbers, deviation: float) -> Numbers:
        """Return log E against exactly `ratio`, by the two-sided normal mixture with n·ρ² = Σh·deviation².

        Source: Johari, Pekelis and Walsh (arXiv 1512.04922), with the prior variance τ² = ρ²·n·V.
        """
        z, spread = self._z(ratio), self.time * deviation**2
        with np.errstate(all="ignore"):
            found = spread / (1 + spread) * z**2 / 2 - 0.5 * np.log1p(spread)
        return np.where(np.isnan(found), -np.inf, found)

    def _z(self, ratio: float | Numbers) -> Numbers:
        """Return the z statistic of the difference, in standard errors; NaN where the standard error is 0."""
        with np.errstate(all="ignore"):
            error = np.sqrt(self.treatment_variance + ratio**2 * self.control_variance)
            return np.where(error > 0, (self.treatment - ratio * self.control) / error, np.nan)

    def interval(self, deviation: float, bar: float) -> tuple[Numbers, Numbers]:
        """Return the ratios of the averages whose two-sided log E is below `bar`, as (lower, upper). Source: Fieller (JRSS B 1954).

        Both ends are NaN without data, and where control's average may be 0 or negative.
        """
        spread = self.time * deviation**2
        with np.errstate(all="ignore"):
            reach = (1 + 1 / spread) * (np.log1p(spread) + 2 * bar)
            a = self.control**2 - reach * self.control_variance
            b = self.control * self.treatment
            c = self.treatment**2 - reach * self.treatment_variance
            root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
            exists = (a > 0) & (self.control > 0) & (self.control_variance + self.treatment_variance > 0)
            return np.where(exists, (b - root) / a, np.nan), np.where(exists, (b + root) / a, np.nan)

    def growth(
        self,
        ratio: Numbers | None,
        deviation: float,
        bar: float,
        *,
        tested: float = 1.0,
        bar_below: float | None = None,
    ) -> Numbers:
        """Return the factor ≥ 1 of units, like those so far, at which log E reaches `bar`, shape (...); infinite beyond a million.

        With a ratio of shape (...), log E is two-sided against it. With None it is one-sided against `tested`, on the side that reaches its
        bar first; `bar_below` is the bar of "lower" where it differs.
        """
        grown = self.grown(_FACTORS.reshape(-1, *(1,) * self.time.ndim))
        if ratio is None:
            below = grown.log_e(tested, deviation, -1) >= (bar if bar_below is None else bar_below)
            enough = (grown.log_e(tested, deviation, 1) >= bar) | below
        else:
            enough = grown.log_e_two_sided(ratio, deviation) >= bar
        return np.where(enough.any(0), _FACTORS[enough.argmax(0)], np.inf)


def make_contrast(control: UnitValueSums, treatment: UnitValueSums) -> Contrast:
    """Return the contrast of two arms' means over the epochs in which each has its burn-in."""
    time = _weigh_epochs(control, treatment, np.minimum(_floats(control.valued), _floats(treatment.valued)))
    together = control.plus(treatment).variance
    arms = ((arm.count, arm.mean, np.maximum(arm.variance, together)) for arm in (control, treatment))
    return _contrast(time, *arms)


def make_ratio_contrast(control: UnitRatioSums, treatment: UnitRatioSums) -> Contrast:
    """Return the contrast of two arms' ratios of sums over the epochs in which each has its burn-in.

    There is none (a time of 0) while the mean denominator of an arm is not above 0.
    """
    least = np.minimum(_floats(control.valued), _floats(treatment.valued))
    time = _weigh_epochs(control.numerator, treatment.numerator, least)
    bases = ((time * arm.denominator.mean).sum(-1, keepdims=True) for arm in (control, treatment))
    time = np.where(np.minimum(*bases) > 0, time, 0.0)
    _, together = control.plus(treatment).linearise(time)
    known = ((arm.numerator.count, *arm.linearise(time)) for arm in (control, treatment))
    return _contrast(time, *((count, ratio, np.maximum(own, together)) for count, ratio, own in known))


def _weigh_epochs(control: UnitValueSums, treatment: UnitValueSums, least: Numbers) -> Numbers:
    """Return the weight h of each epoch, 0 where `least` is less than the burn-in."""
    counts, others = _floats(control.count), _floats(treatment.count)
    with np.errstate(all="ignore"):
        return np.where(least >= BURN_IN, counts * others / (counts + others), 0.0)


def _contrast(
    time: Numbers, control: tuple[Integers, Numbers, Numbers], treatment: tuple[Integers, Numbers, Numbers]
) -> Contrast:
    """Return the contrast of arms given as (units, average, variance of a unit) by epoch, with the epochs' weights."""
    with np.errstate(all="ignore"):
        of_control, of_treatment = (
            np.where(time > 0, time * average, 0.0).sum(-1) for _, average, _ in (control, treatment)
        )
        control_variance, treatment_variance = (
            np.where(time > 0, time**2 * variance / _floats(count), 0.0).sum(-1)
            for count, _, variance in (control, treatment)
        )
    return Contrast(of_control, of_treatment, control_variance, treatment_variance, time.sum(-1))
