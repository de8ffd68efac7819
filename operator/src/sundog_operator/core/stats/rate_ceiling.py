"""Whether the rate of one arm is below a ceiling, whatever the other arm's is."""

from collections.abc import Sequence

import numpy as np

from sundog_operator.core.stats import dispersion, multiple_testing, proportion
from sundog_operator.core.stats.dispersion import BlockMoments


def is_below(
    hits: int, trials: int, blocks: Sequence[Sequence[int]], ceiling: float, alpha: float, design_effect: float = 1.0
) -> bool:
    """Whether it is known at every look that a rate is at most `ceiling`. Events that come together count as one.

    Args:
        hits: the arm's events.
        trials: its requests.
        blocks: how the events of both arms vary with time, the six numbers of `dispersion.Blocks` for each length.
        ceiling: a share in (0, 1).
        alpha: the probability of being wrong about a rate above it.
        design_effect: what requests are worth less than independent ones, where those of a unit may all end alike.
    """
    lengths = [BlockMoments(*(np.array([part], float) for part in length)) for length in blocks]
    # Against a share of 0 what varies is the candidate's events alone.
    phi = np.maximum(dispersion.dispersion_factor(lengths, np.zeros(1)), design_effect)
    told = proportion.log_e(
        np.array(float(hits)),
        np.array(float(trials)),
        np.array(ceiling),
        proportion.optimum_for_rate(ceiling),
        2 * alpha,
        "below",
    )
    return bool(told / phi >= multiple_testing.log_e_threshold(alpha))
