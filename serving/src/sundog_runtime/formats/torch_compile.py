"""`torch.compile`, if model.yaml enables it: compiled while the model loads, cached on the node, never a reason to fail.

Compilation takes from seconds to minutes. With the cache of an earlier replica of the same namespace it takes about one
second. The cache holds machine code, so no namespace reads another's.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from sundog_runtime.errors import one_line
from sundog_runtime.model_yaml import CompileMode
from sundog_runtime.signature import Signature, make_sample_batch
from sundog_runtime.sources.cache import cache_root
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.tensors import TensorSpec, map_batch, to_numpy

_DIRECTORY = "TORCHINDUCTOR_CACHE_DIR"
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SIZES = (1, 2)
"""Rows to compile for. Torch makes code for one row, and at the second number of rows code for any other."""

_logger = logging.getLogger(LOGGER_NAME)


class CompiledNetwork:
    """A network that runs compiled until the compiler fails, and uncompiled after that."""

    def __init__(self, module: torch.nn.Module, mode: CompileMode) -> None:
        self._module = module
        self._call: Callable[..., Any] = torch.compile(module, mode=None if mode == "default" else mode)

    @property
    def is_compiled(self) -> bool:
        """Whether it still runs compiled."""
        return self._call is not self._module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output. Raises what the network raises."""
        try:
            return self._call(*args, **kwargs)
        except TorchDynamoException as error:
            self._call = self._module
            _logger.warning("torch.compile failed, the network runs uncompiled: %s", one_line(error, 300))
            return self._module(*args, **kwargs)


def persist_compiled_code(namespace: str) -> None:
    """Keep compiled code below the node's cache, unless the environment sets another directory.

    If the directory cannot be created, the code is lost with the process; that is no reason to fail.
    """
    # Torch sets its default when it is imported.
    if os.environ.get(_DIRECTORY, "") not in ("", default_cache_dir()) or not _NAMESPACE.fullmatch(namespace):
        return
    path = cache_root() / "compile" / namespace
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _logger.warning("compiled code is not cached: %s: %s", path, error.strerror)
        return
    os.environ[_DIRECTORY] = str(path)


def compile_on_batches(
    network: CompiledNetwork,
    predict: Callable[[Any], Any],
    batches: Iterator[Any],
) -> None:
    """Run the network on `batches`, so that it is compiled before the replica is ready.

    Errors of the network itself are only logged here: the warm-up reports them in more detail.
    """
    started, count = time.monotonic(), 0
    try:
        for batch in batches:
            predict(batch)
            count += 1
    except Exception as error:  # noqa: BLE001 (see above)
        _logger.warning("the network raised %s during compilation: %s", type(error).__name__, one_line(error, 300))
    if network.is_compiled:
        directory = os.environ.get(_DIRECTORY) or "a temporary directory"
        _logger.info(
            "compiled for %d shapes in %.1f s; the code is in %s", count, time.monotonic() - started, directory
        )


def make_compile_batches(example: Callable[[], Any] | None, signature: Signature, *, batchable: bool) -> Iterator[Any]:
    """Yield batches whose numbers of rows make torch compile for any number; nothing if no input is known."""
    given = None if example is None else example()
    for rows in _SIZES if batchable else _SIZES[:1]:
        if example is not None:
            yield map_batch(partial(_repeat, times=rows), given)
        elif signature.inputs:
            yield make_sample_batch(signature.inputs, partial(TensorSpec.zeros, free=rows))


def can_recompile_later(signature: Signature, *, batchable: bool) -> bool:
    """Whether a request can have sizes without compiled code: all free sizes except the number of rows, which `_SIZES` covers."""
    if not signature.inputs:
        return True
    return any(-1 in (spec.shape[1:] if batchable else spec.shape) for spec in signature.inputs)


def _repeat(value: Any, times: int) -> Any:
    array = to_numpy(value)
    return np.concatenate([array] * times) if isinstance(array, np.ndarray) and array.ndim else array
