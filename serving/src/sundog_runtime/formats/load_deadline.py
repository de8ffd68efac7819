"""The time after which loading counts as hanging."""

import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from sundog_runtime.sources.download_limits import read_positive
from sundog_runtime.sources.file_digests import MAX_FILES, iterate_paths
from sundog_runtime.sources.open_model import ModelFiles

BASE_LOAD_SECONDS = 600.0
"""Time to import torch and the model's code, to build the network and, if requested, to compile it."""

LOAD_DEADLINE_VARIABLE = "SUNDOG_LOAD_MAX_SECONDS"
"""Overrides BASE_LOAD_SECONDS. The administrator of the server sets it, never a manifest."""

SLOWEST_BYTES_PER_SECOND = 20e6
"""Slower storage is broken: a network disk under load is ten times as fast."""


def load_deadline_s(model_bytes: int, environment: Mapping[str, str] = os.environ) -> float:
    """Return the deadline to load a model of that size. Raises LoadFailed if the environment's value is not a positive whole number."""
    base_s = read_positive(environment, LOAD_DEADLINE_VARIABLE) or BASE_LOAD_SECONDS
    return base_s + model_bytes / SLOWEST_BYTES_PER_SECOND


def total_file_bytes(files: ModelFiles) -> int:
    """Return the bytes of a model's files; files that vanish meanwhile count as 0."""
    if files.verified is not None:
        return sum(entry.size for entry in files.verified)
    total = 0
    for path in islice([files.path] if files.file_name else iterate_paths(files.root), MAX_FILES):
        with suppress(OSError):
            total += path.stat().st_size
    return total
