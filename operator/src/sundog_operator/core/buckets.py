"""Which of the 10 000 hash buckets belong to which arm."""

from collections.abc import Sequence

BUCKETS = 10_000

Range = tuple[int, int]
"""A half-open interval of buckets."""


def two_arms(canary_weight: int) -> tuple[list[Range], list[Range]]:
    """(stable, canary) for a canary weight in percent.

    The canary holds [0, w): units only enter it as w grows, and the latest ones leave first as it shrinks.
    """
    edge = canary_weight * BUCKETS // 100
    return _clean([(edge, BUCKETS)]), _clean([(0, edge)])


def covers_once(ranges: Sequence[Range]) -> bool:
    """Whether the ranges hold each bucket exactly once."""
    position = 0
    for start, end in sorted(ranges):
        if start != position or end <= start:
            return False
        position = end
    return position == BUCKETS


def _clean(ranges: Sequence[Range]) -> list[Range]:
    return [(start, end) for start, end in ranges if end > start]
