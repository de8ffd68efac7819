"""Counts per group of units. The variance of sticky units is measured on them. Pure."""

from collections.abc import Iterable, Sequence

from sundog_edge.counting.log_lines import ROW_COLUMNS
from sundog_edge.split.assignment import GROUP_COUNT

UnitGroupCounts = dict[int, list[int]]
"""Group number → counts in the order of ROW_COLUMNS, without groups that had no request."""


def get_or_add_counts(groups: UnitGroupCounts, number: int) -> list[int]:
    """Return the counts of a group; add them if it is new. Raises ValueError for a number outside 0..99."""
    found = groups.get(number)
    if found is None:
        if not 0 <= number < GROUP_COUNT:
            raise ValueError(f"unit group: found {number}; expected 0 to {GROUP_COUNT - 1}")
        found = groups[number] = [0] * len(ROW_COLUMNS)
    return found


def merge(groups: UnitGroupCounts, rows: Iterable[Sequence[int]]) -> None:
    """Add `[group, count, …]` rows in place. Skip rows with other columns, such as those of another version's snapshot."""
    for number, *counts in rows:
        if len(counts) != len(ROW_COLUMNS):
            continue
        sums = get_or_add_counts(groups, number)
        for column, count in enumerate(counts):
            sums[column] += count


def to_rows(groups: UnitGroupCounts) -> list[list[int]]:
    """Return `[group, count, …]` in ascending order."""
    return [[number, *groups[number]] for number in sorted(groups)]
