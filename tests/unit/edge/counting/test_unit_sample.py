"""Samples of units: the same in any order, and without gaps below their threshold."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.counting.unit_counts import FULL_TAU
from sundog_edge.counting.unit_sample import MAX_UNITS, MIN_UNITS, UnitSample, units_per_sample

SEEN = st.lists(
    st.tuples(
        st.integers(0, FULL_TAU - 1) | st.integers(0, 40).map(lambda n: n << 57),
        st.tuples(st.integers(0, 50), st.integers(0, 3), st.sampled_from(["canary", "stable"])),
        st.lists(st.sampled_from(["error", "slow", "abort"]), unique=True, max_size=2).map(tuple),
    ),
    max_size=60,
)


def sample_of(entries, limit=8) -> UnitSample:
    made = UnitSample(limit=limit)
    for number, moment, events in entries:
        if number < made.tau:
            made.observe(number, moment, events)
    return made


@given(SEEN, st.randoms())
def test_a_sample_is_the_same_in_any_order_of_its_requests(entries, order: random.Random):
    whole = sample_of(entries)
    assert len(whole.units) <= 8
    shuffled = [*entries]
    order.shuffle(shuffled)
    assert sample_of(shuffled).as_json() == whole.as_json()
    assert UnitSample.from_json(whole.as_json()).as_json() == whole.as_json()
    # No unit below the threshold is missing, and each has its earliest events.
    by_unit: dict[int, list] = {}
    for number, moment, events in entries:
        by_unit.setdefault(number, []).append((moment, events))
    assert {*whole.units} == {number for number in by_unit if number < whole.tau}
    for number, unit in whole.units.items():
        assert unit.n == len(by_unit[number])
        assert unit.first == min(moment for moment, _ in by_unit[number])
        assert unit.events == {
            kind: min(moment for moment, events in by_unit[number] if kind in events)
            for kind in {kind for _, events in by_unit[number] for kind in events}
        }


def test_many_samples_share_one_budget():
    assert units_per_sample(1) == MAX_UNITS
    assert units_per_sample(500) == 100
    assert units_per_sample(10**6) == MIN_UNITS
