"""Arrays of a request as tensors, without a copy."""

import warnings
from typing import Any

import numpy as np
import torch

_SMALL_BYTES = 256


def _silence_the_read_only_warning() -> None:
    """Torch warns once for each process of arrays that are read-only, as those over a request's bytes are.

    It is right that a module which changes its input in place then writes into those bytes. They belong to that request
    alone and nobody reads them again, so this saves a copy of the whole payload. (The interpreter shares byte strings of
    one byte; small arrays are therefore copied.) The one warning is spent here, where nobody else's can be hidden.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(np.frombuffer(b"spent", np.uint8))


_silence_the_read_only_warning()


def to_tensor(value: Any) -> Any:
    """A tensor over the same memory where `value` is an array of numbers or booleans; anything else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
        return value
    if not value.flags.writeable and value.nbytes <= _SMALL_BYTES:
        value = value.copy()
    return torch.from_numpy(value)


def to_tensors(batch: Any) -> Any:
    """`tensor` of a batch: one value, or a dict of them by name."""
    return {name: to_tensor(value) for name, value in batch.items()} if isinstance(batch, dict) else to_tensor(batch)
