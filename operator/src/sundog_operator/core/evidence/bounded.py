"""The mean of values in [0, 1], by intervals that hold at every look and need neither many values nor a mean that is nearly normal.

One is for values in their order, as a log has them; the other for counts of batches, which can be added.
"""

import math
from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammainc, gammaln

from sundog_operator.core.evidence import binary
from sundog_operator.core.evidence.binary import Numbers

_MIDDLE: Final = 0.5
_SPREAD: Final = 0.25
"""Mean and variance that are taken for known before the first value."""
_BOLDEST: Final = 0.5
_CLOSEST: Final = 1e-9


def in_order(values: Numbers, alpha: float) -> tuple[Numbers, Numbers]:
    """After each value the bounds of the mean, as (lower, upper) in [0, 1], of the shape of `values`: its last axis is the order.

    All of them hold at once with a probability of at least 1 − α. Source: Waudby-Smith and Ramdas (arXiv 2010.09686), theorem 2.
    """
    values = np.asarray(values, float)
    number = np.arange(1, values.shape[-1] + 1)
    mean = (_MIDDLE + values.cumsum(-1)) / (number + 1)
    variance = (_SPREAD + ((values - mean) ** 2).cumsum(-1)) / (number + 1)
    bet = np.minimum(
        np.sqrt(2 * math.log(2 / alpha) / (_before(variance, _SPREAD) * number * np.log1p(number))), _BOLDEST
    )
    surprise = (values - _before(mean, _MIDDLE)) ** 2 * (-np.log1p(-bet) - bet)
    total = bet.cumsum(-1)
    centre = (bet * values).cumsum(-1) / total
    reach = (math.log(2 / alpha) + surprise.cumsum(-1)) / total
    return np.maximum(centre - reach, 0.0), np.minimum(centre + reach, 1.0)


def _before(values: Numbers, first: float) -> Numbers:
    """Of each the one before."""
    return np.concatenate([np.full((*values.shape[:-1], 1), first), values[..., :-1]], -1)


def intrinsic_time(count: Numbers, total: Numbers, squares: Numbers) -> float:
    """V of batches in their order, by their counts: Σ(x − μ̂)² with the mean μ̂ of all batches before, ½ before the first.

    Args:
        count: values of each batch, shape (batches,).
        total: Σx of each, same shape.
        squares: Σx² of each, same shape.
    """
    so_far = count.cumsum(), total.cumsum()
    mean = _before(np.divide(so_far[1], so_far[0], out=np.full(len(count), _MIDDLE), where=so_far[0] > 0), _MIDDLE)
    return float((squares - 2 * mean * total + count * mean**2).sum())


def log_e_above(total: float, time: float, optimum: float, scale: float, alpha: float) -> float:
    """Log E against "no step of the sum is expected to be above 0", by the gamma-exponential mixture.

    Args:
        total: the sum of steps, 0 or more.
        time: intrinsic time, V.
        optimum: V at which it is to be tightest.
        scale: of the mixture, 1 for values in [0, 1].
        alpha: level at which it is to be tightest.

    Source: Howard et al. (arXiv 1810.08240), proposition 9.
    """
    precision = float(binary.tightest(optimum, 2 * alpha))
    prior, steps, weight = (each / scale**2 for each in (precision, scale * total + time, time + precision))
    before = prior * math.log(prior) - gammaln(prior) - math.log(gammainc(prior, prior))
    after = gammaln(weight) + math.log(gammainc(weight, steps + prior)) - weight * math.log(steps + prior)
    return float(before + after + steps)


def distance(time: float, count: float, optimum: float, alpha: float) -> float:
    """From the mean of `count` values in [0, 1] to its bound on one side, at level α; at most 1.

    Args:
        time: `intrinsic_time` of the values.
        count: how many there are, above 0.
        optimum: intrinsic time at which it is to be tightest.
        alpha: error of that side.
    """

    def excess(total: float) -> float:
        return log_e_above(total, time, optimum, 1.0, alpha) - math.log(1 / alpha)

    return 1.0 if excess(count) < 0 else float(brentq(excess, _CLOSEST, count)) / count
