"""Counts per block of ten seconds."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from sundog_operator.core.analysis.feedback import FeedbackSums as FeedbackSums
from sundog_operator.core.edge.reported_counts import (
    EVENTS,
)
from sundog_operator.core.kubernetes import names

BLOCK_S: Final = 10
BLOCK_LENGTHS: Final = (1, 3, 6)
"""Of the blocks whose sums are kept, in blocks of the edges."""
GRACE_S: Final = 5
"""Until a block is looked at after its end: for that long lines and reports are under way."""
MOST_IN_A_BLOCK: Final = 10**8
"""So that sums of squares stay within 64 bits for any rollout."""


class BlockCounts(NamedTuple):
    """Requests of one arm that came in ten seconds: of each of `EVENTS` how many, how many have ended, and how many still run."""

    errors: int = 0
    slow: int = 0
    rejections: int = 0
    retried: int = 0
    slow2: int = 0
    slow3: int = 0
    ended: int = 0
    running: int = 0

    def plus(self, other: Self) -> Self:
        """Both together."""
        return type(self)(*map(sum, zip(self, other, strict=True)))

    @property
    def requests(self) -> int:
        """All of them that are known of."""
        return self.ended + self.running


@dataclass(slots=True)
class Block:
    """Ten seconds of one epoch over all edges, by arm."""

    arms: dict[str, BlockCounts] = field(default_factory=dict)

    def add(self, arm: str, counts: BlockCounts) -> None:
        """Add one row's."""
        self.arms[arm] = self.of(arm).plus(counts)

    def of(self, arm: str) -> BlockCounts:
        """One arm's."""
        return self.arms.get(arm, BlockCounts())

    @property
    def running(self) -> int:
        """How many of its requests still run."""
        return sum(counts.running for counts in self.arms.values())

    def events(self, control: str = names.STABLE, arms: Sequence[str] = (names.CANARY,)) -> list[tuple[int, int]]:
        """(x, s) of each kind of event, of each arm that is compared with control."""
        beside = self.of(control)[: len(EVENTS)]
        return [(x, x + other) for arm in arms for x, other in zip(self.of(arm), beside, strict=False)]


BlocksByEpoch = Mapping[int, Mapping[int, Block]]
"""By epoch and number, which is Unix seconds by `BLOCK_S`."""


def sum_arm_counts(arm: str, blocks: Iterable[Block]) -> BlockCounts:
    """An arm's requests in all of these blocks."""
    return functools.reduce(BlockCounts.plus, (block.of(arm) for block in blocks), BlockCounts())
