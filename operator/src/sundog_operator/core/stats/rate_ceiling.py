"""Test of one arm's rate against a ceiling, whatever the other arm's rate is."""

from collections.abc import Sequence

import numpy as np

from sundog_operator.core.stats import dispersion, multiple_testing, proportion
from sundog_operator.core.stats.dispersion import BlockMoments


def is_below(
    hits: int, trials: int, blocks: Sequence[Sequence[int]], ceiling: float, alpha: float, design_effect: float = 1.0
) -> bool:
    """Return whether a rate is known to be at most `ceiling`, at every evaluation.

    The test is the one-sided beta-binomial mixture of `proportion`. Its log E is divided by the dispersion: a burst counts as about one
    event.

    Args:
        hits: the arm's events.
        trials: the arm's requests.
        blocks: for each block length, the six numbers of `dispersion.BlockMoments` over both arms.
        ceiling: a share in (0, 1).
        alpha: the probability of passing a rate above the ceiling.
        design_effect: at least 1; larger where the requests of a unit correlate.
    """
    lengths = [BlockMoments(*(np.array([part], float) for part in length)) for length in blocks]
    # With a tested share of 0, phi is the dispersion of the treatment's events alone.
    phi = np.maximum(dispersion.dispersion_factor(lengths, np.zeros(1)), design_effect)
    evidence = proportion.log_e(
        np.array(float(hits)),
        np.array(float(trials)),
        np.array(ceiling),
        proportion.optimum_for_rate(ceiling),
        2 * alpha,
        "below",
    )
    return bool(evidence / phi >= multiple_testing.log_e_threshold(alpha))
