"""Assignment of the 10 000 hash buckets to arms."""

from collections.abc import Sequence

BUCKETS = 10_000

Range = tuple[int, int]
"""A half-open interval of buckets."""


def percent(buckets: int) -> float:
    """Return a number of buckets as a percentage; an int where it is whole."""
    return buckets // 100 if buckets % 100 == 0 else buckets / 100


def two_arm_ranges(canary_weight: int) -> tuple[list[Range], list[Range]]:
    """Return the ranges of (stable, canary) for a canary weight w in percent.

    The canary holds [0, w): as w grows, units only enter it. As w shrinks, the units that entered last leave first.
    """
    boundary = canary_weight * BUCKETS // 100
    return _remove_empty([(boundary, BUCKETS)]), _remove_empty([(0, boundary)])


def reassign(ranges: Sequence[Sequence[Range]], shares: Sequence[int]) -> list[list[Range]]:
    """Return the ranges of all arms for new shares, and move as few buckets as possible.

    Half the sum of the differences moves. An arm that shrinks gives away the buckets it got last: the first arm, the control, from its
    lower end, any other arm from its upper end. With two arms the result equals `two_arm_ranges`.

    Args:
        ranges: by arm.
        shares: buckets by arm, BUCKETS in total.

    Raises:
        ValueError: the shares do not add up to BUCKETS, or do not match the arms.
    """
    if sum(shares) != BUCKETS or min(shares) < 0 or len(shares) != len(ranges):
        raise ValueError(f"shares: {list(shares)} for {len(ranges)} arms; expected one per arm, {BUCKETS} in total")
    owned = [sorted(bucket for start, end in own for bucket in range(start, end)) for own in ranges]
    freed: list[int] = []
    for place, (own, share) in enumerate(zip(owned, shares, strict=True)):
        excess = max(0, len(own) - share)
        freed += own[:excess] if place == 0 else own[len(own) - excess :]
        owned[place] = own[excess:] if place == 0 else own[: len(own) - excess]
    freed.sort()
    # Arms take buckets from the end at which they give them away: the control from the upper one, the others from the lower one.
    for place, share in reversed(list(enumerate(shares))):
        missing = share - len(owned[place])
        taken, freed = freed[:missing], freed[missing:]
        owned[place] = sorted([*owned[place], *taken])
    return [_to_ranges(own) for own in owned]


def _to_ranges(buckets: Sequence[int]) -> list[Range]:
    ranges: list[Range] = []
    for bucket in buckets:
        if ranges and ranges[-1][1] == bucket:
            ranges[-1] = (ranges[-1][0], bucket + 1)
        else:
            ranges.append((bucket, bucket + 1))
    return ranges


def _remove_empty(ranges: Sequence[Range]) -> list[Range]:
    return [(start, end) for start, end in ranges if end > start]
