"""Limits of a download. The administrator of the server sets them, never a manifest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sundog_runtime.errors import LoadFailed

GIB = 1024**3

_VARIABLES = {
    "SUNDOG_MODEL_MAX_BYTES": "model_bytes",
    "SUNDOG_CACHE_MAX_BYTES": "cache_bytes",
    "SUNDOG_SOURCE_MIN_BYTES_PER_SECOND": "bytes_per_second",
    "SUNDOG_SOURCE_MAX_SECONDS": "total_s",
}


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Sizes in bytes, times in seconds.

    Attributes:
        model_bytes: maximum of one model, both as sent and as unpacked.
        cache_bytes: maximum of all models of all namespaces; models in use stay even beyond it.
        total_s: maximum for one model, from the first byte to the last.
        listing_s: maximum for all requests before that, such as the list of files.
        bytes_per_second: minimum rate, averaged over `window_s`.
        part_bytes: size of one request for an object that can be read in parts; a crash loses at most this much of each.
        connections: maximum of parts at a time.
        attempts: maximum of attempts to read one part, or one listing.
        min_pause_s: pause before the second attempt; doubled before each further one, up to `max_pause_s`.
        connect_s: maximum until a connection is open.
        idle_s: maximum without a byte from an open connection.
    """

    model_bytes: int = 100 * GIB
    cache_bytes: int = 200 * GIB
    total_s: float = 3600
    listing_s: float = 300
    bytes_per_second: int = 64 * 1024
    window_s: float = 30
    part_bytes: int = 16 * 1024 * 1024
    connections: int = 8
    attempts: int = 5
    min_pause_s: float = 0.25
    max_pause_s: float = 10
    connect_s: float = 10
    idle_s: float = 30


def read_limits(environment: Mapping[str, str] = os.environ) -> DownloadLimits:
    """Return the defaults, overridden by the environment. Raises LoadFailed for anything except positive whole numbers."""
    given = {field: read_positive(environment, name) for name, field in _VARIABLES.items()}
    return DownloadLimits(**{field: value for field, value in given.items() if value})


def read_positive(environment: Mapping[str, str], name: str) -> int:
    """Return the number in an environment variable; 0 if it is not set. Raises LoadFailed unless it is a positive whole number."""
    text = environment.get(name, "")
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LoadFailed(f"the environment variable {name} is {text!r}; expected a positive whole number")
    return int(text or 0)
