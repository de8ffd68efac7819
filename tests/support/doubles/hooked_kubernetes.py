"""The in-memory API server with hooks for tests: faults, a record of writes, lost history and broken watches."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes, Verb
from sundog_operator.adapters.memory_kubernetes.history import History, ObjectChange, Subscription
from sundog_operator.adapters.memory_kubernetes.store import WriteResult
from sundog_operator.errors import DependencyError
from sundog_operator.ports import Clock, Object, Ref

_WRITES_KEPT = 4096


class Dropped(DependencyError):
    """The watch was closed by a test."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write of a client; `changed` is False before the write, and for one that changed nothing."""

    verb: Verb
    ref: Ref
    changed: bool = False


class HookedKubernetes(MemoryKubernetes):
    """`faults(verb, ref)` returns an exception to raise instead of acting; the name of `ref` is empty for list and watch.

    `on_write(moment, write)` is called before and after each write and may raise. `writes` are the last writes that were done.
    """

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(clock, **options)
        self.store.history = _HookedHistory(self.store.revision)
        self.faults: Callable[[Verb, Ref], Exception | None] = lambda _verb, _ref: None
        self.on_write: Callable[[Literal["before", "after"], Write], None] = lambda _moment, _write: None
        self.writes: deque[Write] = deque(maxlen=_WRITES_KEPT)

    def compact(self) -> None:
        """Forget past changes, as etcd does every few minutes: a watch from before must list again (410)."""
        self.store.history.compact()

    def drop_watches(self) -> None:
        """Raise Dropped in every watch that is open now."""
        self.store.history.drop()

    async def enter(self, verb: Verb, ref: Ref) -> None:
        await super().enter(verb, ref)
        fault = self.faults(verb, ref)
        if fault is not None:
            raise fault

    async def _write(self, verb: Verb, ref: Ref, act: Callable[[], WriteResult]) -> Object:
        def act_with_hooks() -> WriteResult:
            self.on_write("before", Write(verb, ref))
            result = act()
            write = Write(verb, ref, result.changed)
            self.writes.append(write)
            self.on_write("after", write)
            return result

        return await super()._write(verb, ref, act_with_hooks)


class _HookedHistory(History):
    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.drops = 0

    def compact(self) -> None:
        self._changes.clear()
        self._bytes = 0
        self._oldest = self._newest

    def drop(self) -> None:
        self.drops += 1
        self._wake()

    def subscribe(self, revision: int) -> Subscription:
        return _HookedSubscription(self, revision)


class _HookedSubscription(Subscription):
    def __init__(self, history: _HookedHistory, revision: int) -> None:
        super().__init__(history, revision)
        self._hooked = history
        self._drops = history.drops

    async def next(self, timeout_s: float | None = None) -> list[ObjectChange]:
        self._raise_if_dropped()
        changes = await super().next(timeout_s)
        self._raise_if_dropped()
        return changes

    def _raise_if_dropped(self) -> None:
        if self._hooked.drops != self._drops:
            raise Dropped("the watch was dropped")
