import asyncio

import pytest

from sundog_operator.adapters.memory_kubernetes.history import Expired, History, ObjectChange
from sundog_operator.ports import CONFIG_MAP, Ref
from waiting import PATIENCE_S


def change(revision: int, size: int = 2) -> ObjectChange:
    return ObjectChange(revision, "ADDED", Ref(CONFIG_MAP, "vision", "a"), b"x" * size, {}, None)


async def test_reads_in_order_from_any_place_that_is_kept() -> None:
    history = History(5)
    first, late = history.subscribe(5), history.subscribe(7)
    for revision in (6, 7, 8):
        history.append(change(revision))
    assert [entry.revision for entry in await first.next()] == [6, 7, 8]
    assert [entry.revision for entry in await late.next()] == [8]
    assert await first.next(timeout_s=0) == []
    with pytest.raises(Expired, match="resourceVersion 4: changes expired; expected 5 to 8"):
        await history.subscribe(4).next()
    with pytest.raises(Expired, match="resourceVersion 9: changes expired; expected 5 to 8"):
        await history.subscribe(9).next()


async def test_keeps_no_more_than_so_many_changes() -> None:
    history = History(0, max_changes=3)
    for revision in range(1, 11):
        history.append(change(revision))
    assert [entry.revision for entry in history.after(7)] == [8, 9, 10]
    with pytest.raises(Expired):
        history.after(6)


async def test_keeps_no_more_than_so_many_bytes_but_always_the_newest() -> None:
    history = History(0, max_bytes=10)
    for revision, size in ((1, 4), (2, 4), (3, 4)):
        history.append(change(revision, size))
    assert [entry.revision for entry in history.after(1)] == [2, 3]
    history.append(change(4, 1000))
    assert [entry.revision for entry in history.after(3)] == [4]
    history.append(change(5, 1))
    assert [entry.revision for entry in history.after(4)] == [5]


async def test_wakes_all_waiting_watchers() -> None:
    history = History(0)
    waiting = [asyncio.ensure_future(history.subscribe(0).next()) for _ in range(3)]
    await asyncio.sleep(0)
    history.append(change(1))
    async with asyncio.timeout(PATIENCE_S):
        assert [[entry.revision for entry in await task] for task in waiting] == [[1], [1], [1]]
