"""When waiting requests run, and which of them together."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundog_runtime.scheduling.batch_queue import BatchQueue, QueuedRequest

PASS_SECONDS = 0.01


def queue(max_rows: int = 4, max_delay_s: float = 0.002, pass_seconds: float = PASS_SECONDS) -> BatchQueue[int]:
    return BatchQueue(max_rows, max_delay_s, pass_seconds)


def taken(batches: BatchQueue[int], now: float) -> list[int]:
    batch, _ = batches.take_batch(now)
    return [entry.payload for entry in batch]


def test_a_lone_request_never_waits() -> None:
    batches = queue()
    for number in range(100):
        batches.add(QueuedRequest(number, "key"), number * 0.02)
        assert taken(batches, number * 0.02) == [number]
        batches.record_pass(PASS_SECONDS)
    assert batches.take_batch(10.0) == ([], None)


def test_requests_that_gather_while_the_model_is_busy_run_together() -> None:
    batches = queue(max_rows=8)
    batches.add(QueuedRequest(0, "key"), 0.0)
    assert taken(batches, 0.0) == [0]
    for number in range(1, 5):
        batches.add(QueuedRequest(number, "key"), 0.001)
    batches.record_pass(PASS_SECONDS)
    assert taken(batches, 0.01) == [1, 2, 3, 4], "they have waited longer than the delay"


def test_expected_requests_are_awaited_up_to_the_delay() -> None:
    batches = queue(max_rows=8)
    for number in range(3):
        batches.add(QueuedRequest(number, "key"), 0.0)
    assert taken(batches, 0.0) == [0, 1, 2]
    batches.record_pass(PASS_SECONDS)
    batches.add(QueuedRequest(3, "key"), 1.0)
    assert batches.take_batch(1.001) == ([], 1.002)
    assert taken(batches, 1.002) == [3]
    batches.record_pass(PASS_SECONDS)
    batches.add(QueuedRequest(4, "key"), 2.0)
    assert taken(batches, 2.0) == [4], "who waited in vain teaches that nobody else is about"


def test_the_wait_ends_when_all_expected_requests_are_there() -> None:
    batches = queue(max_rows=8)
    for number in range(3):
        batches.add(QueuedRequest(number, "key"), 0.0)
    taken(batches, 0.0)
    batches.record_pass(PASS_SECONDS)
    for number in range(3):
        assert taken(batches, 1.0) == []
        batches.add(QueuedRequest(number, "key"), 1.0)
    assert taken(batches, 1.0) == [0, 1, 2]


def test_no_request_waits_longer_than_a_pass_takes() -> None:
    batches = queue(max_delay_s=1.0, pass_seconds=0.0005)
    batches.add(QueuedRequest(0, "key"), 0.0)
    batches.add(QueuedRequest(1, "other"), 0.0)
    assert taken(batches, 0.0) == [0]
    batches.record_pass(0.0005)
    batches._expected = 9
    assert batches.take_batch(0.0001) == ([], 0.0005)
    assert taken(batches, 0.0005) == [1]


@pytest.mark.parametrize(
    ("rows", "batches"),
    [
        ([1, 1, 1, 1, 1], [[0, 1, 2, 3], [4]]),
        ([3, 2, 1], [[0], [1, 2]]),
        ([9, 1, 1], [[0], [1, 2]]),
        ([1, 9, 1], [[0], [1], [2]]),
        ([4, 4], [[0], [1]]),
    ],
)
def test_rows_fill_a_batch(rows: list[int], batches: list[list[int]]) -> None:
    waiting = queue()
    for number, count in enumerate(rows):
        waiting.add(QueuedRequest(number, "key", count), 0.0)
    found = []
    while batch := taken(waiting, 1.0):
        found.append(batch)
        waiting.record_pass(PASS_SECONDS)
    assert found == batches


def test_only_equal_keys_are_joined_and_the_oldest_goes_first() -> None:
    batches = queue()
    for number, key in enumerate(["a", "b", "a", None, None, "b"]):
        batches.add(QueuedRequest(number, key), 0.0)
    found = []
    while batch := taken(batches, 1.0):
        found.append(batch)
    assert found == [[0, 2], [1, 5], [3], [4]]


def test_an_abandoned_request_is_not_returned() -> None:
    batches = queue()
    entries = [QueuedRequest(number, "key") for number in range(3)]
    for entry in entries:
        batches.add(entry, 0.0)
    assert batches.discard(entries[1])
    assert not batches.discard(entries[1])
    assert taken(batches, 1.0) == [0, 2]
    assert not batches.discard(entries[0])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["a", "b", None]), st.integers(1, 6)),
        st.tuples(st.just("discard"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("take"), st.floats(0.0, 0.01), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.integers(1, 5), st.floats(0.0, 0.01))
def test_every_request_is_returned_once_unless_abandoned(steps: list[Any], max_rows: int, max_delay_s: float) -> None:
    batches, now = BatchQueue[int](max_rows, max_delay_s, PASS_SECONDS), 0.0
    entries: list[QueuedRequest[int]] = []
    gone: set[int] = set()
    handed: list[int] = []

    def take(at: float) -> bool:
        oldest = min((entry.payload for entry in entries if entry.payload not in gone | set(handed)), default=None)
        batch, until = batches.take_batch(at)
        if not batch:
            assert (until is None) == (oldest is None)
            assert until is None or until > at
            return False
        assert batch[0].payload == oldest
        assert len(batch) == 1 or (sum(entry.rows for entry in batch) <= max_rows and batch[0].key is not None)
        assert len({entry.key for entry in batch}) == 1
        handed.extend(entry.payload for entry in batch)
        batches.record_pass(0.001)
        return True

    for kind, value, rows in steps:
        if kind == "add":
            entries.append(QueuedRequest(len(entries), value, rows))
            batches.add(entries[-1], now)
        elif kind == "discard" and value < len(entries):
            was_waiting = value not in gone and value not in handed
            assert batches.discard(entries[value]) == was_waiting
            if was_waiting:
                gone.add(value)
        elif kind == "take":
            now += value
            take(now)
    while take(now + 1.0):
        pass
    assert sorted([*handed, *gone]) == list(range(len(entries)))
