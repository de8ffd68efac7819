"""Assemble a batch from the inputs of several requests, and split its output again.

Requests are batched along the first axis where that cannot change the answer of a request:

- the model declares its inputs, by `model.yaml` or `example()`, each with any size (-1) along the first axis. Nothing
  else shows that this axis is a batch;
- all inputs are arrays with the same number of rows, at least one. Other inputs (strings, bytes, records) are never
  batched;
- names, types and all further sizes are equal, and so are the clients' parameters (`context.parameters`).

The outputs must be arrays or lists with as many rows as the inputs, one or several by name. A list that holds arrays, as
a tuple of outputs becomes, is never split: its length can equal the number of rows by chance.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.tensors import Array

NOT_ROWS = "its outputs are not arrays or lists of values with as many rows as its inputs"
"""The reason why requests are not batched if `split_output` returns None."""


def find_unbatchable_reason(model: LoadedModel) -> str:
    """Return the reason why requests to the model must not be batched at all; empty if they may be."""
    declared = model.signature.inputs
    if model.is_streaming:
        return "the model streams"
    if not declared:
        return "the model has no inputs in model.yaml and no example() of arrays, so the batch axis is unknown"
    if wrong := [spec for spec in declared if not spec.shape or spec.shape[0] != -1]:
        return (
            f"input {wrong[0].name!r} has the shape {list(wrong[0].shape)}; expected a first size of -1, the batch axis"
        )
    if not model.is_batchable:
        return "model.yaml has batchable: false, or declares an output whose first size is not -1"
    if texts := [spec for spec in declared if spec.dtype in ("string", "bytes")]:
        return f"input {texts[0].name!r} holds {texts[0].dtype} values, which are not batched"
    return ""


def batch_key(batch: Any) -> tuple[Hashable, int]:
    """Return the key that batches must share to be joined, and the number of rows; (None, 1) if a batch cannot be joined."""
    if isinstance(batch, np.ndarray):
        return (None, 1) if not _is_rows(batch) else ((batch.dtype.str, batch.shape[1:]), batch.shape[0])
    if not isinstance(batch, dict) or not batch:
        return None, 1
    arrays = list(batch.values())
    if not all(isinstance(array, np.ndarray) and _is_rows(array) for array in arrays):
        return None, 1
    rows = arrays[0].shape[0]
    if any(array.shape[0] != rows for array in arrays):
        return None, 1
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(batch.items())), rows


def join_batches(batches: Sequence[Any]) -> Any:
    """Join batches with equal `batch_key`, in their order. Always a copy: changes by the model reach no request."""
    if isinstance(batches[0], dict):
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return np.concatenate(batches)


def split_output(output: Any, rows: Sequence[int]) -> list[Any] | None:
    """Return each request's part of `output` (a result of `tensors.to_plain`); None if it does not have the rows of the inputs."""
    if isinstance(output, dict):
        named = {name: split_output(value, rows) for name, value in output.items()}
        if not named or any(parts is None or isinstance(output[name], dict) for name, parts in named.items()):
            return None
        return [
            {name: parts[index] for name, parts in named.items() if parts is not None} for index in range(len(rows))
        ]
    if isinstance(output, np.ndarray):
        if not output.ndim or output.shape[0] != sum(rows):
            return None
    elif not isinstance(output, list) or len(output) != sum(rows) or any(map(_begins_with_array, output)):
        return None
    parts, begin = [], 0
    for count in rows:
        parts.append(output[begin : begin + count])
        begin += count
    return parts


def _begins_with_array(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, np.ndarray)


def _is_rows(array: Array) -> bool:
    return array.ndim > 0 and array.shape[0] > 0 and array.dtype.kind in "biuf"
