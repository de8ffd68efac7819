"""Dispersion of events over the blocks of an epoch, as sums that stay when the blocks are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_LENGTHS, Block
from sundog_operator.core.edge.reported_counts import (
    EVENTS,
)

BlockSums = tuple[int, int, int, int, int]
"""Σx, Σs, Σx², Σxs and Σs² over blocks, where x is an arm's events and s those of both arms."""
ZERO_SUMS: Final[BlockSums] = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DispersionSums:
    """Sums over blocks of one length: how many are closed, the sums of each kind of event, and (x, s) of the open block.

    The sums of the first compared arm come first. No block is open before the first complete one: a block whose begin is missing would vary
    only for that.
    """

    closed: int = 0
    sums: tuple[BlockSums, ...] = (ZERO_SUMS,) * len(EVENTS)
    open: tuple[tuple[int, int], ...] = ()

    def take(self, events: Sequence[tuple[int, int]], *, closes: bool) -> "DispersionSums":
        """Add one block of ten seconds; `closes` if a block of this length ends with it."""
        nothing = ((0, 0),) * len(events)
        if not self.open:
            return replace(self, open=nothing) if closes else self
        both = tuple((x + a, s + b) for (x, s), (a, b) in zip(self.open, events, strict=True))
        if not closes:
            return replace(self, open=both)
        sums = tuple(
            (a + x, b + s, c + x * x, d + x * s, e + s * s)
            for (a, b, c, d, e), (x, s) in zip(self.sums, both, strict=True)
        )
        return DispersionSums(self.closed + 1, sums, nothing)

    def of(self, kind: int, arm: int = 0) -> BlockSums:
        """Return the sums of one of `EVENTS`, for one of the arms."""
        place = arm * len(EVENTS) + kind
        return self.sums[place] if place < len(self.sums) else ZERO_SUMS


@dataclass(frozen=True, slots=True)
class EpochBlocks:
    """Sums over the blocks of one epoch, the data of its evaluation.

    Attributes:
        following: number of the next block to add: Unix seconds / `BLOCK_S`.
        lengths: the sums of each of `BLOCK_LENGTHS`.
        requests: requests in the closed blocks of the shortest length, of control and of each compared arm.
    """

    following: int
    lengths: tuple[DispersionSums, ...] = (DispersionSums(),) * len(BLOCK_LENGTHS)
    requests: tuple[int, ...] = (0, 0)

    @classmethod
    def empty(cls, following: int, arms: int) -> "EpochBlocks":
        """Return empty sums of so many arms beside control."""
        return cls(
            following,
            (DispersionSums(sums=(ZERO_SUMS,) * (arms * len(EVENTS))),) * len(BLOCK_LENGTHS),
            (0,) * (1 + arms),
        )

    @property
    def closed(self) -> int:
        """Return how many complete blocks of ten seconds it contains."""
        return self.lengths[0].closed

    def counts(self, arm: int = 0) -> tuple[ArmCounts, ArmCounts]:
        """Return the requests and events of (control, the arm) in those blocks."""
        sums = [self.lengths[0].of(kind, arm) for kind in range(len(EVENTS))]
        own = {event: x for event, (x, *_) in zip(EVENTS, sums, strict=True)}
        control = {event: s - x for event, (x, s, *_) in zip(EVENTS, sums, strict=True)}
        requests = self.requests[1 + arm] if 1 + arm < len(self.requests) else 0
        return ArmCounts(assigned=self.requests[0], **control), ArmCounts(assigned=requests, **own)

    def take(self, block: "Block", control: str, arms: Sequence[str]) -> "EpochBlocks":
        """Add the next block."""
        following, events = self.following + 1, block.events(control, arms)
        lengths = tuple(
            own.take(events, closes=following % length == 0)
            for own, length in zip(self.lengths, BLOCK_LENGTHS, strict=True)
        )
        if lengths[0].closed == self.closed:
            return EpochBlocks(following, lengths, self.requests)
        arrived = (block.of(arm).requests for arm in (control, *arms))
        return EpochBlocks(following, lengths, tuple(map(sum, zip(self.requests, arrived, strict=True))))
