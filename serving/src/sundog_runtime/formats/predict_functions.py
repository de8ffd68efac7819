"""Wrap a predictor's `predict`, any kind of function, for calls on the model's thread.

Gradients are off only while the model's code runs: a generator pauses between two steps, and other code then runs on the
same thread. An asynchronous generator is returned unchanged, because it runs on the replica's event loop.
"""

import asyncio
import inspect
import weakref
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import torch

_END = object()


def is_streaming(predictor: Any) -> bool:
    """Whether `predict` is a generator function, or the class has `streams = True`: its answer then comes in parts."""
    predict = predictor.predict
    is_generator = inspect.isgeneratorfunction(predict) or inspect.isasyncgenfunction(predict)
    return is_generator or getattr(predictor, "streams", False) is True


def in_inference_mode(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `predict` in inference mode; a coroutine function runs to its end."""
    if inspect.iscoroutinefunction(predict):
        return _run_coroutine(predict)

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            result: Any = predict(batch)
        return _steps(result) if inspect.isgenerator(result) else result

    return call


def _steps(generator: Any) -> Generator[Any, None, None]:
    # Closed explicitly: if the client goes away in the middle, the model's own `finally` must run then.
    with closing(generator):
        while True:
            with torch.inference_mode():
                item = next(generator, _END)
            if item is _END:
                return
            yield item


def _run_coroutine(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    # One loop for all calls, because objects that the model keeps between them, such as a connection, belong to a loop.
    loop = asyncio.new_event_loop()

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            return loop.run_until_complete(predict(batch))

    weakref.finalize(call, loop.close)
    return call
