"""The work queue: a key waits at most once, and is never reconciled twice at the same time. No group of keys takes all workers."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

from sundog_operator.ports import Clock

K = TypeVar("K")

BASE_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 120.0


def backoff_s(failures: int, jitter: float) -> float:
    """Return the seconds before retry number n = `failures`, from 1: min(0.2 · 2^(n−1), 120) · (1 − jitter/2), jitter in [0, 1)."""
    return min(BASE_DELAY_S * 2.0 ** min(failures - 1, 20), MAX_DELAY_S) * (1 - jitter / 2)


class QueueObserver(Protocol):
    """Observes the queue, for metrics."""

    def added(self) -> None:
        """A key was added that was not waiting."""

    def taken(self, waited_s: float) -> None:
        """A worker took a key, that many seconds after it was due."""

    def retried(self) -> None:
        """A pass on a key failed, and the key is retried."""


class _NoObserver:
    def added(self) -> None:
        return

    def taken(self, waited_s: float) -> None:  # noqa: ARG002 - unused
        return

    def retried(self) -> None:
        return


class WorkQueue(Generic[K]):
    """Keys that wait for a worker, with delays.

    A key that is added during its pass comes back after the pass, so no change is lost. If a key is added several times, the earliest time
    wins. Keys of one group leave workers to other groups, because passes of a group may all wait for the same slow service.
    """

    def __init__(
        self,
        clock: Clock,
        jitter: Callable[[], float],
        observer: QueueObserver | None = None,
        *,
        group_of: Callable[[K], Hashable] = lambda key: key,
        group_limit: int = 1,
    ) -> None:
        """`group_limit` is how many keys of a group, by `group_of`, are taken at the same time; at least one."""
        self._observer = observer or _NoObserver()
        self._group_of = group_of
        self._group_limit = max(group_limit, 1)
        self._held: dict[Hashable, list[tuple[float, int, K]]] = {}
        """Heaps of due keys by group, which `_heap` gets back one by one as keys of the group are released."""
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
        """Number of keys that are due and not taken yet. As in client-go, delayed keys do not count."""
        now = self._clock.monotonic()
        return sum(due <= now for due in self._due.values())

    def add(self, key: K, delay_s: float = 0.0) -> None:
        """Add a key that is due after a delay in seconds."""
        due = self._clock.monotonic() + delay_s
        if key not in self._due:
            self._observer.added()
        elif self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._wake()

    async def take(self) -> K:
        """Wait for a key that is due and has no worker, and mark it as taken."""
        while True:
            key, wait_s = self._take_due()
            if key is not None:
                return key
            await self._wait(wait_s)

    def done(self, key: K) -> None:
        """Release a key after a successful pass."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K) -> float:
        """Release a key after a failed pass, and add it again. Return the back-off delay in seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = backoff_s(self._failures[key], self._jitter())
        self._observer.retried()
        self._release(key)
        self.add(key, delay_s)
        return delay_s

    def _release(self, key: K) -> None:
        self._active.discard(key)
        self._admit_held(self._group_of(key))
        self._wake()

    def _admit_held(self, group: Hashable) -> None:
        """Return a group's first held key that a worker may take to the heap."""
        held = self._held.pop(group, [])
        while held:
            item = heapq.heappop(held)
            heapq.heappush(self._heap, item)
            due, _, key = item
            if self._due.get(key) == due and key not in self._active:
                break
        if held:
            self._held[group] = held

    def _is_full(self, group: Hashable) -> bool:
        return sum(self._group_of(each) == group for each in self._active) >= self._group_limit

    def _wake(self) -> None:
        """Wake all waiting workers. Each change has its own event, so a worker that is about to wait for it finds it set."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _take_due(self) -> tuple[K | None, float | None]:
        """Return a due key without a worker, else the seconds until the next key is due; None where no key is delayed."""
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
            elif self._is_full(group := self._group_of(key)):
                heapq.heappush(self._held.setdefault(group, []), heapq.heappop(self._heap))
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
