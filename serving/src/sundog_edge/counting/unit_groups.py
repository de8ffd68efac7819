"""Counts per group of units: what the variance of sticky units is measured on. Pure."""

from collections.abc import Iterable, Sequence

from sundog_edge.counting import log_lines
from sundog_edge.counting.log_lines import ENDS
from sundog_edge.split.assignment import GROUPS

_FIRST, *_FURTHER = log_lines.SLOW
COLUMNS = (*ENDS, _FIRST, "firstAttemptFailed", *_FURTHER)
SLOW = tuple(map(COLUMNS.index, log_lines.SLOW))
FIRST_ATTEMPT_FAILED = COLUMNS.index("firstAttemptFailed")

Groups = dict[int, list[int]]
"""Group number → counts in the order of COLUMNS; groups without a request are left out."""


def counts_of(groups: Groups, number: int) -> list[int]:
    """The counts of a group, made if it is new. Raises ValueError for a number that is no group's."""
    found = groups.get(number)
    if found is None:
        if not 0 <= number < GROUPS:
            raise ValueError(f"{number} is no group")
        found = groups[number] = [0] * len(COLUMNS)
    return found


def merge(groups: Groups, rows: Iterable[Sequence[int]]) -> None:
    """Add `[group, count, …]` rows in place. Rows with other columns, as of a snapshot of another version, are left out."""
    for number, *counts in rows:
        if len(counts) != len(COLUMNS):
            continue
        own = counts_of(groups, number)
        for column, count in enumerate(counts):
            own[column] += count


def rows(groups: Groups) -> list[list[int]]:
    """`[group, count, …]` in ascending order."""
    return [[number, *groups[number]] for number in sorted(groups)]
