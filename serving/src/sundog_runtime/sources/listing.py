"""The listing of a model in a store: readable objects, for any store."""

import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sundog_runtime.errors import SourceUnavailable
from sundog_runtime.sources.download_limits import DownloadLimits

Result = TypeVar("Result")

ReadRange = Callable[[int, int | None], AsyncGenerator[bytes, None]]
"""Yields the bytes from one offset to before another, or to the end. Raises a StartError; a TransientSourceError if a retry can help."""


class TransientSourceError(SourceUnavailable):
    """An error that may pass soon. `retry_after_s` is the pause that the store requested."""

    reason = "SourceUnavailable"

    def __init__(self, message: str, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ObjectChanged(SourceUnavailable):
    """An object differs from the listing: parts of its two versions must not be joined."""

    reason = "SourceUnavailable"


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object. `size` is in bytes, None if the store does not report it.

    Attributes:
        path: relative to the model, with '/' between segments.
        identity: changes with the content; empty if nothing does, and then parts of different reads are never joined.
        supports_ranges: whether it can be read from an offset.
        sha256: the expected digest, in hex; empty if there is none.
        unpack: whether it is an archive, to be replaced by its members.
    """

    path: str
    size: int | None
    identity: str
    read: ReadRange
    supports_ranges: bool = True
    sha256: str = ""
    unpack: bool = False

    @property
    def is_resumable(self) -> bool:
        """Whether parts that were read at different times belong together."""
        return bool(self.supports_ranges and self.identity and self.size is not None)


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A model in a store. `file_name` is the name of its one file, empty for a directory."""

    objects: tuple[RemoteObject, ...]
    file_name: str = ""

    @property
    def size(self) -> int:
        """Return the number of bytes, as far as sizes are known."""
        return sum(remote.size or 0 for remote in self.objects)

    @property
    def identity(self) -> str:
        """Return a hash of every object's name, size and identity; empty if one has no identity."""
        if not all(remote.identity for remote in self.objects):
            return ""
        rows = sorted([remote.path, remote.size, remote.identity] for remote in self.objects)
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def make_retrying(limits: DownloadLimits) -> AsyncRetrying:
    """Return a retry loop with growing pauses for TransientSourceError. The last error is raised unchanged."""
    backoff = wait_random_exponential(multiplier=limits.min_pause_s, max=limits.max_pause_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        requested_s = error.retry_after_s if isinstance(error, TransientSourceError) else 0
        return max(backoff(state), min(requested_s, limits.max_pause_s))

    return AsyncRetrying(
        retry=retry_if_exception_type(TransientSourceError),
        stop=stop_after_attempt(limits.attempts),
        wait=wait,
        reraise=True,
    )


async def retry(limits: DownloadLimits, call: Callable[[], Awaitable[Result]]) -> Result:
    """Return the result of `call`, retried as by `make_retrying`."""
    async for attempt in make_retrying(limits):
        with attempt:
            result = await call()
    return result
