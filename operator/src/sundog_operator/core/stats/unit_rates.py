"""Test of the ratio of two rates over units that stay with an arm, adjusted for each unit's behavior before the rollout.

A unit's rate counts with the unit's requests, up to a cap that all units share. So a heavy unit weighs no more than many others, and no
rate is cut: cut rates would move every ratio towards 1. A regression on the unit's own earlier rate, its earlier requests and their
product then removes most of the differences between units. Both arms share its coefficients, which a bad canary therefore cannot bend.
Sources: Deng, Xu, Kohavi and Walker (WSDM 2013) for the covariates from before; Deng, Knoblich and Lu (arXiv 1803.06336) for ratios.

Under "the ratio is r", the treatment's events divided by r vary over units as control's do. So a unit's residual does not depend on its
arm, and the arm is random: a hash assigned it. The test is of that: E = exp(λS − K(λ)) for the residuals' sum S in the treatment and its
cumulant generating function K over the assignments, given the residuals. K is exact for few, for heavy and for skewed units, where a
normal approximation calls chance an effect. A unit's arms in all epochs follow from one bucket, so K covers its return in later epochs.
Source: Howard, Ramdas, McAuliffe and Sekhon (arXiv 1808.03204) for such exponential processes and their mixtures over λ.

The residuals themselves change as units go on, so "at every evaluation" is asymptotic: the estimates of a growing number of requests vary
as a sequence with independent increments. Source: Scharfstein, Tsiatis and Robins (JASA 1997). Each residual is that of a regression
without the unit itself, because heavy units bend a regression towards themselves and would look too regular.
"""

import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from sundog_operator.core.stats.beta_binomial import Numbers

MIN_UNITS: Final = 300
"""Units that the newest epoch needs; with fewer, a test of groups of units is used."""

MIN_UNITS_WITH_EVENTS: Final = 30
"""Units with an event that it needs."""

_CAP_QUANTILE: Final = 0.9
_PRIOR_REQUESTS: Final = 5.0
"""Requests at the average rate that are added to each unit's earlier ones, because a rate of few requests says little."""
_LEAST_REST: Final = 0.05
"""Least share of a unit's residual that is not its own doing."""
_EFFECTS: Final = np.arange(0.05, 1.2, 0.1)
"""Log ratios, beyond the tested one, of the mixture."""
_SHARES: Final = np.exp(-0.5 * (_EFFECTS / 0.35) ** 2) / np.exp(-0.5 * (_EFFECTS / 0.35) ** 2).sum()
"""The mixture's shares: half a normal density."""
_FAR: Final = 6.0
"""Largest distance of an interval's end from the estimate, as a log ratio."""
_MOVES: Final = 6
_LONGEST_MOVE: Final = 1.0
_CLOSE: Final = 0.1
"""Largest error in log E of an interval's end."""
_ESTIMATIONS: Final = 4
_SMALL: Final = 0.01
"""Last move of an estimate, as a log ratio. The estimate is nearly linear, so the next move would be far smaller."""


