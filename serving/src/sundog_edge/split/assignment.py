"""From a unit to its arm: the hash that HAProxy computes, bit for bit, and the range table it is looked up in."""

from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

BUCKET_COUNT = 10_000
GROUP_COUNT = 100
_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF


def bucket_of_unit(salt: str, unit: bytes) -> int:
    """The bucket of a unit: XXH64(salt ":" unit, seed 0), sign bit dropped, modulo 10 000.

    `unit` is the header value as HAProxy sees it: raw bytes without leading and trailing blanks. The sign bit goes because
    HAProxy's integers are signed and its modulo would be negative; the bias of the modulo is below 1e-14.
    """
    return (xxhash.xxh64_intdigest(salt.encode() + b":" + unit) & _POSITIVE) % BUCKET_COUNT


def json_unit(value: object) -> bytes:
    """The unit that a value in a JSON body is; empty for one that names nobody (null, an object, a list, a missing value).

    A number is cut to its whole part, so 7, 7.9 and "7" are the same unit; one beyond ±(2^53 - 1) is none. True is 1 and false is 0.
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool | int | float) and abs(value) < 1 << 53:
        return str(int(value)).encode()
    return b""


def unit_hash(unit: bytes) -> int:
    """The 64-bit hash of a unit without any salt, by which a sample of units is drawn: the same at every edge and for every experiment."""
    return xxhash.xxh64_intdigest(unit)


def group_of_unit(salt: str, unit: bytes) -> int:
    """The group of a unit, 0..99, independent of its bucket: XXH64("g:" salt unit), sign bit dropped, modulo 100."""
    return (xxhash.xxh64_intdigest(b"g:" + salt.encode() + unit) & _POSITIVE) % GROUP_COUNT


@dataclass(frozen=True, slots=True)
class Segment:
    """Buckets up to `end` (exclusive), from the end of the segment before, belong to arm number `arm`."""

    end: int
    arm: int


def build_segments(ranges: Sequence[Sequence[tuple[int, int]]]) -> tuple[Segment, ...]:
    """The table of half-open bucket ranges per arm as ascending segments, neighbours of one arm joined.

    Raises ValueError unless every bucket of 0..9999 is covered exactly once. No ranges at all give no segments.
    """
    flat = sorted((start, end, arm) for arm, own in enumerate(ranges) for start, end in own)
    table: list[Segment] = []
    position = 0
    for start, end, arm in flat:
        if start != position:
            kind = "covered twice" if start < position else "not covered"
            raise ValueError(f"bucket {min(start, position)} is {kind}")
        if table and table[-1].arm == arm:
            table.pop()
        table.append(Segment(end, arm))
        position = end
    if flat and position != BUCKET_COUNT:
        raise ValueError(f"bucket {position} is not covered")
    return tuple(table)


def find_arm(table: Sequence[Segment], number: int) -> int | None:
    """The arm that owns a bucket; None for an empty table."""
    return next((segment.arm for segment in table if number < segment.end), None)


def bucket_prefixes(start: int, end: int) -> tuple[str, ...]:
    """The fewest decimal prefixes that together hold exactly the buckets of [start, end), each bucket written as 10000 + bucket.

    With them HAProxy finds a bucket's range in one look-up of the longest prefix, however many ranges there are: [2500, 10000) is 125 … 129
    and 13 … 19.
    """
    found: list[str] = []
    position = start
    while position < end:
        digits = next(
            count
            for count in range(len(str(BUCKET_COUNT)))
            if position % 10 ** (4 - count) == 0 and position + 10 ** (4 - count) <= end
        )
        found.append(str(BUCKET_COUNT + position)[: digits + 1])
        position += 10 ** (4 - digits)
    return tuple(found)
