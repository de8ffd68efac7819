"""What a download may cost. Set by whoever runs the server, never by a manifest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sundog_runtime.errors import LoadFailed

GIB = 1024**3

_BYTES = {
    "SUNDOG_MODEL_MAX_BYTES": "model_bytes",
    "SUNDOG_CACHE_MAX_BYTES": "cache_bytes",
    "SUNDOG_SOURCE_MIN_BYTES_PER_SECOND": "bytes_per_second",
    "SUNDOG_SOURCE_MAX_SECONDS": "seconds",
}


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Sizes in bytes, times in seconds.

    Attributes:
        model_bytes: of one model, as it is sent and as it is unpacked.
        cache_bytes: of all models of all namespaces; those in use are kept beyond it.
        seconds: for one model, from the first byte to the last.
        listing: for all that is asked before, such as which files there are.
        bytes_per_second: the least that must arrive, averaged over `window`.
        part_bytes: what is requested at once of an object that can be read in parts; what a crash loses at most of each.
        connections: parts under way at a time.
        attempts: to read one part, or one listing.
        pause: before the second attempt; doubled before each further one, at most `longest_pause`.
        idle: without a byte from an open connection.
    """

    model_bytes: int = 100 * GIB
    cache_bytes: int = 200 * GIB
    seconds: float = 3600
    listing: float = 300
    bytes_per_second: int = 64 * 1024
    window: float = 30
    part_bytes: int = 16 * 1024 * 1024
    connections: int = 8
    attempts: int = 5
    pause: float = 0.25
    max_pause_s: float = 10
    connect: float = 10
    idle: float = 30


def read_limits(environment: Mapping[str, str] = os.environ) -> DownloadLimits:
    """The defaults, or what the environment says instead. Raises LoadFailed for what is no positive whole number."""
    given = {}
    for name, field in _BYTES.items():
        text = environment.get(name, "")
        if text and not (text.isascii() and text.isdigit() and int(text) > 0):
            raise LoadFailed(f"the environment variable {name} is {text!r}; expected a positive whole number")
        if text:
            given[field] = int(text)
    return DownloadLimits(**given)
