"""How long a replica may load before it counts as one that never will."""

import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from sundog_runtime.errors import LoadFailed
from sundog_runtime.sources.file_digests import MAX_FILES, iterate_paths
from sundog_runtime.sources.open_model import ModelFiles

BASE_LOAD_SECONDS = 600.0
"""For importing torch and the model's code, for building the network and, where asked for, compiling it."""

LOAD_DEADLINE_VARIABLE = "SUNDOG_LOAD_MAX_SECONDS"
"""Says another number than BASE_SECONDS. Set by whoever runs the server, never by a manifest."""

SLOWEST_BYTES_PER_SECOND = 20e6
"""Storage that is slower than this is broken: a network disk under load gives ten times as much."""


def load_deadline_s(model_bytes: int, environment: Mapping[str, str] = os.environ) -> float:
    """The deadline for loading a model of that size. Raises LoadFailed where the environment says what is no positive whole number."""
    text = environment.get(LOAD_DEADLINE_VARIABLE, "")
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LoadFailed(
            f"the environment variable {LOAD_DEADLINE_VARIABLE} is {text!r}; expected a positive whole number"
        )
    return (float(text) if text else BASE_LOAD_SECONDS) + model_bytes / SLOWEST_BYTES_PER_SECOND


def total_file_bytes(files: ModelFiles) -> int:
    """The bytes of a model's files; those that vanish meanwhile count for nothing."""
    if files.verified is not None:
        return sum(entry.size for entry in files.verified)
    total = 0
    for path in islice([files.path] if files.only else iterate_paths(files.root), MAX_FILES):
        with suppress(OSError):
            total += path.stat().st_size
    return total
