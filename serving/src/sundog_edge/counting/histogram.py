"""Histograms of durations with fixed, versioned bucket limits, so that histograms of any edge and day merge by addition.

Bucket i has durations in [limit i-1, limit i): bucket 0 is below 100 µs, and the last bucket has no upper limit. Lists have no trailing
zeros.
"""

import operator
from bisect import bisect_right
from collections.abc import Sequence

VERSION = 1
EDGES_US: tuple[int, ...] = tuple(round(100 * 10 ** (step / 50)) for step in range(351))
"""Upper limits in microseconds, 100 µs to 1000 s, 50 a decade. A bucket is 4.7 % wide, so a margin of 10 % is two buckets."""


def find_bucket(duration_us: int) -> int:
    """Return the bucket of a duration."""
    return bisect_right(EDGES_US, duration_us)


def add(counts: list[int], bucket: int, count: int = 1) -> None:
    """Add to a bucket in place; the list grows as needed."""
    try:
        counts[bucket] += count
    except IndexError:
        counts.extend([0] * (bucket + 1 - len(counts)))
        counts[bucket] += count


def merge(counts: list[int], others: Sequence[int]) -> None:
    """Add another histogram in place."""
    counts.extend([0] * (len(others) - len(counts)))
    counts[: len(others)] = map(operator.add, counts, others)
