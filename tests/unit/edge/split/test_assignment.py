"""Buckets and range tables."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_reference import group_of_unit
from sundog_edge.split.assignment import (
    BUCKET_COUNT,
    GROUP_COUNT,
    Segment,
    arm_of_bucket,
    bucket_prefixes,
    build_segments,
    json_unit,
    unit_bucket,
    unit_hash,
)


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        # Fixed: another value would move users between arms during an experiment.
        ("digits-salt", b"a", 9991),
        ("digits-salt", b"user-1", 5029),
        ("s", b"", 4987),
    ],
)
def test_golden_buckets(salt, unit, expected):
    assert unit_bucket(salt, unit) == expected


def test_buckets_are_uniform_and_salts_independent():
    units = [b"user-%d" % number for number in range(40_000)]
    first = [unit_bucket("salt-1", unit) < 5000 for unit in units]
    second = [unit_bucket("salt-2", unit) < 5000 for unit in units]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    # Five standard deviations of a binomial.
    assert abs(sum(first) - 20_000) < 500
    assert abs(both - 10_000) < 435


@st.composite
def tables(draw):
    """Ranges of 1 to 11 arms that cover every bucket once, in any order."""
    count = draw(st.integers(1, 11))
    cuts = sorted(draw(st.sets(st.integers(1, BUCKET_COUNT - 1), max_size=40)))
    ranges = [[] for _ in range(count)]
    for start, end in zip([0, *cuts], [*cuts, BUCKET_COUNT], strict=True):
        ranges[draw(st.integers(0, count - 1))].append((start, end))
    for own in ranges:
        own.sort(key=lambda pair: draw(st.integers(0, 9)))
    return ranges


@given(tables())
def test_a_table_maps_every_bucket_to_its_arm(ranges):
    table = build_segments(ranges)
    assert [segment.end for segment in table] == sorted({segment.end for segment in table})
    assert table[-1].end == BUCKET_COUNT
    sizes = [0] * len(ranges)
    start = 0
    for segment in table:
        sizes[segment.arm] += segment.end - start
        start = segment.end
    assert sizes == [sum(end - start for start, end in own) for own in ranges]
    for arm, own in enumerate(ranges):
        for start, end in own:
            assert arm_of_bucket(table, start) == arm_of_bucket(table, end - 1) == arm


@given(tables(), st.data())
def test_a_table_with_a_gap_or_an_overlap_is_refused(ranges, data):
    arm = data.draw(st.sampled_from([number for number, own in enumerate(ranges) if own]))
    start, end = data.draw(st.sampled_from(ranges[arm]))
    ranges[arm].remove((start, end))
    if end - start > 1:
        ranges[arm].append((start, end - 1))
    with pytest.raises(ValueError, match=r"bucket \d+ is not covered"):
        build_segments(ranges or [[(0, 1)]]) or build_segments([[(0, 1)]])
    ranges[arm] += [(start, end), (start, start + 1)]
    with pytest.raises(ValueError, match=r"bucket \d+ is (covered twice|not covered)"):
        build_segments(ranges)


def test_adjacent_ranges_of_one_arm_are_one_segment():
    table = build_segments([[(0, 2000), (2000, 5000)], [(5000, BUCKET_COUNT)]])
    assert table == (Segment(5000, 0), Segment(BUCKET_COUNT, 1))


def test_an_empty_table_has_no_arm():
    assert build_segments([[], []]) == ()


def test_the_bias_of_the_modulo_is_small():
    assert Fraction(BUCKET_COUNT, 2**63) < Fraction(1, 10**14)


@settings(deadline=None)
@given(st.tuples(st.integers(0, BUCKET_COUNT), st.integers(0, BUCKET_COUNT)).map(sorted))
def test_prefixes_match_exactly_the_buckets_of_their_range(interval):
    start, end = interval
    found = bucket_prefixes(start, end)
    held = [
        number for prefix in found for number in range(BUCKET_COUNT) if str(BUCKET_COUNT + number).startswith(prefix)
    ]
    assert held == [*range(start, end)]
    # Four times two digits, nine prefixes each: every entry costs memory.
    assert len(found) <= 72


def test_prefixes_of_whole_percents_are_few():
    assert bucket_prefixes(0, BUCKET_COUNT) == ("1",)
    assert bucket_prefixes(2500, BUCKET_COUNT) == (
        "125",
        "126",
        "127",
        "128",
        "129",
        "13",
        "14",
        "15",
        "16",
        "17",
        "18",
        "19",
    )
    assert max(len(bucket_prefixes(0, share * 100)) for share in range(1, 101)) <= 18


def test_groups_are_even_and_independent_of_buckets():
    units = [b"user-%d" % number for number in range(20_000)]
    places = [(group_of_unit("salt", unit), unit_bucket("salt", unit)) for unit in units]
    sizes = [sum(g == number for g, _ in places) for number in range(GROUP_COUNT)]
    # Six standard deviations of a binomial around 200.
    assert all(abs(size - 200) < 85 for size in sizes)
    low = sum(g < 50 and b < 5000 for g, b in places)
    assert abs(low - 5000) < 370


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("7", b"7"),
        (7, b"7"),
        (7.9, b"7"),
        (-3, b"-3"),
        (True, b"1"),
        (None, b""),
        ([1], b""),
        ({}, b""),
        ("", b""),
        (1 << 53, b""),
        ((1 << 53) - 1, b"9007199254740991"),
        (float("nan"), b""),
        ("\u00e9", b"\xc3\xa9"),
    ],
)
def test_a_json_value_is_a_unit(value, unit):
    assert json_unit(value) == unit


def test_golden_hash_of_a_unit():
    # Fixed: samples of several edges and versions merge by it.
    assert unit_hash(b"user-1") == 0xA173746B114C6BE8
