"""Conversion of counters to the JSON of a status and back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.blocks import BLOCK_LENGTHS
from sundog_operator.core.analysis.dispersion_sums import ZERO_SUMS, BlockSums, DispersionSums, EpochBlocks
from sundog_operator.core.edge.reported_counts import (
    EVENTS,
    SLOW,
    parse_count,
)

_LATER_COLUMNS: Final = ("retried", *SLOW[1:])
"""Columns that older statuses do not have."""

CountsBySource = Mapping[str, Mapping[tuple[int, str], ArmCounts]]
"""Counts of each edge process, by epoch and arm."""
MutableCounts = dict[str, dict[tuple[int, str], ArmCounts]]


def parse_rows(stored: Mapping[str, Mapping[str, Sequence[int]]], at: Mapping[str, int]) -> MutableCounts:
    """Return stored rows by source; `at` has the place of each column. Raises `PARSE_ERRORS`."""
    return {
        source: dict(_parse_row(key, counts, at) for key, counts in rows.items()) for source, rows in stored.items()
    }


def _parse_row(key: str, counts: Sequence[int], at: Mapping[str, int]) -> tuple[tuple[int, str], ArmCounts]:
    """Return (epoch, arm) and the counts of a stored row."""
    epoch, _, arm = key.partition("/")
    stored = (name for name in ArmCounts._fields if name in at or name not in _LATER_COLUMNS)
    return (int(epoch), arm), ArmCounts(**{name: parse_count(counts[at[name]]) for name in stored})


def rows_as_json(sources: CountsBySource, columns: int) -> dict[str, dict[str, list[int]]]:
    """Return rows as `parse_rows` reads them, with so many columns."""
    return {
        source: {f"{epoch}/{arm}": list(counts[:columns]) for (epoch, arm), counts in sorted(rows.items())}
        for source, rows in sorted(sources.items())
    }


def parse_folded(stored: Mapping[str, Any], kinds: int) -> EpochBlocks:
    """Return the folded blocks of an epoch. Raises `PARSE_ERRORS`."""
    lengths = tuple(
        DispersionSums(
            parse_count(closed), _sums(_fill_kinds(sums, kinds, ZERO_SUMS)), _open(_fill_kinds(open_, kinds, (0, 0)))
        )
        for closed, sums, open_ in stored["lengths"]
    )
    if len(lengths) != len(BLOCK_LENGTHS):
        raise ValueError(f"lengths: {len(lengths)} block lengths; expected {len(BLOCK_LENGTHS)}")
    requests = tuple(map(parse_count, stored["requests"]))
    if len(requests) != 1 + len(lengths[0].sums) // len(EVENTS):
        raise ValueError(f"requests: {len(requests)} arms; expected the arms with sums")
    return EpochBlocks(parse_count(stored["following"]), lengths, requests)


def _sums(stored: Sequence[Sequence[int]]) -> tuple[BlockSums, ...]:
    if not stored:
        raise ValueError("lengths: no sums")
    return tuple(
        (parse_count(a), parse_count(b), parse_count(c), parse_count(d), parse_count(e)) for a, b, c, d, e in stored
    )


def _open(stored: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((parse_count(x), parse_count(s)) for x, s in stored)


def first_kinds(kinds: int, counts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the entries of the first `kinds` of `EVENTS`, arm by arm."""
    return [list(each) for place, each in enumerate(counts) if place % len(EVENTS) < kinds]


def _fill_kinds(stored: Sequence[Sequence[int]], kinds: int, nothing: Sequence[int]) -> list[Sequence[int]]:
    """Return stored entries of the first `kinds` of `EVENTS`, arm by arm, filled up with `nothing` for the others."""
    if not 0 < kinds <= len(EVENTS) or len(stored) % kinds:
        raise ValueError(f"{len(stored)} entries; expected a multiple of {kinds} kinds of events")
    missing = [nothing] * (len(EVENTS) - kinds)
    arms = (stored[place : place + kinds] for place in range(0, len(stored), kinds))
    return [each for arm in arms for each in (*arm, *missing)]
