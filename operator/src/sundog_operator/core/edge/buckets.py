"""Which of the 10 000 hash buckets belong to which arm."""

from collections.abc import Sequence

BUCKETS = 10_000

Range = tuple[int, int]
"""A half-open interval of buckets."""


def percent(buckets: int) -> float:
    """So many buckets in percent of all; a whole number is an integer."""
    return buckets // 100 if buckets % 100 == 0 else buckets / 100


def bucket_count(ranges: Sequence[Sequence[int]]) -> int:
    """How many buckets ranges hold."""
    return sum(end - start for start, end in ranges)


def two_arm_ranges(canary_weight: int) -> tuple[list[Range], list[Range]]:
    """(stable, canary) for a canary weight in percent.

    The canary holds [0, w): units only enter it as w grows, and the latest ones leave first as it shrinks.
    """
    edge = canary_weight * BUCKETS // 100
    return _clean([(edge, BUCKETS)]), _clean([(0, edge)])


def reassign(ranges: Sequence[Sequence[Range]], shares: Sequence[int]) -> list[list[Range]]:
    """The ranges of all arms after their shares (in buckets, together BUCKETS) change, moving no bucket that need not move.

    Exactly half the sum of the differences changes hands. An arm that shrinks gives away what it got last: the first arm, the control,
    from its lower end, any other from its upper end; so with two arms this is `two_arms`. Raises ValueError for shares that do not add up.
    """
    if sum(shares) != BUCKETS or min(shares) < 0 or len(shares) != len(ranges):
        raise ValueError(f"shares {list(shares)} of {len(ranges)} arms do not add up to {BUCKETS}")
    owned = [sorted(bucket for start, end in own for bucket in range(start, end)) for own in ranges]
    freed: list[int] = []
    for place, (own, share) in enumerate(zip(owned, shares, strict=True)):
        excess = max(0, len(own) - share)
        freed += own[:excess] if place == 0 else own[len(own) - excess :]
        owned[place] = own[excess:] if place == 0 else own[: len(own) - excess]
    freed.sort()
    # The control takes from the upper end and the others from the lower, as they give.
    for place, share in reversed(list(enumerate(shares))):
        missing = share - len(owned[place])
        taken, freed = freed[:missing], freed[missing:]
        owned[place] = sorted([*owned[place], *taken])
    return [_joined(own) for own in owned]


def _joined(buckets: Sequence[int]) -> list[Range]:
    joined: list[Range] = []
    for bucket in buckets:
        if joined and joined[-1][1] == bucket:
            joined[-1] = (joined[-1][0], bucket + 1)
        else:
            joined.append((bucket, bucket + 1))
    return joined


def is_partition(ranges: Sequence[Range]) -> bool:
    """Whether the ranges hold each bucket exactly once."""
    position = 0
    for start, end in sorted(ranges):
        if start != position or end <= start:
            return False
        position = end
    return position == BUCKETS


def _clean(ranges: Sequence[Range]) -> list[Range]:
    return [(start, end) for start, end in ranges if end > start]