@dataclass(frozen=True)
class UnitEvents:
    """Requests and events of sampled units, and those before the rollout.

    Attributes:
        requests: requests of each unit, shape (..., epochs, units).
        events: events of each unit, same shape.
        is_treatment: whether the treatment had the unit, same shape; meaningless where the unit has no requests.
        weight: the share of units that was assigned to the treatment, in (0, 1), shape (..., epochs). A unit that the treatment has at a
            weight stays with it at all higher weights.
        requests_before: requests of each unit before the rollout, shape (..., units).
        events_before: events of each unit before the rollout, same shape.
    """

    requests: Numbers
    events: Numbers
    is_treatment: NDArray[np.bool_]
    weight: Numbers
    requests_before: Numbers
    events_before: Numbers

    @property
    def usable(self) -> NDArray[np.bool_]:
        """True where the newest epoch with requests has enough units, and enough of them have events; shape (...)."""
        units, with_events = (self.requests > 0).sum(-1), (self.events > 0).sum(-1)
        enough = (units >= MIN_UNITS) & (with_events >= MIN_UNITS_WITH_EVENTS)
        newest = (units > 0)[..., ::-1].argmax(-1)[..., None]
        found: NDArray[np.bool_] = np.take_along_axis(enough[..., ::-1], newest, -1)[..., 0]
        return found

    def of_epochs(self, kept: NDArray[np.bool_]) -> Self:
        """Return a copy without the requests of epochs where `kept`, of shape (..., epochs), is false."""
        where = kept[..., None]
        return replace(self, requests=np.where(where, self.requests, 0.0), events=np.where(where, self.events, 0.0))

    def newest(self) -> Self:
        """Return a copy without the requests of older epochs."""
        newest = {name: getattr(self, name)[..., -1:, :] for name in ("requests", "events", "is_treatment")}
        return replace(self, **newest, weight=self.weight[..., -1:])

    def at(self, where: NDArray[np.bool_]) -> Self:
        """Return the counts at `where`, of shape (selected, epochs, units)."""
        return replace(self, **{each.name: getattr(self, each.name)[where] for each in fields(self)})

    def estimate_ratio(self) -> Numbers:
        """Return the estimate of the ratio, shape (...); NaN without data."""
        ratio: Numbers = np.ones(self.requests.shape[:-2])
        for _ in range(_ESTIMATIONS):
            beyond: Numbers = np.clip(self.test(ratio).log_ratio, -1.0, 1.0)
            ratio *= np.exp(beyond)
            if not np.any(np.abs(beyond) > _SMALL):
                break
        return ratio

    def interval(self, bar: Numbers) -> tuple[Numbers, Numbers]:
        """Return the ratios that no one-sided test rejects at log E ≥ `bar`, as (lower, upper), each of shape (...); 0 and ∞ if unknown."""
        ratio = self.estimate_ratio()
        lower, upper = (self._end(np.log(ratio), bar, sign) for sign in (1, -1))
        return np.exp(lower), np.exp(upper)

    def _end(self, centre: Numbers, bar: Numbers, sign: int) -> Numbers:
        """Return the log ratio at which log E reaches the bar; infinite where it is not found.

        The search is by secants, because the root of twice log E is nearly linear in the log ratio. A centre that the test rejects, as of
        a treatment without events, is a bound itself.
        """
        middle = self.test(np.exp(centre))
        least = middle.log_e(sign)
        wanted, before, reached_before = np.sqrt(2 * np.maximum(bar - least, 0.0)), centre, np.zeros(centre.shape)
        end: Numbers = centre - sign * wanted * np.sqrt(middle.error)
        for _ in range(_MOVES):
            log_e = self.test(np.exp(end)).log_e(sign)
            if np.all(np.abs(log_e - bar) < _CLOSE):
                return end
            reached = np.sqrt(2 * np.maximum(log_e - least, 0.0))
            with np.errstate(all="ignore"):
                move = (wanted - reached) * (end - before) / (reached - reached_before)
            move = np.where(np.isfinite(move), np.clip(move, -_LONGEST_MOVE, _LONGEST_MOVE), 0.0)
            before, reached_before, end = end, reached, np.clip(end + move, centre - _FAR, centre + _FAR)
        # With few units of the treatment, log E may not reach the bar at any ratio.
        is_found = np.abs(self.test(np.exp(end)).log_e(sign) - bar) < _CLOSE
        return np.where(is_found, end, np.where(least >= bar, centre, -sign * np.inf))

    def test(self, ratio: float | Numbers) -> "UnitTest":
        """Return the statistics of the test against a ratio of the rates, the treatment's to control's; it broadcasts to (...)."""
        ratio = np.broadcast_to(ratio, self.requests.shape[:-2])
        residuals = self._residuals(ratio[..., None, None])
        present = (self.requests > 0).sum(-1)
        squares = (residuals**2).sum(-1)
        with np.errstate(all="ignore"):
            precision = np.where(squares > 0, present / squares, 0.0)
        scaled = precision[..., None] * residuals
        weight = np.broadcast_to(self.weight, present.shape)
        edges = np.concatenate([np.zeros((*weight.shape[:-1], 1)), np.sort(weight, -1)], -1)
        chance = np.diff(edges, append=1.0)
        # By range of buckets: in which epochs its units belong to the treatment.
        belongs = (weight[..., None, :] > edges[..., :, None]).astype(float)
        scores = (belongs - weight[..., None, :]) @ scaled
        observed = ((self.is_treatment - weight[..., None]) * scaled).sum((-1, -2))
        information = (precision * present * weight * (1 - weight)).sum(-1)
        variance = (chance[..., None] * scores**2).sum((-1, -2))
        return UnitTest(ratio, scores, chance, observed, information, variance)

    def _residuals(self, ratio: Numbers) -> Numbers:
        """Return each unit's contribution to the log ratio beyond what its earlier behavior explains, shape (..., epochs, units).

        The sum over the units of an epoch is 0. Units without requests have 0.
        """
        capped = np.minimum(self.requests, _cap(self.requests))
        with np.errstate(all="ignore"):
            rate = np.where(self.requests > 0, self.events / self.requests, 0.0)
            events = rate * capped / np.where(self.is_treatment, ratio, 1.0)
            expected = events.sum(-1, keepdims=True) / capped.sum(-1, keepdims=True) * capped
            beyond = (events - expected) / (events.sum(-1, keepdims=True) / self._present.sum(-1, keepdims=True))
        beyond = np.where(self._present & np.isfinite(beyond), beyond, 0.0)
        design, inverse = self._design
        fitted = (design @ (inverse @ (np.swapaxes(design, -1, -2) @ beyond[..., None])))[..., 0]
        own = ((design @ inverse) * design).sum(-1)
        found = np.where(self._present, (beyond - fitted) / np.maximum(1 - own, _LEAST_REST), 0.0)
        with np.errstate(all="ignore"):
            mean = found.sum(-1, keepdims=True) / self._present.sum(-1, keepdims=True)
        return np.where(self._present, found - mean, 0.0)

    @property
    def _present(self) -> NDArray[np.bool_]:
        return self.requests > 0

    @functools.cached_property
    def _design(self) -> tuple[Numbers, Numbers]:
        """Return the covariates of the present units and a constant, shape (..., epochs, units, 4), and the inverse of their products."""
        requests, events = self.requests_before, self.events_before
        with np.errstate(all="ignore"):
            average = np.nan_to_num(events.sum(-1, keepdims=True) / requests.sum(-1, keepdims=True))
        rate = (events + _PRIOR_REQUESTS * average) / (requests + _PRIOR_REQUESTS)
        capped = np.minimum(requests, _cap(requests))
        columns = np.stack([np.ones(rate.shape), rate, capped, rate * capped], -1)
        design = np.where(self._present[..., None], columns[..., None, :, :], 0.0)
        size = np.sqrt((design**2).sum(-2, keepdims=True))
        design = design / np.where(size > 0, size, 1.0)
        products = np.swapaxes(design, -1, -2) @ design
        return design, np.asarray(np.linalg.pinv(products, rcond=1e-9, hermitian=True), float)


