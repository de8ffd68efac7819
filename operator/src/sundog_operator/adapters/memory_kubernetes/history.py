"""Keeps the last changes, in order, for watchers."""

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
    """The changes after that resourceVersion are gone, so the watcher must list again. HTTP 410."""


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One committed write: the object after it, or the last state of a deleted object."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    ref: Ref
    body: bytes
    labels: Mapping[str, str]
    previous_labels: Mapping[str, str] | None

    def load(self) -> Object:
        """Return a copy of the object, which the caller may change."""
        obj: Object = orjson.loads(self.body)
        return obj


class History:
    """A bounded log. Watchers read it at their own pace; one that falls behind the oldest entry gets Expired."""

    def __init__(self, revision: int, *, max_changes: int = _MAX_CHANGES, max_bytes: int = _MAX_BYTES) -> None:
        self._changes: deque[ObjectChange] = deque()
        self._bytes = 0
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._oldest = revision
        self._newest = revision
        self._changed = asyncio.Event()
        self.closed = False

    def append(self, change: ObjectChange) -> None:
        """Add the newest change and wake every watcher."""
        self._changes.append(change)
        self._newest = change.revision
        self._bytes += len(change.body)
        # The newest change always stays, however large, or watchers that wait for it could never get it.
        while len(self._changes) > 1 and (len(self._changes) > self._max_changes or self._bytes > self._max_bytes):
            removed = self._changes.popleft()
            self._bytes -= len(removed.body)
            self._oldest = removed.revision
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self.closed = True
        self._wake()

    def subscribe(self, revision: int) -> "Subscription":
        """Subscribe to all changes after a resourceVersion."""
        return Subscription(self, revision)

    def after(self, revision: int) -> list[ObjectChange]:
        """Return the changes after a resourceVersion. Raises Expired."""
        if not self._oldest <= revision <= self._newest:
            # A version from the future comes from an earlier server.
            raise Expired(
                f"resourceVersion {revision}: changes expired; expected {self._oldest} to {self._newest}. List again."
            )
        newer: list[ObjectChange] = []
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            newer.append(change)
        return newer[::-1]

    async def changed(self) -> None:
        """Wait until there may be a new change."""
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Subscription:
    """One watcher's position in the history."""

    def __init__(self, history: History, revision: int) -> None:
        self._history = history
        self.revision = revision

    async def next(self, timeout_s: float | None = None) -> list[ObjectChange]:
        """Wait for the next changes; return none after the timeout or when the history closes. Raises Expired."""
        changes = self._history.after(self.revision)
        if not changes and not self._history.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._history.changed()
            except TimeoutError:
                return []
            changes = self._history.after(self.revision)
        if changes:
            self.revision = changes[-1].revision
        return changes

    @property
    def closed(self) -> bool:
        """Whether the history is closed, so that no change follows."""
        return self._history.closed
