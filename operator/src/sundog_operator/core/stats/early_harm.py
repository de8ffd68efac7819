"""Test for harm in a treatment's first blocks, before the dispersion of its failures is known.

One stalled replica fails many requests together. A stall of one minute touches seven blocks of ten seconds. So the test drops the seven
blocks with the most evidence against the treatment. It treats the failures in the other blocks as independent, against "within the margin".
If stalls touch at most seven blocks, the evidence left is no larger than that of the untouched blocks. So the probability that log E ever
reaches log(1/α) is at most α.

The log likelihood ratio of one alternative adds up over blocks, whatever their weights. It is that of `count_ratio` with a mixture of one
ratio. Sources: Lindon and Malek (arXiv 2011.03567) for the likelihood, Ville for the bound at every evaluation.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats import count_ratio
from sundog_operator.core.stats.beta_binomial import Numbers

MAX_BLOCKS: Final = 22
"""Number of the treatment's first blocks that are tested: until the usual test has its 12 to 14 blocks, after a warm-up of one minute."""

BLOCKS_LEFT_OUT: Final = 7
"""Blocks that a stall of a minute touches."""

DEAD_BLOCKS: Final = BLOCKS_LEFT_OUT + 3
"""Blocks in a row in which a treatment fails outright until it is dead: three more than a stall of a minute touches."""

_DEAD_FAILURES: Final = 20
_DEAD_SHARE: Final = 0.5
_FINE_SHARE: Final = 0.1

_TIMES: Final = 5.0
"""Ratio to control's rate of the alternative. Far higher ratios are found as fast; ratios below three are left to the usual test."""

_BEYOND_MARGIN: Final = 2.0
"""Least ratio of the alternative to the margin's limit."""


def fails_outright(
    failed: Numbers | int, requests: Numbers | int, control_failed: Numbers | int, control_ended: Numbers | int
) -> NDArray[np.bool_]:
    """Return whether a treatment fails most requests of a block while control does not. This is a rule, and no test.

    Args:
        failed: the treatment's failures.
        requests: its requests, also those that still run: failures are often quicker than answers.
        control_failed: control's failures.
        control_ended: control's requests that have ended.
    """
    found: NDArray[np.bool_] = (
        (np.asarray(failed) >= _DEAD_FAILURES)
        & (np.asarray(failed) > _DEAD_SHARE * requests)
        & (np.asarray(control_failed) < _FINE_SHARE * control_ended)
    )
    return found


def log_likelihood_ratio(control: Numbers, treatment: Numbers, weight: float | Numbers, margin: float) -> Numbers:
    """Return the log likelihood of a high failure ratio minus that of the largest ratio within the margin, of shape (..., blocks).

    Args:
        control: control's events, shape (..., blocks).
        treatment: the treatment's events, same shape.
        weight: the treatment's share of the two arms' assignments, in (0, 1); broadcasts.
        margin: the share of additional events that the treatment may have.
    """
    weights = np.asarray(weight, float)
    null, other = (
        count_ratio.treatment_share(times, weights)
        for times in (1 + margin, max(_TIMES, _BEYOND_MARGIN * (1 + margin)))
    )
    found: Numbers = treatment * np.log(other / null) + control * np.log((1 - other) / (1 - null))
    return found


def log_e(log_ratios: Numbers) -> Numbers:
    """Return log E without the `BLOCKS_LEFT_OUT` largest of the blocks in the last axis, shape (...); 0 where no block is left."""
    kept = max(0, log_ratios.shape[-1] - BLOCKS_LEFT_OUT)
    found: Numbers = np.sort(log_ratios, axis=-1)[..., :kept].sum(-1)
    return found


def pooled_log_e(epochs: Sequence[tuple[float, Sequence[int], Sequence[int]]], margin: float) -> float:
    """Return log E of blocks that several epochs share.

    Args:
        epochs: for each epoch the treatment's weight, and by block the events of control and of the treatment.
        margin: the share of additional events that the treatment may have.
    """
    found = [
        log_likelihood_ratio(np.array(control, float), np.array(treatment, float), weight, margin)
        for weight, control, treatment in epochs
    ]
    return float(log_e(np.sum(found, axis=0)))


def counts_log_e(weight: float, control: int, treatment: int, margin: float) -> float:
    """Return log E of independent events of control and of the treatment; arguments as of `log_likelihood_ratio`."""
    return float(log_likelihood_ratio(np.array([control], float), np.array([treatment], float), weight, margin)[0])
