"""Counts per group of units: what the variance of sticky units is measured on. Pure."""

from collections.abc import Iterable, Sequence

from sundog_edge.counting import log_lines
from sundog_edge.counting.log_lines import ENDS
from sundog_edge.split.assignment import GROUP_COUNT

_FIRST, *_FURTHER = log_lines.SLOW_COLUMNS
COLUMNS = (*ENDS, _FIRST, "firstAttemptFailed", *_FURTHER)
SLOW_INDEXES = tuple(map(COLUMNS.index, log_lines.SLOW_COLUMNS))
FIRST_ATTEMPT_FAILED_INDEX = COLUMNS.index("firstAttemptFailed")

UnitGroupCounts = dict[int, list[int]]
"""Group number → counts in the order of COLUMNS; groups without a request are left out."""


def get_or_add_counts(groups: UnitGroupCounts, number: int) -> list[int]:
    """The counts of a group, made if it is new. Raises ValueError for a number that is no group's."""
    found = groups.get(number)
    if found is None:
        if not 0 <= number < GROUP_COUNT:
            raise ValueError(f"{number} is no group")
        found = groups[number] = [0] * len(COLUMNS)
    return found


def merge(groups: UnitGroupCounts, rows: Iterable[Sequence[int]]) -> None:
    """Add `[group, count, …]` rows in place. Rows with other columns, as of a snapshot of another version, are left out."""
    for number, *counts in rows:
        if len(counts) != len(COLUMNS):
            continue
        own = get_or_add_counts(groups, number)
        for column, count in enumerate(counts):
            own[column] += count


def to_rows(groups: UnitGroupCounts) -> list[list[int]]:
    """`[group, count, …]` in ascending order."""
    return [[number, *groups[number]] for number in sorted(groups)]
