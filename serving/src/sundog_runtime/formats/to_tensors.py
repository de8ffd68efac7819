"""Convert arrays of a request to tensors without a copy."""

import warnings
from typing import Any

import numpy as np
import torch

_SMALL_BYTES = 256


def _use_up_read_only_warning() -> None:
    """Trigger torch's warning about read-only arrays, which comes once per process. Arrays over a request's bytes are read-only.

    The warning is right: a module that changes its input in place writes into those bytes. They belong to that request
    alone and are not read again, so this saves a copy of the whole payload. (The interpreter shares byte strings of one
    byte, so small arrays are copied.) The warning is triggered here, where no other warning can be hidden.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(np.frombuffer(b"spent", np.uint8))


_use_up_read_only_warning()


def to_tensor(value: Any) -> Any:
    """Return a tensor over the memory of an array of numbers or booleans; return anything else unchanged."""
    if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
        return value
    if not value.flags.writeable and value.nbytes <= _SMALL_BYTES:
        value = value.copy()
    return torch.from_numpy(value)


def to_tensors(batch: Any) -> Any:
    """Apply `to_tensor` to a batch: one value, or a dict of them by name."""
    return {name: to_tensor(value) for name, value in batch.items()} if isinstance(batch, dict) else to_tensor(batch)
