"""Counters as JSON of a status and back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_LENGTHS
from sundog_operator.core.analysis.dispersion_sums import ZERO_SUMS, BlockSums, DispersionSums, EpochBlocks
from sundog_operator.core.analysis.feedback import FeedbackSums as FeedbackSums
from sundog_operator.core.edge.reported_counts import (
    EVENTS,
    SLOW,
    parse_count,
)

_LATER_COLUMNS: Final = ("retried", *SLOW[1:])
"""What may be missing in what was stored before it was counted."""


def parse_row(key: str, counts: Sequence[int], at: Mapping[str, int]) -> tuple[tuple[int, str], ArmCounts]:
    """One row of stored counters: its (epoch, arm), and the arm's counts. Raises `PARSE_ERRORS`."""
    epoch, _, arm = key.partition("/")
    told = (name for name in ArmCounts._fields if name in at or name not in _LATER_COLUMNS)
    return (int(epoch), arm), ArmCounts(**{name: parse_count(counts[at[name]]) for name in told})


def parse_folded(stored: Mapping[str, Any], kinds: int) -> EpochBlocks:
    """Blocks of an epoch that were folded. Raises `PARSE_ERRORS`."""
    lengths = tuple(
        DispersionSums(
            parse_count(closed), _sums(_of_kinds(sums, kinds, ZERO_SUMS)), _open(_of_kinds(open_, kinds, (0, 0)))
        )
        for closed, sums, open_ in stored["lengths"]
    )
    if len(lengths) != len(BLOCK_LENGTHS):
        raise ValueError(f"{len(lengths)} lengths of blocks instead of {len(BLOCK_LENGTHS)}")
    requests = tuple(map(parse_count, stored["requests"]))
    if len(requests) != 1 + len(lengths[0].sums) // len(EVENTS):
        raise ValueError(f"requests of {len(requests)} arms instead of those that have sums")
    return EpochBlocks(parse_count(stored["following"]), lengths, requests)


def _sums(stored: Sequence[Sequence[int]]) -> tuple[BlockSums, ...]:
    if not stored:
        raise ValueError("no sums of any kind of events")
    return tuple(
        (parse_count(a), parse_count(b), parse_count(c), parse_count(d), parse_count(e)) for a, b, c, d, e in stored
    )


def _open(stored: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((parse_count(x), parse_count(s)) for x, s in stored)


def first_kinds(kinds: int, counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of what is kept of each of `EVENTS`, arm by arm, that of the first so many."""
    return [list(each) for place, each in enumerate(counts) if place % len(EVENTS) < kinds]


def _of_kinds(stored: Sequence[Sequence[int]], kinds: int, nothing: Sequence[int]) -> list[Sequence[int]]:
    """What is stored of the first so many of `EVENTS`, arm by arm, and nothing of the others."""
    if not 0 < kinds <= len(EVENTS) or len(stored) % kinds:
        raise ValueError(f"{len(stored)} entries are not those of {kinds} kinds of events")
    missing = [nothing] * (len(EVENTS) - kinds)
    arms = (stored[place : place + kinds] for place in range(0, len(stored), kinds))
    return [each for arm in arms for each in (*arm, *missing)]
