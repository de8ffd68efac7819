"""The one thread that runs a model."""

import asyncio
import threading
import weakref
from functools import partial
from typing import Any

import pytest

from sundog_runtime.scheduling.model_thread import ModelThread
from waiting import eventually


async def test_an_idle_thread_keeps_no_reference_to_its_last_call() -> None:
    """The body of the last large request would otherwise stay in memory until the next one."""

    class Body:
        """Stands in for a request object, which has no weak references."""

    thread, body = ModelThread(), Body()
    gone = weakref.ref(body)
    await thread.run(partial(id, body))
    del body
    await asyncio.to_thread(eventually, lambda: gone() is None, "the body is put down", 30)
    thread.close()


async def test_one_call_at_a_time_in_order() -> None:
    thread = ModelThread()
    running, order = [0], []

    def call(number: int) -> int:
        running[0] += 1
        assert running[0] == 1
        order.append(number)
        running[0] -= 1
        return number

    assert await asyncio.gather(*(thread.run(lambda number=number: call(number)) for number in range(50))) == list(
        range(50)
    )
    assert order == list(range(50))
    assert thread.is_idle
    thread.close()


async def test_a_cancelled_call_is_skipped() -> None:
    thread, release, made = ModelThread(), threading.Event(), []
    first = asyncio.create_task(thread.run(release.wait))
    second = asyncio.create_task(thread.run(lambda: made.append(1)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    assert not thread.is_idle
    release.set()
    await first
    await thread.run(lambda: None)
    assert made == []
    assert thread.is_idle
    thread.close()


async def test_the_thread_is_free_when_a_result_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, looked_at = asyncio.get_running_loop(), threading.Event()
    call = loop.call_soon_threadsafe

    def call_slowly(*args: Any) -> Any:
        handle = call(*args)
        looked_at.wait()
        return handle

    monkeypatch.setattr(loop, "call_soon_threadsafe", call_slowly)
    thread = ModelThread()
    await thread.run(lambda: None)
    assert thread.busy_seconds == 0.0
    looked_at.set()
    thread.close()
