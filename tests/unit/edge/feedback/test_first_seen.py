"""First exposures of units that wait to be written."""

import tracemalloc

import pytest

from sundog_edge.feedback.first_seen import WRITE_BATCH_UNITS, FirstExposureTracker
from sundog_edge.feedback.join import (
    FirstExposure,
)


def test_a_unit_waits_with_its_earliest_request_and_is_written_once() -> None:
    seen = FirstExposureTracker()
    seen.observe(1, 20, 1, "b")
    seen.observe(1, 10, 0, "a")
    seen.observe(1, 30, 1, "b")
    assert seen.next_batch() == ({1: FirstExposure(10, 0, "a")}, 0)
    assert seen.next_batch() == ({1: FirstExposure(10, 0, "a")}, 0), "until it is written"
    seen.mark_written(*seen.next_batch())
    seen.observe(1, 40, 2, "a")
    assert seen.next_batch() == ({}, 0)


def test_units_without_room_are_counted_and_taken_when_they_come_again() -> None:
    seen = FirstExposureTracker(waiting=2)
    for unit in (1, 2, 3, 4):
        seen.observe(unit, 10, 0, "a")
    firsts, dropped = seen.next_batch()
    assert (set(firsts), dropped) == ({1, 2}, 2)
    seen.observe(5, 10, 0, "a")
    seen.mark_written(firsts, dropped)
    seen.observe(3, 50, 1, "a")
    assert seen.next_batch() == ({3: FirstExposure(50, 1, "a")}, 1)


def test_units_that_come_again_are_remembered_among_many_that_do_not() -> None:
    seen = FirstExposureTracker(remembered=100)
    asked = 0
    for number in range(10_000):
        for unit in (10**6 + number, number % 10):
            seen.observe(unit, 10, 0, "a")
        firsts, dropped = seen.next_batch()
        asked += sum(unit < 10 for unit in firsts)
        seen.mark_written(firsts, dropped)
        assert seen.held <= 100
    assert asked == 10


def test_many_attempts_need_no_more_memory_than_a_few() -> None:
    seen = FirstExposureTracker()
    for attempts, remembered, waits in (
        (0, 200_000, 100_000),
        (4, 200_000, 100_000),
        (40, 20_000, 10_000),
        (10**9, 1, 1),
    ):
        seen.share(attempts)
        assert (seen.remembered, seen.max_waiting) == (remembered, waits)


@pytest.mark.extended
def test_a_flood_of_units_leaves_memory_bounded() -> None:
    seen = FirstExposureTracker(remembered=20_000, waiting=10_000)
    largest = 0
    tracemalloc.start()
    try:
        for unit in range(1, 200_001):
            # Spread like a hash, without its cost.
            seen.observe(unit * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF, unit, 3, "canary")
            if unit % WRITE_BATCH_UNITS == 0 and unit < 100_000:
                largest = max(largest, seen.held)
                seen.mark_written(*seen.next_batch())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(largest, seen.held) <= 30_000
    assert (len(seen.waiting), seen.dropped) == (10_000, 95_000)
    assert peak < 8 << 20
