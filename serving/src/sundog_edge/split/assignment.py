"""Units, buckets, and the tables from buckets to arms.

HAProxy computes the hashes of requests; look-ups of a unit's arm compute the same here.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

BUCKET_COUNT = 10_000
GROUP_COUNT = 100
_POSITIVE = (1 << 63) - 1


def json_unit(value: object) -> bytes:
    """Return the unit of a JSON value; empty for a value that names no unit (null, an object, a list, a missing value).

    A number is cut to its whole part, so 7, 7.9 and "7" are the same unit. A number beyond ±(2^53 - 1) names no unit. True is 1 and
    false is 0.
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool | int | float) and abs(value) < 1 << 53:
        return str(int(value)).encode()
    return b""


def unit_hash(unit: bytes) -> int:
    """Return the unsalted 64-bit hash of a unit, which decides whether a unit is sampled, at every edge and in every experiment."""
    return xxhash.xxh64_intdigest(unit)


def unit_bucket(salt: str, unit: bytes) -> int:
    """Return the bucket of a unit, 0..9999: of the hash without its sign bit, because HAProxy's integers are signed.

    `haproxy.rules.assignment.BUCKET_OF_UNIT` is the same for HAProxy; `contract/split/test_unit_buckets.py` compares them.
    """
    return (xxhash.xxh64_intdigest(salt.encode() + b":" + unit) & _POSITIVE) % BUCKET_COUNT


@dataclass(frozen=True, slots=True)
class Segment:
    """The buckets of arm number `arm` from the end of the previous segment to `end`, exclusive."""

    end: int
    arm: int


def build_segments(ranges: Sequence[Sequence[tuple[int, int]]]) -> tuple[Segment, ...]:
    """Build ascending segments from the half-open bucket ranges of each arm; adjacent ranges of one arm become one segment.

    Raises ValueError unless the ranges cover every bucket of 0..9999 exactly once. No ranges at all give no segments.
    """
    ascending = sorted((start, end, arm) for arm, of_arm in enumerate(ranges) for start, end in of_arm)
    table: list[Segment] = []
    position = 0
    for start, end, arm in ascending:
        if start != position:
            kind = "covered twice" if start < position else "not covered"
            raise ValueError(f"bucket {min(start, position)} is {kind}")
        if table and table[-1].arm == arm:
            table.pop()
        table.append(Segment(end, arm))
        position = end
    if ascending and position != BUCKET_COUNT:
        raise ValueError(f"bucket {position} is not covered")
    return tuple(table)


def arm_of_bucket(table: Sequence[Segment], bucket: int) -> int:
    """Return the number of the arm that has a bucket. The table must not be empty."""
    return table[bisect_right(table, bucket, key=lambda segment: segment.end)].arm


def bucket_prefixes(start: int, end: int) -> tuple[str, ...]:
    """Return the fewest decimal prefixes that match exactly the buckets of [start, end), each bucket written as 10000 + bucket.

    With them HAProxy finds a bucket's range in one look-up of the longest prefix, whatever the number of ranges.
    Example: [2500, 10000) is 125 … 129 and 13 … 19.
    """
    prefixes: list[str] = []
    position = start
    while position < end:
        digits = next(
            count
            for count in range(len(str(BUCKET_COUNT)))
            if position % 10 ** (4 - count) == 0 and position + 10 ** (4 - count) <= end
        )
        prefixes.append(str(BUCKET_COUNT + position)[: digits + 1])
        position += 10 ** (4 - digits)
    return tuple(prefixes)
