"""How long a replica may load before it counts as one that never will."""

BASE_SECONDS = 300.0
"""For importing torch and the model's code, and for building the network."""

SLOWEST_BYTES_PER_SECOND = 20e6
"""Storage that is slower than this is broken: a network disk under load gives ten times as much."""


def load_seconds(model_bytes: int) -> float:
    """The deadline for opening, hashing and loading a model of that size."""
    return BASE_SECONDS + model_bytes / SLOWEST_BYTES_PER_SECOND
