"""Two rates whose ratio is much the same at all times, by the events alone: for experiments, whose epochs may be many and short.

As in `rates`, an event is known to be the candidate's with the probability of its weight then if both rates are equal, and what is tested
needs neither the number of units nor a base rate. There each epoch may have a ratio of its own, and each pays for finding it; here ratios
are weighed that hold for all epochs. What is tested is the same: of each ratio in the mixture the likelihood, by that of a null, is a
supermartingale as long as the ratio of every epoch is within the null, whatever it is and however the weights came about, as long as they
were fixed before the units they drew. So the error is exact where ratios vary; only power is lost. The mixture has finitely many ratios,
and is exact for that too: there is no integral to be approximated. Sources: Lindon and Malek (arXiv 2011.03567) for the likelihood, Robbins
(Ann. Math. Statist. 1970) for the mixture.

Arrays have their epochs in the last axis, and any axes of metrics and arms before it.
"""

import functools
import math
from typing import Final, NamedTuple

import numpy as np

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

_STEPS_OF_A_SIDE: Final = 96
_NEAREST: Final = 1 / 40
"""Of the scale: an effect that is smaller is not told from none in any experiment that was planned for the scale."""

_FARTHEST: Final = 5.0
"""As a log ratio: 148 times as many."""

_BEYOND: Final = 50.0
"""As a log ratio: for one that is 0 or infinite."""

_WIDE: Final = 1.0
_OF_THE_WIDE: Final = 0.2
"""Of the mixture, for effects that are far larger than planned for: those need few events in any case."""

_OF_NONE: Final = 0.1
"""Of the two-sided mixture, for no effect at all; both sides share the rest."""

_ROUNDS: Final = 12
_CLOSE: Final = 1e-4


class Mixture(NamedTuple):
    """Ratios above 1, and how much each counts; those below 1 are their inverses, with the same weights.

    Attributes:
        log_ratios: above 0, of shape (ratios,).
        log_weights: of sum 1 once the exponential is taken, same shape.
    """

    log_ratios: Numbers
    log_weights: Numbers


@functools.cache
def make_mixture(scale: float) -> Mixture:
    """The mixture for effects of about a scale, a log ratio above 0.

    Four fifths of it are a half normal distribution with that deviation, the others one with a deviation of 1.
    """
    ratios = np.geomspace(min(scale, _WIDE) * _NEAREST, _FARTHEST, _STEPS_OF_A_SIDE)
    near, wide = (np.exp(-((ratios / width) ** 2) / 2) / width for width in (scale, _WIDE))
    # Of steps that are equally far apart as logarithms each stands for a width that is as large as it.
    weights = ratios * ((1 - _OF_THE_WIDE) * near + _OF_THE_WIDE * wide)
    return Mixture(ratios, np.log(weights / weights.sum()))


class RatioEvidence:
    """What events say of the ratio of two rates, the candidate's to control's."""

    def __init__(self, control: Numbers, candidate: Numbers, weight: Numbers, mixed: Mixture) -> None:
        """Weigh each ratio.

        Args:
            control: events of control, shape (..., epochs).
            candidate: events of the candidate, same shape.
            weight: the candidate's share of the two arms' assignments in each epoch, in (0, 1), of a shape that fits.
            mixed: the ratios that are weighed.
        """
        self._control, self._candidate, self._weight = control, candidate, weight
        self._log_weights = mixed.log_weights
        self._above, self._below = (self._log_likelihood(sign * mixed.log_ratios) for sign in (1, -1))

    def above(self) -> Numbers:
        """Log E against "in no epoch is the candidate's rate higher", shape (...)."""
        return _mixed(self._log_weights + self._above)

    def below(self) -> Numbers:
        """Log E against "in no epoch is the candidate's rate lower", shape (...)."""
        return _mixed(self._log_weights + self._below)

    def interval(self, bar: float | Numbers) -> tuple[Numbers, Numbers]:
        """The ratios that, holding in all epochs, have log E below `bar`, as (lower, upper) of shape (...); see `rates.ratio_interval`."""
        log_weights, values = self._all()
        against_equal = _mixed(log_weights + values)
        return count_ratio.interval_from_log_e(against_equal, self._control, self._candidate, self._weight, bar)

    def maximum_likelihood(self) -> tuple[Numbers, Numbers]:
        """The ratio at which events are the least unlikely, and the log of their likelihood then by that of equal rates; shape (...)."""
        ratio = count_ratio.maximum_likelihood_ratio(self._control, self._candidate, self._weight)
        with np.errstate(all="ignore"):
            finite = np.clip(np.nan_to_num(np.log(ratio), nan=0.0), -_BEYOND, _BEYOND)
        return ratio, self._log_likelihood(finite[..., None])[..., 0]

    def growth(self, ratio: Numbers | None, bar: float) -> Numbers:
        """How many times as many events, split as so far, have log E reach `bar`, shape (...); infinite where none do.

        It is log E against a ratio of shape (...) by the two-sided mixture, and without one against 1 by the side that gets there first.
        """
        if ratio is None:
            sides = [_growth(self._log_weights, each, bar) for each in (self._above, self._below)]
            return np.minimum(*sides)
        log_weights, values = self._all()
        return _growth(log_weights, values - self._log_likelihood(np.log(ratio)[..., None]), bar)

    def _all(self) -> tuple[Numbers, Numbers]:
        """Log weights and log likelihoods of the two-sided mixture, with its ratios in the last axis."""
        none = np.zeros((*self._above.shape[:-1], 1))
        values = np.concatenate([self._above, self._below, none], -1)
        side = np.broadcast_to(self._log_weights + math.log((1 - _OF_NONE) / 2), self._above.shape)
        return np.concatenate([side, side, none + math.log(_OF_NONE)], -1), values

    def _log_likelihood(self, log_ratios: Numbers) -> Numbers:
        """Of ratios in the last axis, by that of equal rates: Σx·log r − Σ(x + c)·log(1 + π(r − 1))."""
        events = self._control + self._candidate
        cost = np.log1p(self._weight[..., None] * np.expm1(log_ratios)[..., None, :])
        told: Numbers = self._candidate.sum(-1)[..., None] * log_ratios - (events[..., None, :] @ cost)[..., 0, :]
        return told


def _mixed(logs: Numbers) -> Numbers:
    """The logarithm of the sum of what these are the logarithms of; scipy's takes five times as long for as few as these."""
    most = logs.max(-1)
    found: Numbers = most + np.log(np.exp(logs - most[..., None]).sum(-1))
    return found


def _growth(log_weights: Numbers, values: Numbers, bar: float) -> Numbers:
    """The least f ≥ 1 with log Σ exp(log weight + f·value) ≥ bar, over the last axis: by Newton from above, for it is convex in f."""
    with np.errstate(all="ignore"):
        enough = np.where(values > 0, (bar - log_weights) / values, np.inf).min(-1)
        found = np.where(np.isfinite(enough), np.maximum(enough, 0.0), 1.0)
        for _ in range(_ROUNDS):
            logs = log_weights + found[..., None] * values
            total = _mixed(logs)
            slope = (np.exp(logs - total[..., None]) * values).sum(-1)
            step = np.where(slope > 0, (total - bar) / slope, 0.0)
            found = found - step
            if not np.any(np.abs(step) > _CLOSE * found):
                break
    return np.where(np.isfinite(enough), np.maximum(found, 1.0), np.inf)
