"""Predictions before the replica is ready, so that the first user does not pay for lazy initialisation."""

import logging
from typing import Any

import numpy as np

from sundog_runtime.errors import Problem, WarmupFailed
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.protocol.plain import encode
from sundog_runtime.signature import conform
from sundog_runtime.tensors import TensorSpec, numpy_type, plain

_logger = logging.getLogger("ray.serve.sundog")


def warm_up(model: LoadedModel, requests: int) -> int:
    """Predict `requests` times with the model's example, else with zeros of the declared shapes. How often it did.

    Where nothing is known about the inputs it does nothing. Raises WarmupFailed when the model raises, when an answer
    is not as declared, or when the answer to the model's own example is not finite (zeros may lawfully give NaN).
    """
    if not requests:
        return 0
    if model.example is not None:
        example, own = _example(model), True
    elif model.signature.inputs:
        example, own = zeros(model.signature.inputs), False
    else:
        _logger.info("warm-up skipped: the model has no example() and no inputs in model.yaml")
        return 0
    for number in range(1, requests + 1):
        _predict(model, example, f"warm-up request {number} of {requests}", own=own)
    return requests


def zeros(inputs: tuple[TensorSpec, ...]) -> Any:
    """A batch as `predict` gets it, all zeros and empty strings, every free dimension 1."""
    named = {spec.name: _zero(spec) for spec in inputs}
    return next(iter(named.values())) if len(named) == 1 else named


def _zero(spec: TensorSpec) -> Any:
    shape = [1 if size == -1 else size for size in spec.shape]
    return (
        np.full(shape, "", dtype=object).tolist()
        if spec.dtype == "string"
        else np.zeros(shape, dtype=numpy_type(spec.dtype))
    )


def _example(model: LoadedModel) -> Any:
    assert model.example is not None
    try:
        return model.example()
    except Exception as error:
        raise WarmupFailed(f"example() raised {type(error).__name__}: {error}") from error


def _predict(model: LoadedModel, example: Any, which: str, *, own: bool) -> None:
    try:
        output = model.predict(example)
    except Exception as error:
        raise WarmupFailed(f"{which} raised {type(error).__name__}: {error}") from error
    try:
        encode(conform(model.signature.outputs, plain(output)))
    except Problem as problem:
        if problem.code == "OutputNotFinite" and not own:
            _logger.warning("%s, all zeros: %s", which, problem.detail)
            return
        raise WarmupFailed(f"{which}: {problem.detail}") from None
