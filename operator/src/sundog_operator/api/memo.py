"""Memoized functions of JSON values, because each pass reads mostly unchanged objects again.

Results are shared by all callers, so they must be frozen.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import orjson

T = TypeVar("T")

MAX_ENTRIES: Final = 4096
MAX_KEY_BYTES: Final = 4 << 20
"""Bytes of JSON. The results take about ten times as much. With a thousand ModelDeployments, most of it is outdated states."""


class Memoized(Generic[T]):
    """A memoized pure function of a JSON value and of immutable objects, which are identified by identity. Threads may share it."""

    def __init__(
        self, compute: Callable[..., T], max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_KEY_BYTES
    ) -> None:
        self._compute = compute
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[Any, ...], tuple[T, tuple[object, ...]]] = OrderedDict()

    def __call__(self, value: Any, *others: object) -> T:
        """Return the function's result, computed once per value. Values that are not JSON are not stored."""
        try:
            key: tuple[Any, ...] = (orjson.dumps(value), *map(id, others))
        except TypeError:
            return self._compute(value, *others)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
        made = self._compute(value, *others)
        with self._lock:
            if key in self._entries:
                # Another thread was faster. All callers share its result.
                return self._entries[key][0]
            # Stored as well: while these objects live, no other object has their id.
            self._entries[key] = (made, others)
            self._bytes += len(key[0])
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                oldest, _ = self._entries.popitem(last=False)
                self._bytes -= len(oldest[0])
        return made
