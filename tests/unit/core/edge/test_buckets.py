from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucket_ranges import is_partition
from sundog_operator.core.edge.buckets import BUCKETS, Range, reassign, two_arm_ranges

weights = st.integers(0, 100)


def held(ranges: list[tuple[int, int]]) -> set[int]:
    return {bucket for start, end in ranges for bucket in range(start, end)}


@given(weights)
def test_both_arms_hold_each_bucket_once_and_their_share(weight: int) -> None:
    stable, canary = two_arm_ranges(weight)
    assert is_partition([*stable, *canary])
    assert len(held(canary)) == weight * BUCKETS // 100


@given(weights, weights)
def test_a_ramp_only_moves_units_one_way(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert held(two_arm_ranges(low)[1]) <= held(two_arm_ranges(high)[1])


def test_gaps_and_overlaps_are_no_cover() -> None:
    assert not is_partition([(0, 5000)])
    assert not is_partition([(0, 5000), (4999, BUCKETS)])
    assert not is_partition([(0, 5000), (5001, BUCKETS)])
    assert not is_partition([])
    assert is_partition([(5000, BUCKETS), (0, 5000)])


@st.composite
def _shares(draw: st.DrawFn, arms: int) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(0, BUCKETS), min_size=arms - 1, max_size=arms - 1)))
    return [end - start for start, end in pairwise([0, *cuts, BUCKETS])]


@st.composite
def _histories(draw: st.DrawFn) -> list[list[int]]:
    arms = draw(st.integers(2, 10))
    return draw(st.lists(_shares(arms), min_size=1, max_size=6))


def _owners(ranges: list[list[Range]]) -> list[int]:
    owners = [-1] * BUCKETS
    for arm, own in enumerate(ranges):
        for start, end in own:
            owners[start:end] = [arm] * (end - start)
    return owners


@settings(deadline=None)
@given(_histories())
def test_a_change_of_many_arms_moves_half_the_sum_of_the_differences(history: list[list[int]]) -> None:
    ranges: list[list[Range]] = [[(0, BUCKETS)], *([] for _ in history[0][1:])]
    shares = [BUCKETS, *(0 for _ in history[0][1:])]
    for wanted in history:
        before = _owners(ranges)
        ranges = reassign(ranges, wanted)
        assert is_partition([interval for own in ranges for interval in own])
        after = _owners(ranges)
        assert [after.count(arm) for arm in range(len(wanted))] == wanted
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert 2 * len(moved) == sum(abs(new - old) for old, new in zip(shares, wanted, strict=True))
        # A growing arm loses no bucket and a shrinking one gains none, so ramps are monotone.
        assert all(wanted[new] > shares[new] and wanted[old] < shares[old] for old, new in moved)
        shares = wanted


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_two_arms_move_as_the_ramp_does(weights: list[int]) -> None:
    ranges: list[list[Range]] = [[(0, BUCKETS)], []]
    for weight in weights:
        ranges = reassign(ranges, [BUCKETS - weight * 100, weight * 100])
        assert ranges == [*two_arm_ranges(weight)]


@pytest.mark.parametrize("shares", [[1], [BUCKETS, 1], [BUCKETS + 1, -1]])
def test_shares_that_do_not_add_up_are_refused(shares: list[int]) -> None:
    with pytest.raises(ValueError, match="expected one per arm"):
        reassign([[(0, BUCKETS)], []], shares)
