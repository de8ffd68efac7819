"""Counts per block of ten seconds."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from sundog_operator.core.edge.reported_counts import (
    EVENTS,
)
from sundog_operator.core.kubernetes import names

BLOCK_S: Final = 10
BLOCK_LENGTHS: Final = (1, 3, 6)
"""Lengths of blocks whose sums are kept, in edge blocks."""
GRACE_S: Final = 5
"""Delay before a block is read after its end, because log lines and reports are still under way."""
MOST_IN_A_BLOCK: Final = 10**8
"""Limit that keeps sums of squares within 64 bits."""


class BlockCounts(NamedTuple):
    """Requests of one arm that arrived in ten seconds: the count of each of `EVENTS`, the ended ones, and the running ones."""

    errors: int = 0
    slow: int = 0
    rejections: int = 0
    retried: int = 0
    slow2: int = 0
    slow3: int = 0
    ended: int = 0
    running: int = 0

    def plus(self, other: Self) -> Self:
        """Return the sum of both."""
        return type(self)(*map(sum, zip(self, other, strict=True)))

    @property
    def requests(self) -> int:
        """Return all known requests."""
        return self.ended + self.running


@dataclass(slots=True)
class Block:
    """Ten seconds of one epoch, summed over all edges, by arm."""

    arms: dict[str, BlockCounts] = field(default_factory=dict)

    def add(self, arm: str, counts: BlockCounts) -> None:
        """Add the counts of one row."""
        self.arms[arm] = self.of(arm).plus(counts)

    def of(self, arm: str) -> BlockCounts:
        """Return the counts of one arm."""
        return self.arms.get(arm, BlockCounts())

    @property
    def running(self) -> int:
        """Return how many of its requests still run."""
        return sum(counts.running for counts in self.arms.values())

    def events(self, control: str = names.STABLE, arms: Sequence[str] = (names.CANARY,)) -> list[tuple[int, int]]:
        """Return (x, s) of each kind of event for each arm compared with control: its events, and those of both."""
        beside = self.of(control)[: len(EVENTS)]
        return [(x, x + other) for arm in arms for x, other in zip(self.of(arm), beside, strict=False)]


BlocksByEpoch = Mapping[int, Mapping[int, Block]]
"""Blocks by epoch and number; the number is Unix seconds / `BLOCK_S`."""


def sum_arm_counts(arm: str, blocks: Iterable[Block]) -> BlockCounts:
    """Return an arm's requests in all of these blocks."""
    return functools.reduce(BlockCounts.plus, (block.of(arm) for block in blocks), BlockCounts())
