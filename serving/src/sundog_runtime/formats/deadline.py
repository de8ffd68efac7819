"""How long a replica may load before it counts as one that never will."""

from contextlib import suppress
from itertools import islice

from sundog_runtime.sources.files import ModelFiles
from sundog_runtime.sources.tree import MAX_FILES

BASE_SECONDS = 600.0
"""For importing torch and the model's code, for building the network and, where asked for, compiling it."""

SLOWEST_BYTES_PER_SECOND = 20e6
"""Storage that is slower than this is broken: a network disk under load gives ten times as much."""


def load_seconds(model_bytes: int) -> float:
    """The deadline for loading a model of that size."""
    return BASE_SECONDS + model_bytes / SLOWEST_BYTES_PER_SECOND


def size_of(files: ModelFiles) -> int:
    """The bytes of a model's files; those that vanish meanwhile count for nothing."""
    if files.verified is not None:
        return sum(entry.size for entry in files.verified)
    paths = [files.path] if files.only else files.root.rglob("*")
    total = 0
    for path in islice(paths, MAX_FILES):
        with suppress(OSError):
            total += path.stat().st_size
    return total
