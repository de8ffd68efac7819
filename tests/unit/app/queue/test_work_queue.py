import asyncio

import pytest

from doubles.clock import FakeClock
from sundog_operator.app.queue.work_queue import MAX_DELAY_S, WorkQueue, backoff_s
from waiting import PATIENCE_S


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> WorkQueue[str]:
    return WorkQueue(clock, lambda: 0.0)


async def taken(queue: WorkQueue[str]) -> str | None:
    """Return the key that can be taken now."""
    task = asyncio.ensure_future(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    return None


async def test_a_key_stands_in_line_once(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert queue.depth == 2
    assert [await taken(queue), await taken(queue), await taken(queue)] == ["a", "b", None]


async def test_a_key_at_work_is_not_taken_twice_and_comes_back_after(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    assert await taken(queue) is None
    queue.done("a")
    assert await taken(queue) == "a"


async def test_the_depth_counts_what_is_due_and_not_at_work(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add("resync", delay_s=30)
    assert queue.depth == 0
    queue.add("a")
    queue.add("b")
    assert queue.depth == 2
    assert await taken(queue) == "a"
    assert queue.depth == 1
    queue.add("a")
    assert queue.depth == 2, "it is to be worked on again"
    assert queue.failed("a") > 0
    queue.done("a")
    clock.advance(30)
    assert queue.depth == 3


async def test_a_delayed_key_waits_for_its_time(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add("a", delay_s=10)
    waiting = asyncio.ensure_future(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(9.9)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)
    assert await waiting == "a"


async def test_the_earliest_of_several_times_wins(queue: WorkQueue[str], clock: FakeClock) -> None:
    queue.add("a", delay_s=10)
    queue.add("a", delay_s=1)
    queue.add("a", delay_s=30)
    clock.advance(1)
    assert await taken(queue) == "a"
    queue.done("a")
    clock.advance(100)
    assert await taken(queue) is None


async def test_an_earlier_add_wakes_one_who_waits_for_a_later(queue: WorkQueue[str]) -> None:
    queue.add("late", delay_s=100)
    waiting = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    queue.add("now")
    assert await waiting == "now"


async def test_who_is_about_to_wait_is_woken_although_another_takes_a_key_before(queue: WorkQueue[str]) -> None:
    waiting = asyncio.ensure_future(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    queue.add("b")
    assert await queue.take() == "a"
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting == "b"


async def test_failures_come_back_later_until_one_pass_is_well(queue: WorkQueue[str], clock: FakeClock) -> None:
    delays = []
    for _ in range(3):
        queue.add("a")
        clock.advance(200)
        assert await taken(queue) == "a"
        delays.append(queue.failed("a"))
    assert delays == [0.2, 0.4, 0.8]
    clock.advance(1)
    assert await taken(queue) == "a"
    queue.done("a")
    queue.add("a")
    assert await taken(queue) == "a"
    assert queue.failed("a") == 0.2


async def test_a_group_leaves_a_worker_to_others_and_keeps_its_order(clock: FakeClock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock, lambda: 0.0, group_of=lambda key: key[0], group_limit=2)
    for key in ("a1", "a2", "a3", "a4", "b1"):
        queue.add(key)
    assert [await taken(queue) for _ in range(4)] == ["a1", "a2", "b1", None]
    assert queue.depth == 2
    queue.add("a1")
    queue.add("a5")
    assert await taken(queue) is None
    queue.done("a2")
    assert [await taken(queue) for _ in range(2)] == ["a3", None]
    queue.done("a3")
    queue.done("a1")
    assert [await taken(queue) for _ in range(3)] == ["a4", "a1", None]
    queue.done("a1")
    assert [await taken(queue) for _ in range(2)] == ["a5", None]


def test_back_off_is_bounded_and_jitter_only_shortens_it() -> None:
    assert backoff_s(1000, 0.0) == MAX_DELAY_S
    assert backoff_s(3, 0.99) > backoff_s(3, 0.0) / 2 - 1e-9
    assert backoff_s(3, 0.5) < backoff_s(3, 0.0)
