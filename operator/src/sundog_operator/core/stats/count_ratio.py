"""Two rates, of control and of a candidate, by the events alone.

Of an event it is known with which probability it would have been the candidate's if both rates were equal: the candidate's weight then. So
neither the number of requests nor a base rate that changes all the time matters, and there is nothing to estimate. Source: Lindon and Malek
(arXiv 2011.03567).

Arrays have their epochs in the last axis, and any axes of metrics and arms before it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.special import expit

from sundog_operator.core.stats import beta_binomial, root_finding
from sundog_operator.core.stats.beta_binomial import Numbers, Side

CONCENTRATIONS: Final = (2.0, 50.0)
"""Of the mixture's halves: the first is quick about large effects, the second is tight about small ones."""

_FAR: Final = 35.0
_STEPS: Final = 80
_CLOSE: Final = 1e-9
_FIRST_MOVE: Final = 0.25
_MOVES: Final = 7
"""Of the log ratio, each twice as long as the one before."""


def log_e(
    control: Numbers,
    candidate: Numbers,
    weight: Numbers,
    ratio: float | Numbers,
    side: Side = "both",
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> Numbers:
    """Log E against a ratio of the rates (candidate's to control's), or for a side, against "that or one on the other side of it".

    Args:
        control: events of control, shape (..., epochs).
        candidate: events of the candidate, shape (..., epochs).
        weight: the candidate's share of the two arms' assignments in each epoch, in (0, 1), of a shape that fits (..., epochs).
        ratio: what is tested, above 0, of a shape that fits (...). What metrics and arms have in common is worked out once.
        side: where the alternatives are. For a side, the ratio may vary within the null.
        concentrations: those of the mixture's equal parts.

    Returns:
        Shape (...).
    """
    null = candidate_share(ratio, weight)
    k = np.asarray(concentrations, float).reshape(-1, *(1,) * np.broadcast(control, candidate, null).ndim)
    parts = beta_binomial.log_e(candidate, control, null, k * weight, k * (1 - weight), side).sum(-1)
    mean: Numbers = np.logaddexp.reduce(parts, axis=0) - math.log(len(concentrations))
    return mean


def candidate_share(ratio: float | Numbers, weight: Numbers) -> Numbers:
    """The candidate's share of the events of both arms at a ratio of the rates, shape (..., epochs); arguments as for `log_e`."""
    found: Numbers = expit(np.log(np.asarray(ratio, float))[..., None] + _logit(weight))
    return found


def ratio_interval(
    control: Numbers,
    candidate: Numbers,
    weight: Numbers,
    bar: float | Numbers,
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> tuple[Numbers, Numbers]:
    """The ratios against which log E is below `bar`, as (lower, upper), of shape (...).

    `bar` is log(1/α), times the dispersion where there is one. Without events of the candidate the lower end is 0, without those of control
    the upper one is infinite. Both ends are NaN where no ratio fits all epochs, or a count is not a number.
    """
    with np.errstate(all="ignore"):
        against_equal = log_e(control, candidate, weight, 1.0, "both", concentrations)
    return interval_from_log_e(against_equal, control, candidate, weight, bar)


def one_sided_interval(
    control: Numbers,
    candidate: Numbers,
    weight: Numbers,
    bar: Numbers,
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> tuple[Numbers, Numbers]:
    """(lower, upper) of shape (...): the ratios at which the test of each side reaches `bar`.

    So the upper end is at most a ratio exactly where `log_e` below that ratio is at least `bar`, and likewise the lower one. Of epochs that
    no one ratio fits the lower end may be above the upper one. Arguments and edge cases as for `ratio_interval`.
    """

    def end(side: Side) -> Numbers:
        def excess(log_ratio: Numbers) -> Numbers:
            return log_e(control, candidate, weight, np.exp(log_ratio), side, concentrations) - bar

        # Further out a test below rejects, and one above does not.
        outwards = 1.0 if side == "below" else -1.0
        inside, within = _moved(excess, centre, -outwards, rejects=False)
        outside, beyond = _moved(excess, centre, outwards, rejects=True)
        found = root_finding.find_crossings(excess, inside, outside, within, beyond)
        return np.exp(np.where((within < 0) & (beyond >= 0), found, outwards * np.inf))

    with np.errstate(all="ignore"):
        maximum_likelihood, _ = _likeliest(control, candidate, weight)
        centre = np.where((control.sum(-1) == 0) | (candidate.sum(-1) == 0), 0.0, maximum_likelihood)
        lower, upper = end("above"), end("below")
    return np.where(candidate.sum(-1) == 0, 0.0, lower), np.where(control.sum(-1) == 0, np.inf, upper)


def _moved(
    excess: Callable[[Numbers], Numbers], start: Numbers, direction: float, *, rejects: bool
) -> tuple[Numbers, Numbers]:
    """Points moved in a direction, further each time, until each is rejected or not, or far away; and the excess at them."""
    at, value, step = start, excess(start), _FIRST_MOVE
    for _ in range(_MOVES):
        short = (value >= 0) != rejects
        if not np.any(short):
            break
        at, step = np.where(short, at + direction * step, at), 2 * step
        value = excess(at)
    return at, value


def interval_from_log_e(
    against_equal: Numbers, control: Numbers, candidate: Numbers, weight: Numbers, bar: float | Numbers
) -> tuple[Numbers, Numbers]:
    """The same for any mixture of ratios, by its log E against equal rates: against others it differs by their likelihood alone."""
    with np.errstate(all="ignore"):
        rise = against_equal - _unlikeliness(control, candidate, _logit(weight)) - bar
        centre, curvature = _likeliest(control, candidate, weight)
        least = rise + _unlikeliness(control, candidate, centre[..., None] + _logit(weight))
        one_sided = (control.sum(-1) == 0) | (candidate.sum(-1) == 0)
        reach = np.where(one_sided, _FAR, np.sqrt(-2 * least / curvature))
        centre = np.where(one_sided, 0.0, centre)
        lower, upper = np.exp(_crossing(control, candidate, weight, rise, np.stack([centre - reach, centre + reach])))
    return np.where(candidate.sum(-1) == 0, 0.0, lower), np.where(control.sum(-1) == 0, np.inf, upper)


def maximum_likelihood_ratio(control: Numbers, candidate: Numbers, weight: Numbers) -> Numbers:
    """The ratio at which the events are the least unlikely, of shape (...); NaN without any."""
    none = control.sum(-1) + candidate.sum(-1) == 0
    with np.errstate(all="ignore"):
        centre, _ = _likeliest(control, candidate, weight)
    ratio = np.where(candidate.sum(-1) == 0, 0.0, np.where(control.sum(-1) == 0, np.inf, np.exp(centre)))
    return np.where(none, np.nan, ratio)


def _likeliest(control: Numbers, candidate: Numbers, weight: Numbers) -> tuple[Numbers, Numbers]:
    """The log ratio at which the events are the least unlikely, and how much less likely they become beside it."""
    events, offset = control + candidate, _logit(weight)
    centre = np.log((candidate.sum(-1) + 0.5) / ((control * np.exp(offset)).sum(-1) + 0.5))
    for _ in range(_STEPS):
        share = expit(centre[..., None] + offset)
        curvature = (events * share * (1 - share)).sum(-1)
        step = np.clip(((events * share).sum(-1) - candidate.sum(-1)) / curvature, -2.0, 2.0)
        centre = np.clip(centre - step, -_FAR, _FAR)
        if not np.any(np.abs(step) > 1e-3):
            break
    return centre, curvature


def _crossing(control: Numbers, candidate: Numbers, weight: Numbers, rise: Numbers, start: Numbers) -> Numbers:
    """The log ratios where `rise` plus the unlikeliness is 0, found from starts of shape (ends, ...); NaN where it is nowhere.

    The unlikeliness is convex in the log ratio: from any point on one side of its least, Newton's first step ends beyond the crossing of
    that side, and each further one comes nearer without passing it.
    """
    log_ratio, step = start, np.full(np.shape(start), np.inf)
    events, offset = control + candidate, _logit(weight)
    for _ in range(_STEPS):
        odds = log_ratio[..., None] + offset
        slope = (events * expit(odds) - candidate).sum(-1)
        step = (rise + _unlikeliness(control, candidate, odds)) / slope
        log_ratio = log_ratio - step
        if not np.any(np.abs(step) > _CLOSE):
            break
    return np.where(np.abs(step) <= _CLOSE, log_ratio, np.nan)


def _unlikeliness(control: Numbers, candidate: Numbers, odds: Numbers) -> Numbers:
    """Minus the log likelihood of which arm each event fell to, given the log odds of the candidate's."""
    told: Numbers = ((control + candidate) * np.logaddexp(0.0, odds) - candidate * odds).sum(-1)
    return told


def _logit(share: Numbers) -> Numbers:
    return np.log(share) - np.log1p(-share)
