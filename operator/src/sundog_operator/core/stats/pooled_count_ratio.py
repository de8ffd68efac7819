"""Test of the ratio of two rates that is about constant, from event counts alone: for experiments with many short epochs.

As in `count_ratio`, an event is the treatment's with the probability of the treatment's weight if both rates are equal. There, each epoch
has its own mixture over ratios, which costs evidence in each epoch. Here one mixture of ratios holds for all epochs.

The null is the same, and so is the error: each ratio's likelihood by that of a null is a supermartingale while every epoch's ratio is
within the null. Weights may follow the outcomes if they are fixed before the units that they assign. A ratio that varies costs power, not
error. The mixture has finitely many ratios, so no integral is approximated.

A null other than equal rates, such as the ratio at a guardrail's margin, is the same test with another weight: if the ratio is r₀, an event
is the treatment's with the probability π·r₀/(1 − π + π·r₀). Ratios are then relative to r₀.
Sources: Lindon and Malek (arXiv 2011.03567) for the likelihood, Robbins (Ann. Math. Statist. 1970) for the mixture.

Arrays have epochs in the last axis, after any axes of metrics and arms.
"""

import abc
import functools
import math
from typing import Final, NamedTuple

import numpy as np

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

_STEPS_OF_A_SIDE: Final = 96
_NEAREST: Final = 1 / 40
"""Smallest log ratio by the scale. An experiment planned for the scale cannot distinguish smaller effects from none."""

_FARTHEST: Final = 5.0
"""Largest log ratio: a factor of 148."""

_BEYOND: Final = 50.0
"""Log ratio that stands for a ratio of 0 or infinity."""

_WIDE: Final = 1.0
_WIDE_WEIGHT: Final = 0.2
"""Weight of the wide part of the mixture, for effects far larger than planned; those need few events in any case."""

_NULL_WEIGHT: Final = 0.1
"""Weight of no effect in the two-sided mixture; the two sides share the rest."""

_ROUNDS: Final = 12
_CLOSE: Final = 1e-4


class Mixture(NamedTuple):
    """Ratios above 1 and their weights. Ratios below 1 are the inverses, with the same weights.

    Attributes:
        log_ratios: above 0, of shape (ratios,).
        log_weights: logarithms of weights of sum 1, same shape.
    """

    log_ratios: Numbers
    log_weights: Numbers


@functools.cache
def make_mixture(scale: float) -> Mixture:
    """Return the mixture for effects of about `scale`, a log ratio above 0.

    Four fifths are a half-normal distribution with that standard deviation; the rest is one with a standard deviation of 1.
    """
    ratios = np.geomspace(min(scale, _WIDE) * _NEAREST, _FARTHEST, _STEPS_OF_A_SIDE)
    near, wide = (np.exp(-((ratios / width) ** 2) / 2) / width for width in (scale, _WIDE))
    # Ratios are equally spaced as logarithms, so each one's width is proportional to it.
    weights = ratios * ((1 - _WIDE_WEIGHT) * near + _WIDE_WEIGHT * wide)
    return Mixture(ratios, np.log(weights / weights.sum()))


