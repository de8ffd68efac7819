"""Buckets and range tables."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.assignment import BUCKETS, arm_of, bucket, segments


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        # Frozen: another value would move users between arms in the middle of an experiment.
        ("digits-salt", b"a", 9991),
        ("digits-salt", b"user-1", 5029),
        ("s", b"", 4987),
    ],
)
def test_golden_buckets(salt, unit, expected):
    assert bucket(salt, unit) == expected


def test_buckets_are_uniform_and_salts_independent():
    units = [b"user-%d" % number for number in range(40_000)]
    first = [bucket("salt-1", unit) < 5000 for unit in units]
    second = [bucket("salt-2", unit) < 5000 for unit in units]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    # Five standard deviations of a binomial.
    assert abs(sum(first) - 20_000) < 500
    assert abs(both - 10_000) < 435


@st.composite
def tables(draw):
    """Ranges of 1..10 arms that cover every bucket once, in any order."""
    count = draw(st.integers(1, 10))
    cuts = sorted(draw(st.sets(st.integers(1, BUCKETS - 1), max_size=40)))
    ranges = [[] for _ in range(count)]
    for start, end in zip([0, *cuts], [*cuts, BUCKETS], strict=True):
        ranges[draw(st.integers(0, count - 1))].append((start, end))
    for own in ranges:
        own.sort(key=lambda pair: draw(st.integers(0, 9)))
    return ranges


@given(tables())
def test_a_table_gives_every_bucket_to_the_arm_that_claims_it(ranges):
    table = segments(ranges)
    assert [segment.end for segment in table] == sorted({segment.end for segment in table})
    assert table[-1].end == BUCKETS
    sizes = [0] * len(ranges)
    start = 0
    for segment in table:
        sizes[segment.arm] += segment.end - start
        start = segment.end
    assert sizes == [sum(end - start for start, end in own) for own in ranges]
    for arm, own in enumerate(ranges):
        for start, end in own:
            assert arm_of(table, start) == arm_of(table, end - 1) == arm


@given(tables(), st.data())
def test_a_table_with_a_gap_or_an_overlap_is_refused(ranges, data):
    arm = data.draw(st.sampled_from([number for number, own in enumerate(ranges) if own]))
    start, end = data.draw(st.sampled_from(ranges[arm]))
    ranges[arm].remove((start, end))
    if end - start > 1:
        ranges[arm].append((start, end - 1))
    with pytest.raises(ValueError, match=r"bucket \d+ is not covered"):
        segments(ranges or [[(0, 1)]]) or segments([[(0, 1)]])
    ranges[arm] += [(start, end), (start, start + 1)]
    with pytest.raises(ValueError, match=r"bucket \d+ is (covered twice|not covered)"):
        segments(ranges)


def test_an_empty_table_has_no_arm():
    assert segments([[], []]) == ()
    assert arm_of((), 5) is None


def test_the_bias_of_the_modulo_is_as_small_as_said():
    assert Fraction(BUCKETS, 2**63) < Fraction(1, 10**14)
