"""The last changes, in order, for those who watch."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from sundog_operator.errors import DependencyError
from sundog_operator.ports import Object, Ref

_MAX_CHANGES = 4096
_MAX_BYTES = 32 * 1024 * 1024


class Expired(DependencyError):
    """The changes after that resourceVersion are no longer kept: list again. HTTP 410."""


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One committed write: the object after it, or the last one before it was deleted."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    ref: Ref
    body: bytes
    labels: Mapping[str, str]
    previous_labels: Mapping[str, str] | None

    def load(self) -> Object:
        """A copy of the object, the caller's own."""
        obj: Object = orjson.loads(self.body)
        return obj


class History:
    """A bounded log. Watchers read it at their own pace; one who falls behind what is kept gets Expired."""

    def __init__(self, revision: int, *, max_changes: int = _MAX_CHANGES, max_bytes: int = _MAX_BYTES) -> None:
        self._changes: deque[ObjectChange] = deque()
        self._bytes = 0
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._floor = revision
        self._newest = revision
        self._moved = asyncio.Event()
        self.closed = False

    def append(self, change: ObjectChange) -> None:
        """Add the newest change and wake every watcher."""
        self._changes.append(change)
        self._newest = change.revision
        self._bytes += len(change.body)
        # The newest change always stays, however large: else whoever waits for it could never get it.
        while len(self._changes) > 1 and (len(self._changes) > self._max_changes or self._bytes > self._max_bytes):
            oldest = self._changes.popleft()
            self._bytes -= len(oldest.body)
            self._floor = oldest.revision
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self.closed = True
        self._wake()

    def subscribe(self, revision: int) -> "Subscription":
        """Everything after that resourceVersion."""
        return Subscription(self, revision)

    def after(self, revision: int) -> list[ObjectChange]:
        """Return the changes after a resourceVersion. Raises Expired."""
        if not self._floor <= revision <= self._newest:
            # One from the future is from another life of this server.
            raise Expired(f"no changes are kept from resource version {revision}, only {self._floor} to {self._newest}")
        newer: list[ObjectChange] = []
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            newer.append(change)
        return newer[::-1]

    async def moved(self) -> None:
        """Wait until there may be something new."""
        await self._moved.wait()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Subscription:
    """One watcher's place in the history."""

    def __init__(self, history: History, revision: int) -> None:
        self._history = history
        self.revision = revision

    async def next(self, timeout_s: float | None = None) -> list[ObjectChange]:
        """The next changes; none when the time is over or the history is closed. Raises Expired."""
        changes = self._history.after(self.revision)
        if not changes and not self._history.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._history.moved()
            except TimeoutError:
                return []
            changes = self._history.after(self.revision)
        if changes:
            self.revision = changes[-1].revision
        return changes

    @property
    def closed(self) -> bool:
        """Whether no change will come any more."""
        return self._history.closed
