"""Adaptive allocation of units to arms, with valid inference: the mixture adaptive design.

A share δ of the units goes to all arms evenly. The rest follows Thompson sampling: each arm gets its probability to be the best. Weights
are constant within an epoch, so each unit's propensity is known, and tests compare arms within epochs (`pooled_count_ratio`, `mean_ratio`).
Source: Liang and Bojinov (arXiv 2311.05794), with a constant δ.

An arm's number of units is taken as the number that its weight implies, not as counted. So weights depend on outcomes alone, and carry no
information about the arm of a unit whose outcome is still to come. With that, E of a rate is exact under such weights, however late
outcomes come.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtr

from sundog_operator.core.stats import multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeMetric

_NODES: Final = np.linspace(-6.0, 6.0, 241)
_MASSES: Final = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


class ArmEstimates(NamedTuple):
    """Mean outcome per unit of each arm, and the variance of that estimate; each of shape (arms,)."""

    value: Numbers
    variance: Numbers


def estimate_arms(exposed: Numbers, shares: Numbers, events: Numbers, total: Numbers, squares: Numbers) -> ArmEstimates:
    """Estimate each arm's mean outcome by inverse propensity weighting.

    The variance includes one more typical outcome, so that an arm without outcomes does not seem certain.

    Args:
        exposed: units of all arms, shape (epochs,).
        shares: the arms' shares, of sum 1, shape (epochs, arms); 0 where an arm was dropped.
        events: units with an outcome, same shape as `shares`.
        total: Σy over units, same shape.
        squares: Σy² over units, same shape.
    """
    there = shares > 0
    units = np.maximum((exposed[:, None] * there).sum(0), 1.0)
    return ArmEstimates(_weigh(total, shares) / units, _variance(shares, events, squares) / units**2)


def estimate_ratios(
    shares: Numbers,
    events: Numbers,
    numerator: Numbers,
    denominator: Numbers,
    moments: tuple[Numbers, Numbers, Numbers],
) -> ArmEstimates:
    """Estimate each arm's ratio of sums, both weighted by inverse propensity; NaN for an arm without a denominator.

    The variance is that of units' linearised values, see `mean_ratio`, with one more typical outcome.

    Args:
        shares: the arms' shares, of sum 1, shape (epochs, arms); 0 where an arm was dropped.
        events: units with an outcome, same shape as `shares`, as all that follow.
        numerator: Σs over units.
        denominator: Σn over units.
        moments: Σs², Σn² and Σs·n over units.
    """
    squares, other_squares, product = moments
    base = _weigh(denominator, shares)
    with np.errstate(all="ignore"):
        ratio = _weigh(numerator, shares) / base
        residuals = np.maximum(squares - 2 * ratio * product + ratio**2 * other_squares, 0.0)
        return ArmEstimates(ratio, _variance(shares, events, residuals) / base**2)


def _weigh(total: Numbers, shares: Numbers) -> Numbers:
    """Return the sums over epochs of totals by inverse propensity, shape (arms,)."""
    there = shares > 0
    found: Numbers = np.where(there, total / np.where(there, shares, 1.0), 0.0).sum(0)
    return found


def _variance(shares: Numbers, events: Numbers, squares: Numbers) -> Numbers:
    """Return the variance of such a sum, with one more typical outcome."""
    share = np.where(shares > 0, shares, 1.0)
    one_more = squares.sum() / max(float(events.sum()), 1.0) / share.min(0) ** 2
    found: Numbers = _weigh(squares, shares**2) + one_more
    return found


def probability_best(known: ArmEstimates, sign: int) -> Numbers:
    """Return each arm's probability of the highest value, or of the lowest with a sign of −1; shape (arms,).

    Values are independent and normal. The integral over each arm's own value is numerical quadrature: the same counts always give the same
    weights, without random draws.
    """
    value, error = sign * known.value, np.sqrt(known.variance)
    if not (error > 0).all():
        return np.full(value.shape, 1 / value.size)
    own = value[:, None] + error[:, None] * _NODES
    below = ndtr((own[:, None, :] - value[:, None]) / error[:, None])
    np.einsum("iin->in", below)[:] = 1.0
    chance = (below.prod(1) * _MASSES).sum(-1)
    found: Numbers = chance / chance.sum()
    return found


def chances_to_be_best(values: Sequence[float], variances: Sequence[float], sign: int) -> list[float]:
    """Return `probability_best` of plain numbers, each arm's value and the variance of its estimate."""
    known = ArmEstimates(np.array(values, float), np.array(variances, float))
    return [float(each) for each in probability_best(known, sign)]


def mix_shares(best: Numbers, floor: float, delta: float) -> Numbers:
    """Return shares of sum 1: δ spread evenly, the rest by the probability to be the best, none below the floor.

    The floor is at most an equal share.
    """
    arms = best.size
    alike = delta / arms
    lift = max(0.0, (min(floor, 1 / arms) - alike) / (1 - delta))
    return alike + (1 - delta) * multiple_testing.floor_weights(best, lift)


def round_shares(shares: Sequence[float], whole: int) -> list[int]:
    """Return whole parts of sum `whole` for shares of any positive sum, by largest remainders."""
    exact = np.asarray(shares, float) / np.sum(shares) * whole
    parts = np.floor(exact).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: whole - int(parts.sum())]] += 1
    return [int(each) for each in parts]


def next_shares(
    metric: OutcomeMetric,
    outcomes: Sequence[Sequence[OutcomeCounts]],
    shares: Sequence[Sequence[float]],
    out: Sequence[bool],
    *,
    floor: float,
    delta: float,
    least: int,
) -> list[float] | None:
    """Return the next shares of sum 1, 0 for dropped arms; None while any arm's expected number of units is below `least`.

    Args:
        metric: the metric that shares follow.
        outcomes: its outcomes by epoch and arm.
        shares: the shares in force by epoch and arm, of any positive sum.
        out: whether each arm was dropped.
        floor: the least share of an arm that was not dropped.
        delta: the share that is spread evenly.
        least: the least expected number of units of an arm.
    """
    active = np.flatnonzero(~np.asarray(out, bool))
    counts = np.array(outcomes, object).transpose(2, 0, 1)
    given = np.array(shares, float)
    given = given / given.sum(-1, keepdims=True)
    exposed = np.asarray(counts[0].sum(-1), float)
    if not active.size or ((exposed[:, None] * given).sum(0)[active] < least).any():
        return None
    known = _estimate(metric, exposed, given, np.asarray(counts, float))
    found = np.zeros(len(out))
    found[active] = mix_shares(
        probability_best(ArmEstimates(*(part[active] for part in known)), metric.sign), floor, delta
    )
    return [float(each) for each in found]


def _estimate(metric: OutcomeMetric, exposed: Numbers, shares: Numbers, counts: Numbers) -> ArmEstimates:
    """Return each arm's estimate; `counts` are the fields of `OutcomeCounts`, shape (fields, epochs, arms)."""
    _, units, positive, total, squares, other_units, denominator, other_squares, product = counts
    if metric.type == "ratio":
        events, moments = np.maximum(units, other_units), (squares, other_squares, product)
        return estimate_ratios(shares, events, total, denominator, moments)
    events, total, squares = (positive, positive, positive) if metric.type == "rate" else (units, total, squares)
    return estimate_arms(exposed, shares, events, total, squares)
