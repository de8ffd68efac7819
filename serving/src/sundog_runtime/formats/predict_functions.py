"""A predictor's `predict`, whatever kind of function it is, as one that is called on the model's thread.

Gradients are off while the model's code runs, and only then: a generator is left in the middle, and what runs between
two of its steps on the same thread is not the model. An asynchronous generator is handed on as it is: it runs on the
replica's event loop.
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
    """Whether its `predict` is a generator function, or the class says `streams = True`: its answer comes in parts."""
    predict = predictor.predict
    is_generator = inspect.isgeneratorfunction(predict) or inspect.isasyncgenfunction(predict)
    return is_generator or getattr(predictor, "streams", False) is True


def in_inference_mode(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`predict` in inference mode; a coroutine function is run to its end."""
    if inspect.iscoroutinefunction(predict):
        return _awaited(predict)

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            result: Any = predict(batch)
        return _steps(result) if inspect.isgenerator(result) else result

    return call


def _steps(generator: Any) -> Generator[Any, None, None]:
    # Closing: a client that went away leaves in the middle, and the model's own `finally` is to run then.
    with closing(generator):
        while True:
            with torch.inference_mode():
                item = next(generator, _END)
            if item is _END:
                return
            yield item


def _awaited(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    # One loop for all calls: what the model keeps between them, such as a connection, belongs to a loop.
    loop = asyncio.new_event_loop()

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            return loop.run_until_complete(predict(batch))

    weakref.finalize(call, loop.close)
    return call
