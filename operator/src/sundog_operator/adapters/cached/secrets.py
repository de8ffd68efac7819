"""Caches Secrets that are read by name."""

from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from sundog_operator.ports import Clock, Object, Ref

SECRET_TTL_S: Final = 10.0
"""Time for which a Secret is not read again."""


class SecretCache:
    """Keeps each Secret for `SECRET_TTL_S` after its read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stored: dict[Ref, tuple[float, bytes]] = {}
        self._reads: dict[Ref, object] = {}

    async def get(self, ref: Ref, read: Callable[[Ref], Awaitable[Object | None]]) -> Object | None:
        """Return a Secret, read by `read` where it is not cached. Raises the errors of `read`."""
        now = self._clock.monotonic()
        at, body = self._stored.get(ref, (now - SECRET_TTL_S, b""))
        if now - at < SECRET_TTL_S:
            cached: Object = orjson.loads(body)
            return cached
        this_read = self._reads[ref] = object()
        obj = await read(ref)
        self._stored = {each: entry for each, entry in self._stored.items() if now - entry[0] < SECRET_TTL_S}
        if self._reads.get(ref) is this_read:
            del self._reads[ref]
            if obj is not None:
                self._stored[ref] = (now, orjson.dumps(obj))
        return obj

    def forget(self, ref: Ref) -> None:
        """Read a Secret again next time. The answer to a read that is under way is not cached."""
        self._stored.pop(ref, None)
        self._reads.pop(ref, None)
