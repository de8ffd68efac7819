"""How events of an epoch vary over its blocks, as sums that are kept when the blocks are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_LENGTHS, Block
from sundog_operator.core.analysis.feedback import FeedbackSums as FeedbackSums
from sundog_operator.core.edge.reported_counts import (
    EVENTS,
)

BlockSums = tuple[int, int, int, int, int]
"""Σx, Σs, Σx², Σxs and Σs² over blocks, with x the candidate's events and s those of both arms."""
ZERO_SUMS: Final[BlockSums] = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class DispersionSums:
    """Blocks of one length: how many are closed, for each kind of event the sums over them, and (x, s) of the one that is open.

    Of several arms that are compared with control those of the first come first. None is open until the first one that is seen as a
    whole: one whose begin is missing would vary for that alone.
    """

    closed: int = 0
    sums: tuple[BlockSums, ...] = (ZERO_SUMS,) * len(EVENTS)
    open: tuple[tuple[int, int], ...] = ()

    def take(self, events: Sequence[tuple[int, int]], *, closes: bool) -> "DispersionSums":
        """Take in one block of ten seconds, with which a block of this length may be over."""
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
        """The sums of one of `EVENTS`, of one of the arms."""
        place = arm * len(EVENTS) + kind
        return self.sums[place] if place < len(self.sums) else ZERO_SUMS


@dataclass(frozen=True, slots=True)
class EpochBlocks:
    """What lies in the blocks of one epoch: what is judged of it.

    Attributes:
        following: the next block to take in, Unix seconds by `BLOCK_S`.
        lengths: the sums of each of `LENGTHS`.
        requests: how many requests came in the blocks that the shortest length has, of control and of each arm beside it.
    """

    following: int
    lengths: tuple[DispersionSums, ...] = (DispersionSums(),) * len(BLOCK_LENGTHS)
    requests: tuple[int, ...] = (0, 0)

    @classmethod
    def begun(cls, following: int, arms: int) -> "EpochBlocks":
        """With nothing taken in yet, of so many arms beside control."""
        return cls(
            following,
            (DispersionSums(sums=(ZERO_SUMS,) * (arms * len(EVENTS))),) * len(BLOCK_LENGTHS),
            (0,) * (1 + arms),
        )

    @property
    def closed(self) -> int:
        """How many blocks of ten seconds are in it, each seen as a whole."""
        return self.lengths[0].closed

    def counts(self, arm: int = 0) -> tuple[ArmCounts, ArmCounts]:
        """(control's, the arm's) requests and events in those blocks."""
        sums = [self.lengths[0].of(kind, arm) for kind in range(len(EVENTS))]
        own = {event: x for event, (x, *_) in zip(EVENTS, sums, strict=True)}
        control = {event: s - x for event, (x, s, *_) in zip(EVENTS, sums, strict=True)}
        requests = self.requests[1 + arm] if 1 + arm < len(self.requests) else 0
        return ArmCounts(assigned=self.requests[0], **control), ArmCounts(assigned=requests, **own)

    def take(self, block: "Block", control: str, arms: Sequence[str]) -> "EpochBlocks":
        """Take in the next block."""
        following, events = self.following + 1, block.events(control, arms)
        lengths = tuple(
            own.take(events, closes=following % length == 0)
            for own, length in zip(self.lengths, BLOCK_LENGTHS, strict=True)
        )
        if lengths[0].closed == self.closed:
            return EpochBlocks(following, lengths, self.requests)
        came = (block.of(arm).requests for arm in (control, *arms))
        return EpochBlocks(following, lengths, tuple(map(sum, zip(self.requests, came, strict=True))))
