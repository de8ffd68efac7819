"""Checks of bucket ranges."""

from collections.abc import Sequence

from sundog_operator.core.edge.buckets import BUCKETS, Range


def is_partition(ranges: Sequence[Range]) -> bool:
    """Return whether the ranges hold each bucket exactly once."""
    position = 0
    for start, end in sorted(ranges):
        if start != position or end <= start:
            return False
        position = end
    return position == BUCKETS
