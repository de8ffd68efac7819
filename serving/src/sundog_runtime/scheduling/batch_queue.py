"""When waiting requests are put before the model, and which of them together. No clock, no threads, no arrays.

A pass over many rows costs less than as many passes over one. But waiting for company costs the ones that wait, and is
for nothing when nobody comes. So:

- While the model is busy, requests gather by themselves; what has gathered goes next, as far as it fits.
- When the model is free, a lone request waits only while more are known to be about: as many as were in the house at
  once lately. It waits no longer than `max_delay`, nor longer than a pass takes, since a shorter pass would have been
  over by then. Who waited in vain teaches the queue that fewer are about.

With one connection there is never more than one request in the house, and nobody waits.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(eq=False, slots=True)
class QueuedRequest(Generic[Payload]):
    """A waiting request. Entries with equal `key` may be joined; None joins with nobody. `rows` is its size."""

    payload: Payload
    key: Hashable = None
    rows: int = 1
    arrived: float = 0.0


@dataclass(slots=True)
class BatchQueue(Generic[Payload]):
    """Requests in the order of their arrival, handed out in batches of at most `max_rows` rows.

    A request of more rows than that is handed out alone. Times are in seconds of one clock, whichever.
    """

    max_rows: int = 1
    max_delay: float = 0.0
    pass_seconds: float = 0.0
    _waiting: deque[QueuedRequest[Payload]] = field(default_factory=deque)
    _running: int = 0
    _about: int = 1
    _held: bool = False
    _memory: float = 32.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: QueuedRequest[Payload], now: float) -> None:
        """Queue a request."""
        entry.arrived = now
        self._waiting.append(entry)
        self._about = max(self._about, len(self._waiting) + self._running)

    def discard(self, entry: QueuedRequest[Payload]) -> bool:
        """Take a request back that nobody wants an answer to any more. False when it is not waiting."""
        try:
            self._waiting.remove(entry)
        except ValueError:
            return False
        return True

    def take(self, now: float) -> tuple[list[QueuedRequest[Payload]], float | None]:
        """The next batch, all with one key, the oldest request first; or none, and when to ask again at the latest.

        None instead of a time when nothing waits. The caller tells by `done` when the batch is through.
        """
        if not self._waiting:
            return [], None
        batch, full = self._next()
        if not full and len(self._waiting) < self._about:
            until = self._waiting[0].arrived + min(self.max_delay, self.pass_seconds)
            if now < until:
                self._held = True
                return [], until
            if self._held:
                self._about = len(self._waiting)
        self._held = False
        if len(batch) == len(self._waiting):
            self._waiting.clear()
        else:
            for entry in batch:
                self._waiting.remove(entry)
        self._running = len(batch)
        return batch, None

    def done(self, seconds: float) -> None:
        """The batch that was taken last is through; its pass took `seconds`."""
        self._running = 0
        self.pass_seconds += (seconds - self.pass_seconds) / self._memory if self.pass_seconds else seconds

    def _next(self) -> tuple[list[QueuedRequest[Payload]], bool]:
        """The oldest request and those that may join it, and whether no further one could."""
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
