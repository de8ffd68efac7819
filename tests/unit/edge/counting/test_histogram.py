"""Buckets of durations."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.counting import histogram


@given(st.integers(0, 10**10))
def test_a_duration_is_in_the_bucket_of_its_limits(duration):
    counts: list[int] = []
    histogram.add(counts, histogram.find_bucket(duration))
    bucket = len(counts) - 1
    assert sum(counts) == counts[bucket] == 1
    assert bucket == 0 or histogram.EDGES_US[bucket - 1] <= duration
    assert bucket == len(histogram.EDGES_US) or duration < histogram.EDGES_US[bucket]


def test_bucket_limits_resolve_a_margin_of_ten_percent():
    edges = histogram.EDGES_US
    assert list(edges) == sorted(set(edges))
    assert (edges[0], edges[-1]) == (100, 1_000_000_000)
    assert all(high / low < 1.06 for low, high in pairwise(edges))
