"""How many events a decision will take."""

import numpy as np
from scipy.special import expit, rel_entr

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers, Side

_MOST_EVENTS = 1e12
_STEPS = 4
"""Of which each leaves a tenth of the error, or less."""


def events_needed(ratio: Numbers, boundary: Numbers, weight: Numbers, bar: Numbers, side: Side) -> Numbers:
    """Events of both arms at which the expected split of them is evidence enough; infinite where it never is.

    Typical, not certain: about half of all runs need more. Arguments broadcast.

    Args:
        ratio: of the rates as it is, the candidate's to control's.
        boundary: the ratio that is tested.
        weight: the candidate's share of the two arms' assignments.
        bar: what log E has to reach.
        side: of the boundary on which the alternatives are.
    """
    ratio, boundary, weight, bar = np.broadcast_arrays(
        *(np.asarray(each, float) for each in (ratio, boundary, weight, bar))
    )
    share = expit(np.log(ratio) + np.log(weight) - np.log1p(-weight))
    null = expit(np.log(boundary) + np.log(weight) - np.log1p(-weight))
    # What an event is worth in the long run; what the mixture costs grows with their logarithm only.
    worth = rel_entr(share, null) + rel_entr(1 - share, 1 - null)
    never = ((side == "above") != (ratio > boundary)) | ~(worth * _MOST_EVENTS > bar)
    worth = np.where(never, 1.0, worth)
    events = bar / worth
    for _ in range(_STEPS):
        split = events[..., None] * (1 - share[..., None]), events[..., None] * share[..., None]
        missing = bar - count_ratio.log_e(*split, weight[..., None], boundary, side)
        # An event is worth a little less as long as there are few: the mixture costs half the logarithm of their number.
        slope = np.maximum(worth - 0.5 / events, worth / 2)
        events = np.clip(events + missing / slope, 1.0, _MOST_EVENTS)
    return np.where(never, np.inf, events)
