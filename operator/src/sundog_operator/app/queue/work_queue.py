"""The work queue: each key at most once in line and never twice at work."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from sundog_operator.ports import Clock

K = TypeVar("K")

BASE_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 120.0


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds before retry number `failures` (from 1): 0.2 · 2^(n−1), at most 120, times 1 − jitter/2 for a jitter in [0, 1)."""
    return min(BASE_DELAY_S * 2.0 ** min(failures - 1, 20), MAX_DELAY_S) * (1 - jitter / 2)


class QueueObserver(Protocol):
    """Hears of what happens in a queue, for metrics."""

    def added(self) -> None:
        """A key was asked for that was not in line."""

    def taken(self, waited_s: float) -> None:
        """A key left the line, so many seconds after it was due."""

    def retried(self) -> None:
        """Work on a key failed and is tried again."""


class _Deaf:
    def added(self) -> None:
        return

    def taken(self, waited_s: float) -> None:  # noqa: ARG002 - nobody listens
        return

    def retried(self) -> None:
        return


class WorkQueue(Generic[K]):
    """Keys that wait for work, with delays.

    A key added while it is at work comes back when that work is done, so a change seen half way is never lost.
    Of several times asked for one key the earliest wins.
    """

    def __init__(self, clock: Clock, jitter: Callable[[], float], observer: QueueObserver | None = None) -> None:
        self._observer = observer or _Deaf()
        self._clock = clock
        self._jitter = jitter
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._active: set[K] = set()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that are due and not taken yet, as client-go counts them: what waits for its time is not in line."""
        now = self._clock.monotonic()
        return sum(due <= now for due in self._due.values())

    def add(self, key: K, delay_s: float = 0.0) -> None:
        """Ask for work on a key, at the earliest after a delay in seconds."""
        due = self._clock.monotonic() + delay_s
        if key not in self._due:
            self._observer.added()
        elif self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake()

    async def take(self) -> K:
        """Wait for a key that is due and not at work, and mark it as at work."""
        while True:
            key, wait_s = self._next()
            if key is not None:
                return key
            await self._wait(wait_s)

    def done(self, key: K) -> None:
        """Report that work on a key ended well."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K) -> float:
        """Report that work on a key failed: it comes back after a growing delay, which is returned in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = backoff_s(self._failures[key], self._jitter())
        self._observer.retried()
        self._release(key)
        self.add(key, delay_s)
        return delay_s

    def _release(self, key: K) -> None:
        self._active.discard(key)
        self._wake()

    def _wake(self) -> None:
        """Each change has an event of its own: whoever was about to wait for it finds it set, whatever others take meanwhile."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _next(self) -> tuple[K | None, float | None]:
        now, parked = self._clock.monotonic(), []
        found, wait_s = None, None
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)  # superseded by an earlier time
            elif due > now:
                wait_s = due - now
                break
            elif key in self._active:
                parked.append(heapq.heappop(self._heap))
            else:
                heapq.heappop(self._heap)
                del self._due[key]
                self._active.add(key)
                self._observer.taken(now - due)
                found = key
                break
        for item in parked:
            heapq.heappush(self._heap, item)
        return found, wait_s

    async def _wait(self, seconds: float | None) -> None:
        waiter = asyncio.ensure_future(self._changed.wait())
        timer = None if seconds is None else asyncio.ensure_future(self._clock.sleep(seconds))
        tasks = {waiter} if timer is None else {waiter, timer}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
