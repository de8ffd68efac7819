"""Histograms of durations with fixed, versioned edges, so that rows of any edge and any day merge by addition."""

from bisect import bisect_right

VERSION = 1
EDGES_US: tuple[int, ...] = tuple(round(100 * 10 ** (step / 50)) for step in range(351))
"""Upper edges in microseconds, 100 µs to 1000 s, 50 a decade: a bucket is 4.7 % wide, so that a margin of 10 % is two of them."""


def add(counts: list[int], duration_us: int) -> None:
    """Count one duration in place, in bucket i where edge i-1 ≤ duration < edge i.

    Bucket 0 is below 100 µs and the last has no upper edge. The list grows as needed and has no trailing zeros.
    """
    bucket = bisect_right(EDGES_US, duration_us)
    missing = bucket + 1 - len(counts)
    if missing > 0:
        counts.extend([0] * missing)
    counts[bucket] += 1
