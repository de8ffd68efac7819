"""Weights that move towards the better arm and leave what they lead to comparable: the mixture adaptive design.

A share δ of the units falls to all arms alike whatever seems better, the others by Thompson's rule: each arm by the probability that it is
the best. Constant weights in between are an epoch, each unit's propensity is known, and what is tested compares within epochs (`ratios`,
`contrasts`). Source: Liang and Bojinov (arXiv 2311.05794), with a δ that stays.

What an arm has had is taken for what its weight had it expect, not counted: then weights follow outcomes alone, and tell nothing of the
arm of a unit whose outcome is still to come. With that, E of a rate is exact under weights that follow the same rate, however late
outcomes come.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtr

from sundog_operator.core.stats import multiple_testing
from sundog_operator.core.stats.beta_binomial import Numbers
from sundog_operator.core.stats.mean_ratio import Integers
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeMetric

_NODES: Final = np.linspace(-6.0, 6.0, 241)
_MASSES: Final = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


class ArmEstimates(NamedTuple):
    """What each arm's outcome per unit is about, and the variance of that; shape (arms,)."""

    value: Numbers
    variance: Numbers


def estimate_arms(exposed: Numbers, shares: Numbers, events: Numbers, total: Numbers, squares: Numbers) -> ArmEstimates:
    """By inverse propensities: what an arm had, by the share of units with which it had it.

    Of an arm with few outcomes the variance is that of one more, a typical one: of none, nothing would seem known for sure.

    Args:
        exposed: units of all arms, shape (epochs,).
        shares: of the arms, of sum 1, shape (epochs, arms); 0 where an arm was out.
        events: units with an outcome, same shape.
        total: Σy over units, same shape.
        squares: Σy², same shape.
    """
    there = shares > 0
    share = np.where(there, shares, 1.0)
    units = np.maximum((exposed[:, None] * there).sum(0), 1.0)
    value = np.where(there, total / share, 0.0).sum(0) / units
    spread = np.where(there, squares / share**2, 0.0).sum(0)
    one_more = squares.sum() / max(float(events.sum()), 1.0) / share.min(0) ** 2
    return ArmEstimates(value, (spread + one_more) / units**2)


def probability_best(known: ArmEstimates, sign: int) -> Numbers:
    """The probability of each arm to have the highest value (of a sign of −1, the lowest), of independent normal ones; shape (arms,).

    By quadrature over each arm's own value, so that the same counts always give the same weights: nothing is drawn.
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


def mix_shares(best: Numbers, floor: float, delta: float) -> Numbers:
    """Shares of sum 1: δ for all alike, the rest by the probability to be the best; none below the floor, nor the floor above equality."""
    arms = best.size
    alike = delta / arms
    lift = max(0.0, (min(floor, 1 / arms) - alike) / (1 - delta))
    return alike + (1 - delta) * multiple_testing.floor_weights(best, lift)


def round_shares(shares: Sequence[float], whole: int) -> list[int]:
    """Shares of any sum above 0 in whole parts of sum `whole`: what is left by rounding down goes to those that lost the most by it."""
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
    """Shares of sum 1 after what was seen of a metric, 0 for arms that are out; None while an arm can expect fewer than `least` units.

    Args:
        metric: that they follow.
        outcomes: of it, by epoch and arm.
        shares: in force in each epoch, by arm; of any sum above 0.
        out: whether each arm has dropped out.
        floor: the least share of one that has not.
        delta: the share that falls to all of those alike.
        least: as above.
    """
    held = np.flatnonzero(~np.asarray(out, bool))
    counts = np.array(outcomes, object).transpose(2, 0, 1)
    given = np.array(shares, float)
    given = given / given.sum(-1, keepdims=True)
    exposed = np.asarray(counts[0].sum(-1), float)
    if not held.size or ((exposed[:, None] * given).sum(0)[held] < least).any():
        return None
    events, total, squares = (np.asarray(part, float) for part in _parts(metric, counts))
    known = estimate_arms(exposed, given, events, total, squares)
    found = np.zeros(len(out))
    found[held] = mix_shares(probability_best(ArmEstimates(*(part[held] for part in known)), metric.sign), floor, delta)
    return [float(each) for each in found]


def _parts(metric: OutcomeMetric, counts: Integers) -> tuple[Integers, Integers, Integers]:
    """Units with an outcome, Σy and Σy², given the fields of `Outcomes`."""
    _, units, positive, total, squares = counts
    return (positive, positive, positive) if metric.type == "rate" else (units, total, squares)
