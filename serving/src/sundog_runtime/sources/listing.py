"""What a store has of a model: objects that can be read, whichever store it is."""

import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sundog_runtime.errors import SourceUnavailable
from sundog_runtime.sources.download_limits import DownloadLimits

ReadRange = Callable[[int, int | None], AsyncGenerator[bytes, None]]
"""The bytes from one offset to before another, or to the end. Raises a StartError, Transient where trying helps."""


class TransientSourceError(SourceUnavailable):
    """Trouble that may pass at once. `after` is how many seconds the store asked to be left alone."""

    reason = "SourceUnavailable"

    def __init__(self, message: str, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


class ObjectChanged(SourceUnavailable):
    """An object is no longer what the listing told: parts of the two must not be joined."""

    reason = "SourceUnavailable"


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object. `size` is in bytes, None where the store does not tell.

    Attributes:
        path: relative to the model, with '/' between segments.
        identity: changes with the content; empty where nothing does, and then no two reads are joined.
        ranged: whether it can be read from an offset.
        sha256: what the store promises, in hex; empty without a promise.
        unpack: an archive, in whose place its members belong.
    """

    path: str
    size: int | None
    identity: str
    read: ReadRange
    supports_ranges: bool = True
    sha256: str = ""
    unpack: bool = False

    @property
    def in_parts(self) -> bool:
        """Whether parts that were read at different times belong together."""
        return bool(self.supports_ranges and self.identity and self.size is not None)


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A model as a store has it. `only` is the name of its one file, empty for a directory."""

    objects: tuple[RemoteObject, ...]
    only: str = ""

    @property
    def size(self) -> int:
        """Bytes, as far as they are known."""
        return sum(remote.size or 0 for remote in self.objects)

    @property
    def identity(self) -> str:
        """A hash of every object's name, size and identity; empty if one has no identity."""
        if not all(remote.identity for remote in self.objects):
            return ""
        rows = sorted([remote.path, remote.size, remote.identity] for remote in self.objects)
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def make_retrying(limits: DownloadLimits) -> AsyncRetrying:
    """Attempts, with growing pauses, as long as what is raised is Transient. The last one is raised as it is."""
    backoff = wait_random_exponential(multiplier=limits.pause, max=limits.max_pause_s)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, TransientSourceError) else 0
        return max(backoff(state), min(asked, limits.max_pause_s))

    return AsyncRetrying(
        retry=retry_if_exception_type(TransientSourceError),
        stop=stop_after_attempt(limits.attempts),
        wait=wait,
        reraise=True,
    )
