"""Test of the ratio of two rates that is about constant, from the known numbers of units and of those with an event.

`pooled_count_ratio` knows events alone, so its evidence about a rate of nine tenths is a tenth of what these units show. Here both arms'
numbers of units are known, and an epoch's likelihood is that of two binomial counts. Its base rate is unknown, so each ratio has the base
rate that suits it best (the profile likelihood). For rare events that is the likelihood of events alone, with the arms' own shares of
units: the error is then exact for any number of events. Otherwise the test is asymptotic in the units of each epoch, by the profile
likelihood's local normality (Murphy and van der Vaart, JASA 2000), and an epoch counts once each arm has `BURN_IN` units.

The score of the ratio, (x_B − n_B·p̂)/(1 − p̂), is a martingale in the time in which outcomes of exposed units come, as that of a log-rank
test is. So outcomes that come late cost no error either.
Sources: Miettinen and Nurminen (Stat. Med. 1985) for the base rate at a ratio, Robbins (Ann. Math. Statist. 1970) for the mixture.

Arrays have epochs in the last axis, after any axes of metrics and arms.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from scipy.special import xlog1py, xlogy

from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.pooled_count_ratio import Mixture, MixtureEvidence, logsumexp

BURN_IN: Final = 30
"""Units that each arm of an epoch needs: with few, the best base rate follows chance."""

_FAR: Final = 35.0
"""Log ratio that no counts reach."""

_HALVINGS: Final = 64
_STEPS: Final = 80
_CLOSE: Final = 1e-9


class UnitCounts(NamedTuple):
    """Units of an arm, and those of them with an event; each of shape (..., epochs)."""

    exposed: Numbers
    positive: Numbers


class BinomialEvidence(MixtureEvidence):
    """Evidence about the ratio of two rates, the treatment's to control's, against a tested ratio."""

    def __init__(
        self,
        arms: tuple[UnitCounts, UnitCounts],
        mixed: Mixture,
        tested: float = 1.0,
        *,
        burn_in: int = BURN_IN,
    ) -> None:
        """Compute the log likelihood of each ratio; `arms` are control and the treatment, `mixed` is relative to the tested ratio."""
        control, treatment = arms
        counts = np.minimum(control.exposed, treatment.exposed) >= burn_in
        self._control, self._treatment = (np.where(counts, arm.positive, 0.0) for arm in (control, treatment))
        self._control_rest, self._treatment_rest = (
            np.where(counts, arm.exposed - arm.positive, 0.0) for arm in (control, treatment)
        )
        self._log_tested = math.log(tested)
        self._at_tested = self._profile(np.full(1, self._log_tested))
        super().__init__(mixed, tested)

    def maximum_likelihood(self) -> tuple[Numbers, Numbers]:
        """Return as `MixtureEvidence` does; the ratio of one epoch is that of the arms' own rates."""
        control, treatment = self._control.sum(-1), self._treatment.sum(-1)
        lower, upper = np.full((*control.shape, 1), -_FAR), np.full((*control.shape, 1), _FAR)
        with np.errstate(all="ignore"):
            for _ in range(_HALVINGS):
                best = (lower + upper) / 2
                rises = self._slope(best) > 0
                lower, upper = np.where(rises, best, lower), np.where(rises, upper, best)
            ratio = np.where(treatment == 0, 0.0, np.where(control == 0, np.inf, np.exp(best[..., 0])))
        ratio = np.where(control + treatment == 0, np.nan, ratio)
        return ratio, (self._profile(best) - self._at_tested).sum(-1)[..., 0]

    def apart(self) -> Numbers:
        """Return as `MixtureEvidence` does, with the same mixture in each epoch."""
        log_weights, log_ratios = self._two_sided_ratios()
        values = self._profile(log_ratios + self._log_tested) - self._at_tested
        found: Numbers = logsumexp(log_weights + np.swapaxes(values, -1, -2)).sum(-1)
        return found

    def interval(self, bar: float | Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratios with a two-sided log E below `bar`.

        The lower end is 0 without events of the treatment, the upper one infinite without events of control.
        """
        least = (self.two_sided() - bar + self._at_tested.sum(-1)[..., 0])[..., None]
        ends = np.broadcast_to(np.array([-_FAR, _FAR]), (*least.shape[:-1], 2))
        with np.errstate(all="ignore"):
            # Minus the log likelihood is convex, so Newton's steps come from outside and pass no end.
            for _ in range(_STEPS):
                step = (self._profile(ends).sum(-1) - least) / self._slope(ends)
                ends = np.clip(ends - step, -_FAR, _FAR)
                if not np.any(np.abs(step) > _CLOSE):
                    break
            lower, upper = np.moveaxis(np.exp(np.where(np.abs(step) <= _CLOSE, ends, np.nan)), -1, 0)
        control, treatment = self._control.sum(-1), self._treatment.sum(-1)
        return np.where(treatment == 0, 0.0, lower), np.where(control == 0, np.inf, upper)

    def _log_likelihood(self, log_ratios: Numbers) -> Numbers:
        found: Numbers = (self._profile(log_ratios + self._log_tested) - self._at_tested).sum(-1)
        return found

    def _base_rates(self, ratio: Numbers) -> tuple[Numbers, Numbers]:
        """Return both arms' rates of highest likelihood at a ratio, which is (..., ratios, 1): control's root of a quadratic equation."""
        control, treatment = self._control[..., None, :], self._treatment[..., None, :]
        units = control + self._control_rest[..., None, :]
        others = treatment + self._treatment_rest[..., None, :]
        events, linear = control + treatment, units + treatment + ratio * (others + control)
        root = np.sqrt(np.maximum(linear**2 - 4 * ratio * (units + others) * events, 0.0))
        rate = np.where(events > 0, 2 * events / (linear + root), 0.0)
        return rate, np.minimum(ratio * rate, 1.0)

    def _profile(self, log_ratios: Numbers) -> Numbers:
        """Return the highest log likelihood at log ratios of shape (..., ratios), by epoch: (..., ratios, epochs)."""
        with np.errstate(all="ignore"):
            rate, other = self._base_rates(np.exp(log_ratios)[..., None])
            of_control = xlogy(self._control[..., None, :], rate) + xlog1py(self._control_rest[..., None, :], -rate)
            of_treatment = xlogy(self._treatment[..., None, :], other) + xlog1py(
                self._treatment_rest[..., None, :], -other
            )
        found: Numbers = of_control + of_treatment
        return found

    def _slope(self, log_ratios: Numbers) -> Numbers:
        """Return the derivative of the log likelihood by the log ratio, at log ratios of shape (..., ratios): the same shape."""
        ratio = np.exp(log_ratios)[..., None]
        rate, other = self._base_rates(ratio)
        rest, other_rest = self._control_rest[..., None, :], self._treatment_rest[..., None, :]
        by_treatment = self._treatment[..., None, :] - np.where(other_rest > 0, other_rest * other / (1 - other), 0.0)
        by_control = np.where(rest > 0, rest * rate / (1 - rate), 0.0) - self._control[..., None, :]
        # If all units of the treatment have an event, higher ratios leave its rate at 1, where only control's derivative is right.
        events = self._control + self._treatment
        is_most = ratio * events[..., None, :] >= (events + self._control_rest)[..., None, :]
        found: Numbers = np.where((other_rest == 0) & is_most, by_control, by_treatment).sum(-1)
        return found
