"""Infer a model's inputs and outputs by running it."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from inspect import isasyncgen, isgenerator
from typing import Any

import numpy as np
import torch

from sundog_runtime.errors import LoadFailed, Problem, StartError, bad_input
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.torch_module import find_first_layer, make_load_error
from sundog_runtime.protocol.plain_json import make_json_batch
from sundog_runtime.signature import Signature, make_zero_batch
from sundog_runtime.tensors import MAX_DIMENSIONS, OIP_TYPES, TensorSpec, map_batch, to_numpy, to_plain

_END = object()
_BASE64 = "base64"
_ONE_TO_ONE = "latin-1"
"""An encoding that maps each byte to one character and back."""


def choose_batch(model: LoadedModel, example: Any) -> Any:
    """Return a batch to run the model with: the given example (JSON), its own, zeros of its inputs, or a guess; else None.

    Raises LoadFailed for an invalid example.
    """
    if example is not None:
        try:
            return decode_example(model, example)
        except Problem as problem:
            raise LoadFailed(f"--example: {problem.detail}") from None
    if model.example is not None:
        return map_batch(to_numpy, model.example())
    if model.signature.inputs:
        return make_zero_batch(model.signature.inputs)
    return _guess(model)


def decode_example(model: LoadedModel, example: Any) -> Any:
    """Decode an example in JSON to what `predict` gets. Here bytes have a form: text, or an object with `base64`.

    Raises Problem 400.
    """
    raw = {spec.name for spec in model.signature.inputs if spec.dtype == "bytes"}
    if not raw:
        return make_json_batch(model, example)
    # As strings they are checked like any other input; each of their characters is one byte.
    inputs = tuple(replace(spec, dtype="string") if spec.name in raw else spec for spec in model.signature.inputs)
    named = example if isinstance(example, dict) else {inputs[0].name: example}
    texts = {name: _as_text(value, f"input {name!r}") if name in raw else value for name, value in named.items()}
    given = texts if isinstance(example, dict) else texts[inputs[0].name]
    batch = make_json_batch(replace(model, signature=Signature(inputs)), given)
    if len(inputs) == 1:
        return _as_bytes(batch)
    return {name: _as_bytes(value) if name in raw else value for name, value in batch.items()}


def _as_text(value: Any, what: str, depth: int = 0) -> Any:
    """Convert bytes in nested lists to strings with one character for each byte; other values stay. Raises Problem 400."""
    if isinstance(value, list) and depth < MAX_DIMENSIONS:
        return [_as_text(item, what, depth + 1) for item in value]
    if isinstance(value, str):
        return value.encode().decode(_ONE_TO_ONE)
    if isinstance(value, dict) and set(value) == {_BASE64} and isinstance(value[_BASE64], str):
        try:
            return base64.b64decode(value[_BASE64], validate=True).decode(_ONE_TO_ONE)
        except ValueError as error:
            raise bad_input("WrongType", f"{what}: {_BASE64} is not valid base64: {error}") from None
    return value


def _as_bytes(value: Any) -> Any:
    return [_as_bytes(item) for item in value] if isinstance(value, list) else value.encode(_ONE_TO_ONE)


def run_model(model: LoadedModel, batch: Any) -> Any:
    """Return the output as a client would get it; the first item of a stream. Raises a StartError."""
    try:
        output = model.predict(batch)
        if model.is_streaming:
            output = _first(output)
        return to_plain(output)
    except StartError:
        raise
    except Problem as problem:
        raise LoadFailed(f"a prediction failed: {problem.detail}") from None
    except Exception as error:
        raise make_load_error("a prediction", error) from error


def _first(stream: Any) -> Any:
    """Return the first item of a stream, or the output if it is not a stream. Raises LoadFailed for an empty one."""
    if not isasyncgen(stream) and not isgenerator(stream):
        return stream
    item = asyncio.run(_anext(stream)) if isasyncgen(stream) else next(stream, _END)
    if item is _END:
        raise LoadFailed(
            "a prediction gave an empty stream; expected at least one item. Give an --example with an answer."
        )
    return item


async def _anext(stream: AsyncGenerator[Any, Any]) -> Any:
    async with aclosing(stream):
        return await anext(stream, _END)


def infer_signature(model: LoadedModel, batch: Any, output: Any) -> Signature:
    """Return the declared signature, completed by what `batch` and its `output` show.

    The first size is any (-1) if twice the rows give twice the rows; the other sizes are those of the example.
    Raises LoadFailed for outputs without names.
    """
    declared = model.signature
    inputs = declared.inputs or _specs_of(batch, _input_name(model))
    outputs = declared.outputs
    if outputs or model.is_streaming:
        return Signature(_with_rows(model, inputs, batch, output), outputs)
    _check_names(output)
    return Signature(
        _with_rows(model, inputs, batch, output), _any_rows(_specs_of(output, "outputs"), _scales(model, batch, output))
    )


def _check_names(output: Any) -> None:
    for item in output.values() if isinstance(output, dict) else [output]:
        if isinstance(item, list) and any(isinstance(each, np.ndarray) for each in item):
            raise LoadFailed(
                "a prediction returned a tuple or list of arrays; expected one array, or a dict of name to array. Return a"
                " dict."
            )


def _with_rows(model: LoadedModel, inputs: tuple[TensorSpec, ...], batch: Any, output: Any) -> tuple[TensorSpec, ...]:
    return inputs if model.signature.inputs else _any_rows(inputs, _scales(model, batch, output))


def _any_rows(specs: tuple[TensorSpec, ...], scales: bool) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs) if scales else specs


def _scales(model: LoadedModel, batch: Any, output: Any) -> bool:
    """Whether a batch with doubled rows gives every output with doubled rows."""
    if model.is_streaming:
        return False
    try:
        once, doubled = _arrays(output), _arrays(run_model(model, _twice(batch)))
    except (StartError, ValueError):
        return False
    return bool(once) and all(
        name in doubled
        and array.ndim > 0
        and doubled[name].ndim == array.ndim
        and doubled[name].shape[0] == 2 * array.shape[0]
        for name, array in once.items()
    )


def _twice(value: Any) -> Any:
    if isinstance(value, dict):
        return map_batch(_twice, value)
    if isinstance(value, np.ndarray):
        return np.concatenate([value, value])
    if isinstance(value, list):
        return value + value
    raise ValueError("the batch is not made of rows")


def _arrays(value: Any) -> dict[str, np.ndarray[Any, Any]]:
    named = value if isinstance(value, dict) else {"": value}
    return {str(name): np.asarray(item) for name, item in named.items()}


def _specs_of(value: Any, name: str) -> tuple[TensorSpec, ...]:
    """Return names, types and shapes of arrays, or of lists of one type of value; empty for anything else."""
    specs = []
    for key, item in (value if isinstance(value, dict) else {name: value}).items():
        try:
            array = np.asarray(item)
        except ValueError:
            return ()
        dtype = _type_of(array)
        if dtype not in OIP_TYPES or not array.ndim:
            return ()
        specs.append(TensorSpec(str(key), dtype, array.shape))
    return tuple(specs)


def _type_of(array: np.ndarray[Any, Any]) -> str:
    """Return the name of the type; it is not in OIP_TYPES if no such type fits."""
    if array.dtype.kind == "O":
        kinds = set(map(type, array.ravel().tolist()))
        return "string" if kinds == {str} else "bytes" if kinds == {bytes} else "object"
    return {"U": "string", "S": "bytes"}.get(array.dtype.kind, str(array.dtype.name))


def _input_name(model: LoadedModel) -> str:
    """Return the name of forward's first parameter, or `inputs` if it has none."""
    names = list(model.parameters.parameters) if model.parameters is not None else []
    return names[0] if names else "inputs"


def _guess(model: LoadedModel) -> Any:
    """Return a row of zeros for a network that begins with a linear layer, if the network accepts it; else None."""
    layer = find_first_layer(model.module) if isinstance(model.module, torch.nn.Module) else None
    if not isinstance(layer, torch.nn.Linear):
        return None
    batch = np.zeros((1, layer.in_features), dtype=model.float_dtype)
    try:
        model.predict(batch)
    except Exception:  # noqa: BLE001 (it was a guess)
        return None
    return batch
