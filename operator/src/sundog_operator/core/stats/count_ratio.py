"""Test and confidence sequence of the ratio of two rates, control's and a treatment's, from event counts alone.

Given an event, equal rates imply a known probability that it was the treatment's: the treatment's weight at that time. So the test needs
neither the number of requests nor a constant base rate, and estimates nothing. Source: Lindon and Malek (arXiv 2011.03567).

Arrays have epochs in the last axis, after any axes of metrics and arms.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.special import expit

from sundog_operator.core.stats import beta_binomial, root_finding
from sundog_operator.core.stats.beta_binomial import Numbers, Side

CONCENTRATIONS: Final = (2.0, 50.0)
"""Concentrations of the mixture's two halves: the first finds large effects fast, the second gives tight bounds on small ones."""

_FAR: Final = 35.0
"""Largest log ratio that is searched."""
_STEPS: Final = 80
_CLOSE: Final = 1e-9
_FIRST_MOVE: Final = 0.25
_MOVES: Final = 7
"""Most moves of the log ratio; each is twice as long as the one before."""


def log_e(
    control: Numbers,
    treatment: Numbers,
    weight: Numbers,
    ratio: float | Numbers,
    side: Side = "both",
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> Numbers:
    """Return log E against a ratio of the rates, the treatment's to control's.

    With a side, the null also has all ratios on the other side of `ratio`, and the ratio may vary over epochs within the null.

    Args:
        control: events of control, shape (..., epochs).
        treatment: events of the treatment, shape (..., epochs).
        weight: the treatment's share of the two arms' assignments in each epoch, in (0, 1); broadcasts to (..., epochs).
        ratio: the tested ratio, above 0; broadcasts to (...).
        side: the side of the alternatives.
        concentrations: those of the mixture's equal parts.

    Returns:
        Shape (...).
    """
    null = treatment_share(ratio, weight)
    k = np.asarray(concentrations, float).reshape(-1, *(1,) * np.broadcast(control, treatment, null).ndim)
    parts = beta_binomial.log_e(treatment, control, null, k * weight, k * (1 - weight), side).sum(-1)
    mean: Numbers = np.logaddexp.reduce(parts, axis=0) - math.log(len(concentrations))
    return mean


def treatment_share(ratio: float | Numbers, weight: Numbers) -> Numbers:
    """Return the treatment's share of both arms' events at a ratio of the rates, shape (..., epochs); arguments as for `log_e`."""
    found: Numbers = expit(np.log(np.asarray(ratio, float))[..., None] + _logit(weight))
    return found


def one_sided_interval(
    control: Numbers,
    treatment: Numbers,
    weight: Numbers,
    bar: Numbers,
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> tuple[Numbers, Numbers]:
    """Return (lower, upper), each of shape (...): the ratios at which the one-sided tests reach `bar`.

    So the upper end is at most a ratio exactly where `log_e` below that ratio is at least `bar`, and likewise for the lower end.
    Where no single ratio fits all epochs, the lower end may exceed the upper one. The other arguments are those of `log_e`, and the edge
    cases those of `interval_from_log_e`.
    """

    def end(side: Side) -> Numbers:
        def excess(log_ratio: Numbers) -> Numbers:
            return log_e(control, treatment, weight, np.exp(log_ratio), side, concentrations) - bar

        # Further outwards, this side's test rejects.
        outwards = 1.0 if side == "below" else -1.0
        inside, within = _bracket(excess, centre, -outwards, rejects=False)
        outside, beyond = _bracket(excess, centre, outwards, rejects=True)
        found = root_finding.find_crossings(excess, inside, outside, within, beyond)
        return np.exp(np.where((within < 0) & (beyond >= 0), found, outwards * np.inf))

    with np.errstate(all="ignore"):
        maximum_likelihood, _ = _maximize_likelihood(control, treatment, weight)
        centre = np.where((control.sum(-1) == 0) | (treatment.sum(-1) == 0), 0.0, maximum_likelihood)
        lower, upper = end("above"), end("below")
    return np.where(treatment.sum(-1) == 0, 0.0, lower), np.where(control.sum(-1) == 0, np.inf, upper)


def _bracket(
    excess: Callable[[Numbers], Numbers], start: Numbers, direction: float, *, rejects: bool
) -> tuple[Numbers, Numbers]:
    """Return points moved in a direction, in growing steps, and the excess there; each point stops once the test rejects it, or does
    not.
    """
    at, value, step = start, excess(start), _FIRST_MOVE
    for _ in range(_MOVES):
        short = (value >= 0) != rejects
        if not np.any(short):
            break
        at, step = np.where(short, at + direction * step, at), 2 * step
        value = excess(at)
    return at, value


def interval_from_log_e(
    against_equal: Numbers, control: Numbers, treatment: Numbers, weight: Numbers, bar: float | Numbers
) -> tuple[Numbers, Numbers]:
    """Return the ratios whose two-sided log E is below `bar`, as (lower, upper), each of shape (...).

    The lower end is 0 without events of the treatment. The upper end is infinite without events of control. Both ends are NaN where no
    ratio fits all epochs or a count is not a number. Log E against another ratio differs from that by the likelihoods alone.

    Args:
        against_equal: log E against equal rates, of any mixture of ratios, shape (...).
        control: events of control, shape (..., epochs).
        treatment: events of the treatment, same shape.
        weight: as for `log_e`.
        bar: log(1/α), times the dispersion where there is one.
    """
    with np.errstate(all="ignore"):
        rise = against_equal - _negative_log_likelihood(control, treatment, _logit(weight)) - bar
        centre, curvature = _maximize_likelihood(control, treatment, weight)
        least = rise + _negative_log_likelihood(control, treatment, centre[..., None] + _logit(weight))
        one_sided = (control.sum(-1) == 0) | (treatment.sum(-1) == 0)
        reach = np.where(one_sided, _FAR, np.sqrt(-2 * least / curvature))
        centre = np.where(one_sided, 0.0, centre)
        lower, upper = np.exp(
            _newton_roots(control, treatment, weight, rise, np.stack([centre - reach, centre + reach]))
        )
    return np.where(treatment.sum(-1) == 0, 0.0, lower), np.where(control.sum(-1) == 0, np.inf, upper)


def maximum_likelihood_ratio(control: Numbers, treatment: Numbers, weight: Numbers) -> Numbers:
    """Return the ratio of highest likelihood, of shape (...); NaN without events."""
    none = control.sum(-1) + treatment.sum(-1) == 0
    with np.errstate(all="ignore"):
        centre, _ = _maximize_likelihood(control, treatment, weight)
    ratio = np.where(treatment.sum(-1) == 0, 0.0, np.where(control.sum(-1) == 0, np.inf, np.exp(centre)))
    return np.where(none, np.nan, ratio)


def _maximize_likelihood(control: Numbers, treatment: Numbers, weight: Numbers) -> tuple[Numbers, Numbers]:
    """Return the log ratio of highest likelihood, and the observed information there; each of shape (...)."""
    events, offset = control + treatment, _logit(weight)
    centre = np.log((treatment.sum(-1) + 0.5) / ((control * np.exp(offset)).sum(-1) + 0.5))
    for _ in range(_STEPS):
        share = expit(centre[..., None] + offset)
        curvature = (events * share * (1 - share)).sum(-1)
        step = np.clip(((events * share).sum(-1) - treatment.sum(-1)) / curvature, -2.0, 2.0)
        centre = np.clip(centre - step, -_FAR, _FAR)
        if not np.any(np.abs(step) > 1e-3):
            break
    return centre, curvature


def _newton_roots(control: Numbers, treatment: Numbers, weight: Numbers, rise: Numbers, start: Numbers) -> Numbers:
    """Return the log ratios where `rise` plus the negative log likelihood is 0; starts of shape (ends, ...); NaN without a root.

    The negative log likelihood is convex in the log ratio. So from any point on one side of its minimum, Newton's first step ends beyond
    that side's root. Each further step comes closer without passing it.
    """
    log_ratio, step = start, np.full(np.shape(start), np.inf)
    events, offset = control + treatment, _logit(weight)
    for _ in range(_STEPS):
        odds = log_ratio[..., None] + offset
        slope = (events * expit(odds) - treatment).sum(-1)
        step = (rise + _negative_log_likelihood(control, treatment, odds)) / slope
        log_ratio = log_ratio - step
        if not np.any(np.abs(step) > _CLOSE):
            break
    return np.where(np.abs(step) <= _CLOSE, log_ratio, np.nan)


def _negative_log_likelihood(control: Numbers, treatment: Numbers, odds: Numbers) -> Numbers:
    """Return minus the log likelihood of the events' arms, given the log odds that an event is the treatment's."""
    found: Numbers = ((control + treatment) * np.logaddexp(0.0, odds) - treatment * odds).sum(-1)
    return found


def _logit(share: Numbers) -> Numbers:
    return np.log(share) - np.log1p(-share)
