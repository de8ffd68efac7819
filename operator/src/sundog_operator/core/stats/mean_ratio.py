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

A **mean with a covariate** x, a value of the unit from before its first exposure, is adjusted by it: ȳ − θ·(x̄ − x̄ of both arms). The
variance is that of y − θ·x, less by the square of their correlation (Deng et al., WSDM 2013). x has nothing to do with the arm, so θ needs
not be right for the test to hold. It is the slope within arms and epochs so far, which is constant in the long run.

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
class UnitPairSums:
    """Sums over the units of an arm that have two values each.

    Attributes:
        own: of the value y: that of a mean, or the numerator of a ratio.
        other: of the value x: the covariate of a mean, or the denominator of a ratio. The count is the same.
        product: Σx·y.
    """

    own: UnitValueSums
    other: UnitValueSums
    product: Integers

    def plus(self, other: Self) -> Self:
        """Return the sums of both arms together."""
        return replace(
            self,
            own=self.own.plus(other.own),
            other=self.other.plus(other.other),
            product=self.product + other.product,
        )

    @property
    def valued(self) -> Integers:
        """The smaller number of units with y and of units with x."""
        return np.minimum(self.own.valued, self.other.valued)

    @property
    def covariance(self) -> Numbers:
        """Covariance of a unit's x and y; 0 with fewer than two units."""
        count = self.own.count
        spread = count * self.product - self.own.total * self.other.total
        return _floats(spread / (np.maximum(count, 1) * np.maximum(count - 1, 1)))

    def residual_variance(self, slope: Numbers) -> Numbers:
        """Return the variance of a unit's y − slope·x."""
        return np.maximum(self.own.variance - 2 * slope * self.covariance + slope**2 * self.other.variance, 0.0)

    def linearise(self, time: Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratio and the variance of a linearised unit, of shapes (..., 1) and (..., epochs); NaN without weights.

        `time` has the weights of the epochs, shape (..., epochs).
        """
        with np.errstate(all="ignore"):
            denominator = (time * self.other.mean).sum(-1, keepdims=True)
            ratio = (time * self.own.mean).sum(-1, keepdims=True) / denominator
            base = denominator / time.sum(-1, keepdims=True)
            return ratio, self.residual_variance(ratio) / base**2


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
        covariance: of `control` and `treatment`; other than 0 only where both are adjusted by the same covariate.
    """

    control: Numbers
    treatment: Numbers
    control_variance: Numbers
    treatment_variance: Numbers
    time: Numbers
    covariance: Numbers | float = 0.0

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
            error = np.sqrt(self.treatment_variance - 2 * ratio * self.covariance + ratio**2 * self.control_variance)
            return np.where(error > 0, (self.treatment - ratio * self.control) / error, np.nan)

    def interval(self, deviation: float, bar: float) -> tuple[Numbers, Numbers]:
        """Return the ratios of the averages whose two-sided log E is below `bar`, as (lower, upper). Source: Fieller (JRSS B 1954).

        Both ends are NaN without data, and where control's average may be 0 or negative.
        """
        spread = self.time * deviation**2
        with np.errstate(all="ignore"):
            reach = (1 + 1 / spread) * (np.log1p(spread) + 2 * bar)
            a = self.control**2 - reach * self.control_variance
            b = self.control * self.treatment - reach * self.covariance
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


def compare_sums(
    control: tuple[int, float, float, float], treatment: tuple[int, float, float, float], deviation: float, bar: float
) -> tuple[float, float]:
    """Return the interval of the ratio of two arms' means in one epoch, as (lower, upper); NaN before the burn-in.

    Args:
        control: units, units with a value, Σy and Σy² of control.
        treatment: those of the arm.
        deviation: scale of the mixture, as for `Contrast.interval`.
        bar: log E of a rejection.
    """
    arms = (UnitValueSums(*(np.array([each], object) for each in arm)) for arm in (control, treatment))
    lower, upper = make_contrast(*arms).interval(deviation, bar)
    return float(lower), float(upper)


def average_interval(
    average: float, deviation_of_unit: float, units: int, deviation: float, bar: float
) -> tuple[float, float]:
    """Return the interval of one arm's average, as (lower, upper); asymptotic. `units` is at least 1.

    It is the confidence sequence of the normal mixture with n·deviation², in standard deviations of a unit.
    Source: Waudby-Smith et al. (arXiv 2103.06476), theorem 2.2.

    Args:
        average: the average of a unit.
        deviation_of_unit: standard deviation of a unit.
        units: number of units n.
        deviation: scale of the mixture; the interval is tightest at about 10 divided by its square.
        bar: log(1/α).
    """
    spread = units * deviation**2
    reach = deviation_of_unit * math.sqrt((1 + 1 / spread) * (math.log1p(spread) + 2 * bar) / units)
    return average - reach, average + reach


def make_contrast(control: UnitValueSums, treatment: UnitValueSums) -> Contrast:
    """Return the contrast of two arms' means over the epochs in which each has its burn-in."""
    time = _weigh_epochs(control, treatment, np.minimum(_floats(control.valued), _floats(treatment.valued)))
    together = control.plus(treatment).variance
    arms = ((arm.count, arm.mean, np.maximum(arm.variance, together)) for arm in (control, treatment))
    return _contrast(time, *arms)


def make_ratio_contrast(control: UnitPairSums, treatment: UnitPairSums) -> Contrast:
    """Return the contrast of two arms' ratios of sums over the epochs in which each has its burn-in.

    There is none (a time of 0) while the mean denominator of an arm is not above 0.
    """
    least = np.minimum(_floats(control.valued), _floats(treatment.valued))
    time = _weigh_epochs(control.own, treatment.own, least)
    bases = ((time * arm.other.mean).sum(-1, keepdims=True) for arm in (control, treatment))
    time = np.where(np.minimum(*bases) > 0, time, 0.0)
    _, together = control.plus(treatment).linearise(time)
    known = ((arm.own.count, *arm.linearise(time)) for arm in (control, treatment))
    return _contrast(time, *((count, ratio, np.maximum(own, together)) for count, ratio, own in known))


def make_adjusted_contrast(control: UnitPairSums, treatment: UnitPairSums) -> Contrast:
    """Return the contrast of two arms' means, adjusted by a covariate, over the epochs in which each has its burn-in."""
    time = _weigh_epochs(
        control.own, treatment.own, np.minimum(_floats(control.own.valued), _floats(treatment.own.valued))
    )
    counts, others = _floats(control.own.count), _floats(treatment.own.count)
    with np.errstate(all="ignore"):
        slope = _slope(time, control, treatment)
        share = counts / (counts + others)
        apart = control.other.mean - treatment.other.mean
        averages = control.own.mean - slope * (1 - share) * apart, treatment.own.mean + slope * share * apart
        spread = control.other.variance / counts + treatment.other.variance / others
        shared = slope * control.covariance / counts, slope * treatment.covariance / others
        covariance = share * shared[0] + (1 - share) * shared[1] - slope**2 * share * (1 - share) * spread
        together = control.plus(treatment).residual_variance(slope)
        variances = (
            arm.own.variance / number
            + weight**2 * slope**2 * spread
            - 2 * weight * both
            + np.maximum(together - arm.residual_variance(slope), 0.0) / number
            for arm, number, weight, both in (
                (control, counts, 1 - share, shared[0]),
                (treatment, others, share, shared[1]),
            )
        )
        sums = [np.where(time > 0, time * average, 0.0).sum(-1) for average in averages]
        squares = [np.where(time > 0, time**2 * each, 0.0).sum(-1) for each in (*variances, covariance)]
    return Contrast(sums[0], sums[1], squares[0], squares[1], time.sum(-1), squares[2])


def _slope(time: Numbers, *arms: UnitPairSums) -> Numbers:
    """Return the slope of y by x within arms and epochs, over all epochs that count, shape (..., 1); 0 without a covariate."""
    freedom = [np.where(time > 0, _floats(arm.own.count) - 1, 0.0) for arm in arms]
    products = sum((free * arm.covariance).sum(-1, keepdims=True) for free, arm in zip(freedom, arms, strict=True))
    squares = sum((free * arm.other.variance).sum(-1, keepdims=True) for free, arm in zip(freedom, arms, strict=True))
    found: Numbers = np.where(squares > 0, products / squares, 0.0)
    return found


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
