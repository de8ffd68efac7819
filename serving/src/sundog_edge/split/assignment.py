"""From a unit to its arm: the hashes that HAProxy computes, and the range table in which HAProxy finds the arm.

`bucket_of_unit`, `group_of_unit` and `find_arm` are the reference implementation: tests compare HAProxy's rules with them, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

BUCKET_COUNT = 10_000
GROUP_COUNT = 100
_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF


def bucket_of_unit(salt: str, unit: bytes) -> int:
    """Return the bucket of a unit: XXH64(salt ":" unit, seed 0), sign bit dropped, modulo 10 000.

    `unit` is the header value as HAProxy sees it: raw bytes without leading and trailing blanks. HAProxy's integers are signed, so with
    the sign bit its modulo could be negative. The bias of the modulo is below 1e-14.
    """
    return (xxhash.xxh64_intdigest(salt.encode() + b":" + unit) & _POSITIVE) % BUCKET_COUNT


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


def group_of_unit(salt: str, unit: bytes) -> int:
    """Return the group of a unit, 0..99, independent of its bucket: XXH64("g:" salt unit), sign bit dropped, modulo 100."""
    return (xxhash.xxh64_intdigest(b"g:" + salt.encode() + unit) & _POSITIVE) % GROUP_COUNT


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


def find_arm(table: Sequence[Segment], bucket: int) -> int | None:
    """Return the arm of a bucket; None for an empty table."""
    return next((segment.arm for segment in table if bucket < segment.end), None)


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
