"""A queue that decides when the model gets waiting requests, and which of them together. No clock, no threads, no arrays.

A pass over many rows costs less than as many passes over one. But a request that waits for others is delayed, without
any benefit if none come. So:

- While the model is busy, requests gather anyway; the next batch has as many of them as fit.
- When the model is free, a lone request waits only while more are expected: as many as were in the replica at once
  lately. It waits no longer than `max_delay_s`, nor longer than a pass takes, because a shorter pass would have ended
  by then. A request that waits in vain makes the queue expect fewer.

With one connection there is never more than one request in the replica, and no request waits.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(eq=False, slots=True)
class QueuedRequest(Generic[Payload]):
    """A waiting request. Requests with equal `key` may be batched; None means never. `rows` is its size."""

    payload: Payload
    key: Hashable = None
    rows: int = 1
    arrived: float = 0.0


@dataclass(slots=True)
class BatchQueue(Generic[Payload]):
    """Requests in the order of their arrival, returned in batches of at most `max_rows` rows.

    A request of more rows is returned alone. All times are in seconds of the same clock.
    """

    max_rows: int = 1
    max_delay_s: float = 0.0
    pass_seconds: float = 0.0
    _waiting: deque[QueuedRequest[Payload]] = field(default_factory=deque)
    _running: int = 0
    _expected: int = 1
    _held: bool = False
    _mean_over: float = 32.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: QueuedRequest[Payload], now: float) -> None:
        """Queue a request."""
        entry.arrived = now
        self._waiting.append(entry)
        self._expected = max(self._expected, len(self._waiting) + self._running)

    def discard(self, entry: QueuedRequest[Payload]) -> bool:
        """Remove an abandoned request. Return False if it is not waiting."""
        try:
            self._waiting.remove(entry)
        except ValueError:
            return False
        return True

    def take_batch(self, now: float) -> tuple[list[QueuedRequest[Payload]], float | None]:
        """Return the next batch, all with one key, the oldest request first; or no batch, and the time of the next call at the latest.

        The time is None if no request waits. The caller calls `record_pass` after the pass.
        """
        if not self._waiting:
            return [], None
        batch, is_full = self._next()
        if not is_full and len(self._waiting) < self._expected:
            until = self._waiting[0].arrived + min(self.max_delay_s, self.pass_seconds)
            if now < until:
                self._held = True
                return [], until
            if self._held:
                self._expected = len(self._waiting)
        self._held = False
        if len(batch) == len(self._waiting):
            self._waiting.clear()
        else:
            for entry in batch:
                self._waiting.remove(entry)
        self._running = len(batch)
        return batch, None

    def record_pass(self, seconds: float) -> None:
        """Record the pass of the last batch, which took `seconds`."""
        self._running = 0
        self.pass_seconds += (seconds - self.pass_seconds) / self._mean_over if self.pass_seconds else seconds

    def _next(self) -> tuple[list[QueuedRequest[Payload]], bool]:
        """Return the oldest request and those that may join it, and whether the batch is full."""
        first = self._waiting[0]
        batch, rows = [first], first.rows
        if first.key is None or rows >= self.max_rows:
            return batch, True
        for entry in list(self._waiting)[1:]:
            if entry.key != first.key:
                continue
            if rows + entry.rows > self.max_rows:
                return batch, True
            batch.append(entry)
            rows += entry.rows
            if rows == self.max_rows:
                return batch, True
        return batch, False
