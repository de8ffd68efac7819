"""Predictions before the replica is ready, so that the first user does not pay for lazy initialisation."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from copy import deepcopy
from inspect import isasyncgen, isgenerator
from typing import Any

import numpy as np

from sundog_runtime.errors import Problem, WarmupFailed
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.plain_json import encode_json
from sundog_runtime.scheduling.batch_assembly import NOT_ROWS, batch_key, join_batches, split_output
from sundog_runtime.scheduling.model_thread import as_exception
from sundog_runtime.signature import Signature, check_outputs, make_sample_batch, make_zero_batch
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.tensors import TensorSpec, map_batch, numpy_type, to_numpy, to_plain

_logger = logging.getLogger(LOGGER_NAME)


def warm_up(
    model: LoadedModel,
    requests: int,
    loop: asyncio.AbstractEventLoop,
    max_rows: int = 1,
    stop_batching: Callable[[str], None] = print,
) -> int:
    """Predict `requests` times with the model's example, or with zeros of the declared shapes. Return the number of predictions.

    To be called on the model's thread; an asynchronous generator runs on `loop`, as it does for requests.

    With `max_rows` above 1 the model then gets that many rows at once, as batching does, and one row less if its output is
    not one array. If it fails on that, or returns another number of rows, `stop_batching` is called with the reason.

    Without an example and declared inputs the warm-up is skipped. Raises WarmupFailed if the model raises on its example, if
    an answer differs from its declaration, or if the answer to the model's own example is not finite. Zeros may give NaN;
    then other numbers must not.
    """
    if not requests:
        return 0
    own = model.example is not None
    example = _example(model) if own else make_zero_batch(model.signature.inputs)
    if example is None and not own:
        reason = ", and its inputs hold bytes" if model.signature.inputs else " and no inputs in model.yaml"
        _logger.info("warm-up skipped: the model has no example()%s", reason)
        return 0
    for number in range(1, requests + 1):
        which = f"warm-up request {number} of {requests}"
        # One copy for each prediction: a model may change its input.
        if not _is_finite(model, deepcopy(example), which, loop, own=own) and number == 1:
            _require_some_finite(model, which, loop)
    if max_rows > 1:
        _warm_up_batched(model, example, requests, max_rows, stop_batching)
    return requests


def _varied(spec: TensorSpec) -> Any:
    """Return varied numbers between 0 and 1, the same each time; integers are 0 and 1, which any vocabulary has."""
    if spec.dtype == "string":
        return np.full(spec.sample_shape(), "a", dtype=object).tolist()
    numbers = np.random.default_rng(0).random(spec.sample_shape())
    dtype = np.dtype(numpy_type(spec.dtype))
    return numbers.astype(dtype) if dtype.kind == "f" else (numbers < 0.5).astype(dtype)


def _example(model: LoadedModel) -> Any:
    assert model.example is not None
    try:
        return model.example()
    except Exception as error:
        raise WarmupFailed(f"example() raised {type(error).__name__}: {error}") from error


def _require_some_finite(model: LoadedModel, which: str, loop: asyncio.AbstractEventLoop) -> None:
    """Raise WarmupFailed if other numbers than zeros give NaN too. Numbers that the model refuses prove nothing."""
    try:
        finite = _is_finite(model, make_sample_batch(model.signature.inputs, _varied), which, loop, own=False)
    except WarmupFailed as error:
        _logger.info("%s: the check with other numbers than zeros failed: %s", which, error.message)
        return
    if not finite:
        raise WarmupFailed(
            f"{which}: the model's output holds NaN or infinity, for zeros and for other numbers; "
            "check its weights, or give it an example() that it answers, or declare its outputs with allowNaN"
        )


def _is_finite(model: LoadedModel, example: Any, which: str, loop: asyncio.AbstractEventLoop, *, own: bool) -> bool:
    """Predict, and return whether the answer is finite. Raises WarmupFailed if the answer to the model's `own` example is not."""
    try:
        output = model.predict(example)
        if isgenerator(output):
            output = list(output)
        elif isasyncgen(output):
            output = asyncio.run_coroutine_threadsafe(_items(output), loop).result()
    except Exception as error:
        raise WarmupFailed(f"{which} raised {type(error).__name__}: {error}") from error
    try:
        for item in output if model.is_streaming and isinstance(output, list) else [output]:
            _encode(check_outputs(model.signature.outputs, to_plain(item)), model.signature)
    except Problem as problem:
        if problem.code == "OutputNotFinite" and not own:
            _logger.warning("%s, not with its example: %s", which, problem.detail)
            return False
        raise WarmupFailed(f"{which}: {problem.detail}") from None
    return True


def _encode(output: Any, signature: Signature) -> None:
    """Encode as JSON, except for a model whose outputs have no form there."""
    if all(spec.dtype != "bytes" for spec in signature.outputs):
        encode_json(output)


async def _items(generator: AsyncGenerator[Any, Any]) -> list[Any]:
    try:
        async with aclosing(generator):
            return [item async for item in generator]
    except (SystemExit, KeyboardInterrupt) as error:
        # asyncio would pass it on and so end the replica.
        raise as_exception(error) from None


def _warm_up_batched(
    model: LoadedModel, example: Any, requests: int, max_rows: int, stop_batching: Callable[[str], None]
) -> None:
    example = map_batch(to_numpy, example)
    key, rows = batch_key(example)
    if key is None:
        stop_batching("its example is not made of arrays with the same number of rows")
        return
    times = max(1, max_rows // rows)
    try:
        for _ in range(min(2, requests)):
            output = to_plain(model.predict(join_batches([example] * times)))
        has_rows = split_output(output, [rows] * times) is not None
        # A constant, such as the names of classes, can have as many items as one number of rows.
        if has_rows and not isinstance(output, np.ndarray):
            fewer = _without_last_row(join_batches([example] * times))
            has_rows = split_output(to_plain(model.predict(fewer)), [rows * times - 1]) is not None
    except Exception as error:  # noqa: BLE001 (a model that fails on many rows may still work with one)
        stop_batching(f"{rows * times} rows at once raised {type(error).__name__}: {error}")
        return
    if not has_rows:
        stop_batching(NOT_ROWS)


def _without_last_row(batch: Any) -> Any:
    return map_batch(lambda array: array[:-1], batch)