def _cap(requests: Numbers) -> Numbers:
    """Return the requests that nine tenths of the present units do not exceed, shape (..., 1)."""
    ordered = np.sort(requests, -1)
    absent = (ordered <= 0).sum(-1, keepdims=True)
    present = ordered.shape[-1] - absent
    place = np.minimum(absent + np.floor(_CAP_QUANTILE * present).astype(int), ordered.shape[-1] - 1)
    return np.take_along_axis(ordered, place, -1)


@dataclass(frozen=True, slots=True)
class UnitTest:
    """Statistics of the test against one ratio, and the distribution that chance alone gives them.

    Attributes:
        ratio: the tested ratio, shape (...).
        scores: what a unit adds to the sum if its bucket is in each range, shape (..., ranges, units).
        chance: probability of each range, shape (..., ranges).
        observed: the sum over units, shape (...).
        information: how much a log ratio of 1 adds to it, shape (...).
        variance: its variance by chance, shape (...).
    """

    ratio: Numbers
    scores: Numbers
    chance: Numbers
    observed: Numbers
    information: Numbers
    variance: Numbers

    @property
    def error(self) -> Numbers:
        """Variance of the estimated log ratio, shape (...); infinite without data."""
        with np.errstate(all="ignore"):
            return np.where(self.information > 0, self.variance / self.information**2, np.inf)

    @property
    def log_ratio(self) -> Numbers:
        """Estimate of the log ratio beyond the tested one, shape (...); NaN without data."""
        with np.errstate(all="ignore"):
            found: Numbers = self.observed / self.information
        return found

    def log_e(self, sign: int) -> Numbers:
        """Return log E against "the ratio is at most the tested one", shape (...); with a sign of −1 "at least". 0 without data.

        Where the tested ratio is above 1 and the sign −1, half of the mixture is at a ratio of 1: gates are to find equal arms.
        """
        with np.errstate(all="ignore"):
            unit = np.where(self.variance > 0, sign * self.information / self.variance, 0.0)
        parts = [self._log_e(effect * unit) + math.log(share) for effect, share in zip(_EFFECTS, _SHARES, strict=True)]
        spread: Numbers = logsumexp(np.stack(parts), axis=0)
        distance = np.log(self.ratio)
        if sign > 0 or not np.any(distance > 0):
            return spread
        found: Numbers = np.logaddexp(self._log_e(np.maximum(distance, 0.0) * unit), spread) - math.log(2)
        return np.where(distance > 0, found, spread)

    def _log_e(self, tilt: Numbers) -> Numbers:
        exponents = tilt[..., None, None] * self.scores
        # Scores average 0 over the ranges, so the largest is at least 0, and the logarithm finite.
        largest = exponents.max(-2)
        moment = (self.chance[..., None] * np.exp(exponents - largest[..., None, :])).sum(-2)
        found: Numbers = tilt * self.observed - (np.log(moment) + largest).sum(-1)
        return found
