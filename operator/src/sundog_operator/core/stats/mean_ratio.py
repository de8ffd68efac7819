"""Two means, control's and a candidate's, over epochs: evidence of which is larger, and intervals of their ratio, right at every look.

An epoch counts by what it tells, h = n_A·n_B/(n_A + n_B), the inverse of a difference's variance where both arms vary alike: an epoch with
few units of one arm, as adaptive weights make them, hardly counts. What is compared are thus averages of epochs, control's Σh·ȳ_A/Σh with
the candidate's; neither a constant ratio nor a constant difference is assumed. Time is Σh, in which the sum Σh(ȳ_B − ȳ_A) gathers variance
evenly however weights change. Asymptotic: an epoch counts once each arm has its burn-in (`BURN_IN` units with a value other than 0).
Sources: Waudby-Smith et al. (arXiv 2103.06476), the Lyapunov form; Howard et al. (arXiv 1810.08240) for the mixture of one side.

The variance of an arm is taken for no less than that of both arms together. Where values have heavy tails, an arm that lacks its large ones
so far has a small mean and seems to know it well; the other arm, more often than not, has seen them.

Sums are whole numbers, so that no digit of a variance is lost: shape (..., epochs), any axes of metrics and arms before.
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
"""Units with a value, in each arm of an epoch, before its variance says anything."""

_FACTORS: Final = np.geomspace(1.0, 1e6, 145)
"""By which what was counted may grow: each a tenth above the one before."""


@dataclass(frozen=True, slots=True)
class UnitValueSums:
    """What the units of an arm come to.

    Attributes:
        count: units, those without any value too, which have 0.
        valued: those that have a value other than 0.
        total: Σy, in any unit.
        squares: Σy², in that unit's square.
    """

    count: Integers
    valued: Integers
    total: Integers
    squares: Integers

    def plus(self, other: Self) -> Self:
        """Both arms as one."""
        return replace(
            self,
            count=self.count + other.count,
            valued=self.valued + other.valued,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def mean(self) -> Numbers:
        """Of a unit; 0 without any."""
        return _floats(self.total / np.maximum(self.count, 1))

    @property
    def variance(self) -> Numbers:
        """Of a unit; 0 of fewer than two."""
        spread = self.count * self.squares - self.total * self.total
        return _floats(spread / (np.maximum(self.count, 1) * np.maximum(self.count - 1, 1)))


def _floats(wholes: Integers) -> Numbers:
    return np.asarray(wholes, float)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two averages of epochs, before they are divided by the time; each of shape (...).

    Attributes:
        control: Σh·ȳ_A.
        candidate: Σh·ȳ_B.
        control_variance: of the first.
        candidate_variance: of the second.
        time: Σh, 0 where no epoch counts yet.
    """

    control: Numbers
    candidate: Numbers
    control_variance: Numbers
    candidate_variance: Numbers
    time: Numbers

    def grown(self, times: float | Numbers) -> Self:
        """With so many times the units, like those so far."""
        return replace(self, **{each.name: getattr(self, each.name) * times for each in fields(self)})

    def log_e(self, ratio: float | Numbers, deviation: float, sign: int) -> Numbers:
        """Log E against "the candidate's average is at most (for a sign of −1: at least) so many times control's", shape (...).

        It is −∞ before there is anything to tell. `deviation` is that of the mixture, in standard deviations of a unit: an effect of about
        that size is found the soonest.
        """
        sigma, spread = self._sigmas(ratio), self.time * deviation**2
        with np.errstate(all="ignore"):
            kept = spread / (1 + spread)
            found = math.log(2) - 0.5 * np.log1p(spread) + kept * sigma**2 / 2 + log_ndtr(sign * sigma * np.sqrt(kept))
        return np.where(np.isnan(found), -np.inf, found)

    def log_e_two_sided(self, ratio: float | Numbers, deviation: float) -> Numbers:
        """Log E against exactly so many times, by the normal mixture of both sides, with n·ρ² = Σh·deviation².

        Source: Johari, Pekelis and Walsh (arXiv 1512.04922), with the prior variance τ² = ρ²·n·V.
        """
        sigma, spread = self._sigmas(ratio), self.time * deviation**2
        with np.errstate(all="ignore"):
            found = spread / (1 + spread) * sigma**2 / 2 - 0.5 * np.log1p(spread)
        return np.where(np.isnan(found), -np.inf, found)

    def _sigmas(self, ratio: float | Numbers) -> Numbers:
        """By how many of its standard errors the difference is above 0; NaN where it has none."""
        with np.errstate(all="ignore"):
            error = np.sqrt(self.candidate_variance + ratio**2 * self.control_variance)
            return np.where(error > 0, (self.candidate - ratio * self.control) / error, np.nan)

    def interval(self, deviation: float, bar: float) -> tuple[Numbers, Numbers]:
        """The ratios of the averages against which log E of both sides is below `bar`, as (lower, upper); source: Fieller (JRSS B 1954).

        NaN where nothing is known or control's average may be 0 or below, and there is no ratio to speak of.
        """
        spread = self.time * deviation**2
        with np.errstate(all="ignore"):
            reach = (1 + 1 / spread) * (np.log1p(spread) + 2 * bar)
            a = self.control**2 - reach * self.control_variance
            b = self.control * self.candidate
            c = self.candidate**2 - reach * self.candidate_variance
            root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
            known = (a > 0) & (self.control > 0) & (self.control_variance + self.candidate_variance > 0)
            return np.where(known, (b - root) / a, np.nan), np.where(known, (b + root) / a, np.nan)

    def growth(self, ratio: Numbers | None, deviation: float, bar: float) -> Numbers:
        """How many times as many units, like those so far, have log E reach `bar`, shape (...); infinite where a million times do not.

        It is log E of both sides against a ratio of shape (...), and without one against 1 by the side that gets there first.
        """
        grown = self.grown(_FACTORS.reshape(-1, *(1,) * self.time.ndim))
        if ratio is None:
            found = np.maximum(grown.log_e(1.0, deviation, 1), grown.log_e(1.0, deviation, -1))
        else:
            found = grown.log_e_two_sided(ratio, deviation)
        enough = found >= bar
        return np.where(enough.any(0), _FACTORS[enough.argmax(0)], np.inf)


def make_contrast(control: UnitValueSums, candidate: UnitValueSums) -> Contrast:
    """Of both arms, over those epochs in which each has its burn-in."""
    counts, others = _floats(control.count), _floats(candidate.count)
    least = np.minimum(_floats(control.valued), _floats(candidate.valued))
    together = control.plus(candidate).variance
    with np.errstate(all="ignore"):
        time = np.where(least >= BURN_IN, counts * others / (counts + others), 0.0)
        of_control, of_candidate = (
            np.where(time > 0, time**2 * np.maximum(arm.variance, together) / count, 0.0)
            for arm, count in ((control, counts), (candidate, others))
        )
    return Contrast(
        (time * control.mean).sum(-1),
        (time * candidate.mean).sum(-1),
        of_control.sum(-1),
        of_candidate.sum(-1),
        time.sum(-1),
    )
