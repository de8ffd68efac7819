from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.buckets import BUCKETS, covers_once, two_arms

weights = st.integers(0, 100)


def held(ranges: list[tuple[int, int]]) -> set[int]:
    return {bucket for start, end in ranges for bucket in range(start, end)}


@given(weights)
def test_both_arms_hold_each_bucket_once_and_their_share(weight: int) -> None:
    stable, canary = two_arms(weight)
    assert covers_once([*stable, *canary])
    assert len(held(canary)) == weight * BUCKETS // 100


@given(weights, weights)
def test_a_ramp_only_moves_units_one_way(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert held(two_arms(low)[1]) <= held(two_arms(high)[1])


def test_gaps_and_overlaps_are_no_cover() -> None:
    assert not covers_once([(0, 5000)])
    assert not covers_once([(0, 5000), (4999, BUCKETS)])
    assert not covers_once([(0, 5000), (5001, BUCKETS)])
    assert not covers_once([])
    assert covers_once([(5000, BUCKETS), (0, 5000)])
