"""Overdispersion: how much more counts vary from block to block than independent events do.

Requests are assigned at random, replicas are not. One stalled replica of an arm fails many requests at once, which random assignment does
not explain. So log E is divided by the dispersion, and a burst counts as about one event.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers

LENGTHS_S: Final = (10, 30, 60)
"""Lengths of blocks in seconds. The shortest measures single stalls; the longer ones measure stalls that would span several short
blocks.
"""

MIN_BLOCKS: Final = 12
"""Closed blocks of the shortest length that any decision needs."""

MIN_CLOSED_BLOCKS: Final = 4
"""Closed blocks of a length that its dispersion needs."""

_FEW: Final = 4.0
"""With k clusters, the excess of an index above 1 is multiplied by 1 + 4/k, because few clusters tend to underestimate it.

By simulation, with replicas that stall for 20 s six times an hour: without this factor, a canary equal to control was rolled back in 6 % of
hours, and with it in 3.3 %. A canary that is truly worse is found as fast.
"""

_FEW_OF_TREATMENT: Final = 8.0
"""The same for harm, with the treatment's own clusters: where control has many bursts and the treatment few, few decide.

By simulation, with four replicas of stable, stalls of 20 to 60 s six times an hour, and steps from 1 % on: without this factor, a canary
equal to control was rolled back in 10.7 % of two hours, with 4 in 5.0 %, with 8 in 3.0 %, and with 16 in 1.7 %. Where failures are
independent, the excess above 1 is chance: a canary with five times the errors is found 7 % later with 8, and 14 % later with 16.
"""


class BlockMoments(NamedTuple):
    """Sums over closed blocks of one length, each of shape (..., epochs). Counts of edges are added before they are squared.

    Attributes:
        closed: number of blocks, with or without events.
        treatment: Σx, the treatment's events.
        both: Σs, both arms' events.
        treatment_squares: Σx².
        product: Σxs.
        both_squares: Σs².
    """

    closed: Numbers
    treatment: Numbers
    both: Numbers
    treatment_squares: Numbers
    product: Numbers
    both_squares: Numbers


def has_enough_blocks(closed: Sequence[Numbers | int]) -> NDArray[np.bool_]:
    """Return whether enough blocks are closed to measure the dispersion; counts are by length, the shortest first.

    Twelve of the shortest blocks contain three or four of the next length. Three would measure bursts of 10 s alone.
    """
    least = (MIN_BLOCKS, MIN_CLOSED_BLOCKS)
    enough = [np.asarray(found) >= wanted for found, wanted in zip(closed, least, strict=False)]
    return np.logical_and.reduce(enough) if enough else np.zeros((), bool)


def dispersion_factor(lengths: Iterable[BlockMoments], null: Numbers, *, of_harm: bool = False) -> Numbers:
    """Return φ ≥ 1, by which log E is divided, of shape (...): the largest index of dispersion over the block lengths.

    For one length, it is the index of dispersion of the test's sum in a block, x − θ₀s. It is the variance over blocks, divided by that of
    Poisson counts with the arms' own means: Σx(1 − θ₀)² + Σ(s − x)θ₀². Pearson's residuals x − θ̂s would hide stalls: where only the
    treatment's replica fails, θ̂ is 1, and all residuals are 0.

    Args:
        lengths: sums over the blocks of each length.
        null: θ₀, the treatment's share of events that is tested, shape (..., epochs).
        of_harm: whether log E is evidence against the treatment.
    """
    sums = np.array(list(lengths))
    if not sums.size:
        return np.ones(null.shape[:-1])
    found: Numbers = _index(BlockMoments(*np.moveaxis(sums, 1, 0)), null, of_harm=of_harm).max(0)
    return found


def inflate_for_few_clusters(index: Numbers, clusters: Numbers, few: float = _FEW) -> Numbers:
    """Return an index of dispersion, corrected for the number of clusters that it was measured by; at least 1."""
    return 1 + np.maximum(index - 1, 0.0) * (1 + few / np.maximum(clusters, 1.0))


def _index(blocks: BlockMoments, null: Numbers, *, of_harm: bool) -> Numbers:
    """Return the corrected index of dispersion over blocks of one length, of shape (...); 1 where too few blocks are closed."""
    with np.errstate(all="ignore"):
        whole = blocks.treatment - null * blocks.both
        squares = blocks.treatment_squares - 2 * null * blocks.product + null**2 * blocks.both_squares
        closed = np.maximum(blocks.closed, 1.0)
        observed = (squares - whole**2 / closed).sum(-1)
        chance = blocks.treatment * (1 - null) ** 2 + (blocks.both - blocks.treatment) * null**2
        index = observed / (chance * (closed - 1) / closed).sum(-1)
        clusters = blocks.both.sum(-1) ** 2 / blocks.both_squares.sum(-1)
        found = inflate_for_few_clusters(index, clusters)
        if of_harm:
            own = blocks.treatment.sum(-1) ** 2 / blocks.treatment_squares.sum(-1)
            found = np.fmax(found, inflate_for_few_clusters(index, own, _FEW_OF_TREATMENT))
    is_known = (blocks.closed.sum(-1) >= MIN_CLOSED_BLOCKS) & np.isfinite(found)
    return np.where(is_known, found, 1.0)
