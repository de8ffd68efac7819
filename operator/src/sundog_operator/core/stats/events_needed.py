"""Number of events that a decision needs."""

import numpy as np
from scipy.special import expit, rel_entr

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers, Side

_MOST_EVENTS = 1e12
_STEPS = 4
"""Iterations; each leaves a tenth of the error or less."""


def events_needed(ratio: Numbers, boundary: Numbers, weight: Numbers, bar: Numbers, side: Side) -> Numbers:
    """Return the events of both arms at which their expected split is enough evidence; infinite for never.

    The number is typical: about half of all runs need more. Shape as the arguments broadcast. The test is that of `count_ratio`.

    Args:
        ratio: the true ratio of the rates, the treatment's to control's.
        boundary: the tested ratio.
        weight: the treatment's share of the two arms' assignments.
        bar: the log E of a rejection.
        side: the side of the boundary with the alternatives.
    """
    ratio, boundary, weight, bar = np.broadcast_arrays(
        *(np.asarray(each, float) for each in (ratio, boundary, weight, bar))
    )
    share = expit(np.log(ratio) + np.log(weight) - np.log1p(-weight))
    null = expit(np.log(boundary) + np.log(weight) - np.log1p(-weight))
    # Long-run evidence per event (Kullback-Leibler divergence); the mixture's cost is only logarithmic in the events.
    worth = rel_entr(share, null) + rel_entr(1 - share, 1 - null)
    never = ((side == "above") != (ratio > boundary)) | ~(worth * _MOST_EVENTS > bar)
    worth = np.where(never, 1.0, worth)
    events = bar / worth
    for _ in range(_STEPS):
        split = events[..., None] * (1 - share[..., None]), events[..., None] * share[..., None]
        missing = bar - count_ratio.log_e(*split, weight[..., None], boundary, side)
        # The mixture costs half the logarithm of the events, so an event adds a little less while there are few.
        slope = np.maximum(worth - 0.5 / events, worth / 2)
        events = np.clip(events + missing / slope, 1.0, _MOST_EVENTS)
    return np.where(never, np.inf, events)