class MixtureEvidence(abc.ABC):
    """Evidence about the ratio of two rates, the treatment's to control's, by a mixture of ratios against a tested one.

    A subclass has the likelihood.
    """

    def __init__(self, mixed: Mixture, tested: float) -> None:
        """Compute the log likelihoods; `mixed` is relative to `tested`, the ratio r₀ that the nulls are about."""
        self._tested, self._mixed, self._log_weights = tested, mixed, mixed.log_weights
        self._above, self._below = (self._log_likelihood(sign * mixed.log_ratios) for sign in (1, -1))

    @abc.abstractmethod
    def _log_likelihood(self, log_ratios: Numbers) -> Numbers:
        """Return log likelihoods minus that of the tested ratio, to which `log_ratios`, in the last axis, are relative."""

    @abc.abstractmethod
    def interval(self, bar: float | Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratios, constant over epochs, with a two-sided log E below `bar`: (lower, upper)."""

    @abc.abstractmethod
    def maximum_likelihood(self) -> tuple[Numbers, Numbers]:
        """Return the ratio of highest likelihood, and its log likelihood minus that of the tested one; each of shape (...)."""

    @abc.abstractmethod
    def apart(self) -> Numbers:
        """Return log E of a ratio of its own in each epoch, against exactly the tested one in all, shape (...)."""

    def above(self) -> Numbers:
        """Return log E against "in no epoch is the ratio above the tested one", shape (...)."""
        return logsumexp(self._log_weights + self._above)

    def below(self) -> Numbers:
        """Return log E against "in no epoch is the ratio below the tested one", shape (...)."""
        return logsumexp(self._log_weights + self._below)

    def two_sided(self) -> Numbers:
        """Return log E against exactly the tested ratio, shape (...)."""
        log_weights, _ = self._two_sided_ratios()
        return logsumexp(log_weights + self._two_sided_values())

    def growth(self, ratio: Numbers | None, bar: float | Numbers, bar_below: float | Numbers | None = None) -> Numbers:
        """Return the factor ≥ 1 of events, split as so far, at which log E reaches `bar`, shape (...); infinite where it never does.

        With a ratio of shape (...), log E is two-sided against it. With None it is one-sided against the tested ratio, on the side that
        reaches its bar first; `bar_below` is the bar of `below` where it differs.
        """
        if ratio is None:
            bars = bar, bar if bar_below is None else bar_below
            sides = [
                _growth(self._log_weights, each, own)
                for each, own in zip((self._above, self._below), bars, strict=True)
            ]
            return np.minimum(*sides)
        log_weights, _ = self._two_sided_ratios()
        values = self._two_sided_values()
        return _growth(log_weights, values - self._log_likelihood(np.log(ratio / self._tested)[..., None]), bar)

    def _two_sided_ratios(self) -> tuple[Numbers, Numbers]:
        """Return log weights and log ratios of the two-sided mixture, each of shape (ratios,)."""
        side = self._log_weights + math.log((1 - _NULL_WEIGHT) / 2)
        ratios = self._mixed.log_ratios
        return np.array([*side, *side, math.log(_NULL_WEIGHT)]), np.array([*ratios, *-ratios, 0.0])

    def _two_sided_values(self) -> Numbers:
        """Return the log likelihoods of these ratios, in the last axis."""
        return np.concatenate([self._above, self._below, np.zeros((*self._above.shape[:-1], 1))], -1)


class RatioEvidence(MixtureEvidence):
    """Evidence from event counts alone."""

    def __init__(
        self, control: Numbers, treatment: Numbers, weight: Numbers, mixed: Mixture, tested: float = 1.0
    ) -> None:
        """Compute the log likelihood of each ratio.

        Args:
            control: events of control, shape (..., epochs).
            treatment: events of the treatment, same shape.
            weight: the treatment's share of the two arms' assignments in each epoch, in (0, 1); broadcasts.
            mixed: the mixture of ratios, relative to the tested one.
            tested: the ratio r₀ that the nulls are about, above 0; 1 for equal rates.
        """
        # With 1 the weight stays as it is, to the last digit.
        self._weight = weight if tested == 1 else count_ratio.treatment_share(tested, weight)
        self._control, self._treatment, self._planned = control, treatment, weight
        super().__init__(mixed, tested)

    def apart(self) -> Numbers:
        """Return as `MixtureEvidence` does, with the Beta mixtures of `count_ratio` in each epoch."""
        return count_ratio.log_e(self._control, self._treatment, self._planned, self._tested)

    def interval(self, bar: float | Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratios as `count_ratio.interval_from_log_e` does."""
        lower, upper = count_ratio.interval_from_log_e(
            self.two_sided(), self._control, self._treatment, self._weight, bar
        )
        return lower * self._tested, upper * self._tested

    def maximum_likelihood(self) -> tuple[Numbers, Numbers]:
        """Return as `MixtureEvidence` does."""
        ratio = count_ratio.maximum_likelihood_ratio(self._control, self._treatment, self._weight)
        with np.errstate(all="ignore"):
            finite = np.clip(np.nan_to_num(np.log(ratio), nan=0.0), -_BEYOND, _BEYOND)
        return ratio * self._tested, self._log_likelihood(finite[..., None])[..., 0]

    def _log_likelihood(self, log_ratios: Numbers) -> Numbers:
        """Return log likelihoods minus that of the tested ratio, to which `log_ratios`, in the last axis, are relative.

        They are Σx·log r − Σ(x + c)·log(1 + π(r − 1)).
        """
        events = self._control + self._treatment
        cost = np.log1p(self._weight[..., None] * np.expm1(log_ratios)[..., None, :])
        found: Numbers = self._treatment.sum(-1)[..., None] * log_ratios - (events[..., None, :] @ cost)[..., 0, :]
        return found


def logsumexp(logs: Numbers) -> Numbers:
    """Return log Σ exp over the last axis. scipy's takes five times as long for so few numbers."""
    most = logs.max(-1)
    found: Numbers = most + np.log(np.exp(logs - most[..., None]).sum(-1))
    return found


def _growth(log_weights: Numbers, values: Numbers, bar: float | Numbers) -> Numbers:
    """Return the least f ≥ 1 with log Σ exp(log weight + f·value) ≥ bar, over the last axis.

    The sum is convex in f, so Newton's method from above converges.
    """
    with np.errstate(all="ignore"):
        enough = np.where(values > 0, (np.asarray(bar)[..., None] - log_weights) / values, np.inf).min(-1)
        found = np.where(np.isfinite(enough), np.maximum(enough, 0.0), 1.0)
        for _ in range(_ROUNDS):
            logs = log_weights + found[..., None] * values
            total = logsumexp(logs)
            slope = (np.exp(logs - total[..., None]) * values).sum(-1)
            step = np.where(slope > 0, (total - bar) / slope, 0.0)
            found = found - step
            if not np.any(np.abs(step) > _CLOSE * found):
                break
    return np.where(np.isfinite(enough), np.maximum(found, 1.0), np.inf)
