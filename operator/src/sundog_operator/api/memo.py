"""Results of pure functions of JSON, kept by its text: each pass reads again what hardly ever changes.

What is kept is shared by all who ask, so it must be frozen.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import orjson

T = TypeVar("T")

MAX_ENTRIES: Final = 4096
MAX_KEY_BYTES: Final = 4 << 20
"""Of JSON. What is read from it takes some ten times as much, and most of what is kept of a thousand ModelDeployments is states gone by."""


class Memoized(Generic[T]):
    """A pure function of a JSON value and of objects that stay as they are, which are told apart by identity."""

    def __init__(self, compute: Callable[..., T], kept: int = MAX_ENTRIES, kept_bytes: int = MAX_KEY_BYTES) -> None:
        self._compute = compute
        self._most = kept
        self._most_bytes = kept_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[Any, ...], tuple[T, tuple[object, ...]]] = OrderedDict()

    def __call__(self, value: Any, *others: object) -> T:
        """What the function gives, computed at the first time; a value that is no JSON is not kept."""
        try:
            key: tuple[Any, ...] = (orjson.dumps(value), *map(id, others))
        except TypeError:
            return self._compute(value, *others)
        found = self._kept.get(key)
        if found is None:
            # The others are kept too: while they live, nothing else has their identity.
            found = self._kept[key] = (self._compute(value, *others), others)
            self._bytes += len(key[0])
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                oldest, _ = self._kept.popitem(last=False)
                self._bytes -= len(oldest[0])
        else:
            self._kept.move_to_end(key)
        return found[0]
