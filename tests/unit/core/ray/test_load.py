"""Load at the edges in replicas, and since when it lasts."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.clock import FakeClock
from sundog_operator.api import EdgeLoadStatus
from sundog_operator.core.ray.load import replicas_for_requests, track_load

NOW = FakeClock().now().replace(microsecond=0)
DELAY = timedelta(seconds=10)


@pytest.mark.parametrize(
    ("requests", "weight", "expected"),
    [
        (0, 100, 0),
        (1, 100, 1),
        (6, 100, 3),
        (7, 100, 4),
        (6, 75, 4),
        (3, 33.34, 5),
        (500, 100, 8),
        (5, 0, 0),
    ],
)
def test_requests_need_so_many_replicas_of_all_traffic(requests: int, weight: float, expected: int) -> None:
    assert replicas_for_requests(requests, weight, 2, 8) == expected


def at(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_a_load_counts_once_it_has_lasted_with_its_lowest_number() -> None:
    load = None
    for second, needed in ((0, 6), (4, 9), (9, 5)):
        load = track_load(load, needed, 2, NOW + at(second), DELAY)
        assert load is not None
        assert (load.since, load.in_force) == (NOW, False)
    load = track_load(load, 7, 2, NOW + at(10), DELAY)
    assert load == EdgeLoadStatus(replicas=5, since=NOW, in_force=True)


def test_a_burst_that_ends_before_the_delay_leaves_nothing() -> None:
    load = track_load(None, 6, 2, NOW, DELAY)
    assert track_load(load, 2, 2, NOW + at(9), DELAY) is None


def test_without_a_delay_it_counts_at_once() -> None:
    load = track_load(None, 6, 2, NOW, timedelta(0))
    assert load is not None
    assert load.in_force


def test_in_force_it_stays_until_ray_serve_has_asked_for_the_replicas_and_the_load_is_lower() -> None:
    load = EdgeLoadStatus(replicas=5, since=NOW, in_force=True)
    assert track_load(load, 1, 2, NOW, DELAY) == load, "Ray Serve has not read it yet"
    assert track_load(load, 5, 5, NOW, DELAY) == load
    assert track_load(load, 4, 5, NOW, DELAY) is None
    assert track_load(load, 8, 8, NOW, DELAY) is None, "Ray Serve has asked for more"


def test_load_that_grows_further_lasts_as_long_again() -> None:
    load = EdgeLoadStatus(replicas=5, since=NOW, in_force=True)
    assert track_load(load, 8, 5, NOW + at(60), DELAY) == EdgeLoadStatus(replicas=8, since=NOW + at(60))


def test_a_clock_that_is_set_back_starts_the_time_again() -> None:
    load = EdgeLoadStatus(replicas=5, since=NOW + at(600))
    assert track_load(load, 5, 2, NOW, DELAY) == EdgeLoadStatus(replicas=5, since=NOW)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 30)), max_size=30))
def test_no_load_is_more_than_what_was_needed_for_the_whole_delay(looks: list[tuple[int, int]]) -> None:
    load, now, target = None, NOW, 2
    seen: list[tuple[timedelta, int]] = []
    for needed, waited_s in looks:
        now += at(waited_s)
        seen.append((now - NOW, needed))
        load = track_load(load, needed, target, now, DELAY)
        if load is not None and load.in_force:
            begun = load.since - NOW
            assert now - load.since >= DELAY
            assert load.replicas <= min(count for when, count in seen if when >= begun)
            return
