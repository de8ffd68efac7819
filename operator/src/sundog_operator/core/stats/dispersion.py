"""How much more counts vary from block to block than chance would have it.

Requests are assigned at random, replicas are not: a stall of one arm's replica fails many requests at once, which no random assignment
explains. Evidence is divided by how many events come together, so that a stall counts as about one.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sundog_operator.core.stats.beta_binomial import Numbers

LENGTHS_S: Final = (10, 30, 60)
"""Of blocks. The shortest sees a stall as it is, the longer ones what would be several in a row of it."""

MIN_BLOCKS: Final = 12
"""Of the shortest, closed, before anything is decided."""

MIN_CLOSED_BLOCKS: Final = 4
"""Before blocks of a length say anything of how they vary."""

_FEW: Final = 4.0
"""Few clusters tell their size badly, and tend to tell it too small: with k of them, what is above 1 counts 1 + 4/k times.

By simulation: without it replicas that stall for 20 s six times an hour had a candidate like control rolled back in 6 % of hours, with it
in 3.3 %, and one that is truly worse is found as soon.
"""


class BlockMoments(NamedTuple):
    """Sums over closed blocks of one length, added over edges before they were squared; each of shape (..., epochs).

    Attributes:
        closed: how many blocks, those without events too.
        candidate: Σx, the candidate's events.
        both: Σs, those of both arms.
        candidate_squares: Σx².
        product: Σxs.
        both_squares: Σs².
    """

    closed: Numbers
    candidate: Numbers
    both: Numbers
    candidate_squares: Numbers
    product: Numbers
    both_squares: Numbers


def has_enough_blocks(closed: Sequence[Numbers | int]) -> NDArray[np.bool_]:
    """Whether so many closed blocks, of each length and the shortest first, tell how events come together.

    Twelve of the shortest may have four of the next length in them, or three: with three, bursts of 10 s alone would be known.
    """
    least = (MIN_BLOCKS, MIN_CLOSED_BLOCKS)
    known = [np.asarray(found) >= wanted for found, wanted in zip(closed, least, strict=False)]
    return np.logical_and.reduce(known) if known else np.zeros((), bool)


def dispersion_factor(lengths: Iterable[BlockMoments], null: Numbers) -> Numbers:
    """φ ≥ 1, by which log E is divided: the largest of the dispersions over blocks of several lengths, of shape (...).

    Of one length it is the index of dispersion of what the test adds up in a block, x − θ₀s: its variance over blocks, by that of Poisson
    counts with the arms' own means, Σx(1 − θ₀)² + Σ(s − x)θ₀². To take Pearson's residuals x − θ̂s instead would see no stall at all: where
    only the candidate's replica ever fails, θ̂ is 1, and they are all 0.

    Args:
        lengths: what was counted, for each length of blocks.
        null: θ₀, the candidate's share of events that is tested, shape (..., epochs).
    """
    sums = np.array(list(lengths))
    return _of(BlockMoments(*np.moveaxis(sums, 1, 0)), null).max(0) if sums.size else np.ones(null.shape[:-1])


def inflate_for_few_clusters(index: Numbers, clusters: Numbers) -> Numbers:
    """An index of dispersion that so many clusters told, for what it may be beyond that; 1 where it is less."""
    return 1 + np.maximum(index - 1, 0.0) * (1 + _FEW / np.maximum(clusters, 1.0))


def _of(blocks: BlockMoments, null: Numbers) -> Numbers:
    with np.errstate(all="ignore"):
        whole = blocks.candidate - null * blocks.both
        squares = blocks.candidate_squares - 2 * null * blocks.product + null**2 * blocks.both_squares
        closed = np.maximum(blocks.closed, 1.0)
        spread = (squares - whole**2 / closed).sum(-1)
        chance = blocks.candidate * (1 - null) ** 2 + (blocks.both - blocks.candidate) * null**2
        index = spread / (chance * (closed - 1) / closed).sum(-1)
        clusters = blocks.both.sum(-1) ** 2 / blocks.both_squares.sum(-1)
        found = inflate_for_few_clusters(index, clusters)
    said = (blocks.closed.sum(-1) >= MIN_CLOSED_BLOCKS) & np.isfinite(found)
    return np.where(said, found, 1.0)
