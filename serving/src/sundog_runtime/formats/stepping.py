"""A predictor's `predict`, whatever kind of function it is, as one that is called on the model's thread.

Gradients are off while the model's code runs, and only then: a generator is left in the middle, and what runs between
two of its steps on the same thread is not the model.
"""

import asyncio
import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

import torch


def is_stream(predict: Callable[..., Any]) -> bool:
    """Whether it is a generator function, so that its answer comes in parts."""
    return inspect.isgeneratorfunction(predict) or inspect.isasyncgenfunction(predict)


def without_gradients(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`predict` in inference mode; async functions are run to their end, async generators become plain ones."""
    if inspect.isasyncgenfunction(predict):
        return _async_steps(predict)
    if inspect.isgeneratorfunction(predict):
        return _steps(predict)
    if inspect.iscoroutinefunction(predict):
        return _awaited(predict)

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            return predict(batch)

    return call


def _steps(predict: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    def call(batch: Any) -> Iterator[Any]:
        steps = predict(batch)
        try:
            while True:
                with torch.inference_mode():
                    try:
                        value = next(steps)
                    except StopIteration:
                        return
                yield value
        finally:
            # A client that went away leaves in the middle: the model's own `finally` runs now, not at some collection.
            close = getattr(steps, "close", None)
            if close is not None:
                close()

    return call


def _async_steps(predict: Callable[[Any], AsyncGenerator[Any, None]]) -> Callable[[Any], Iterator[Any]]:
    loop = asyncio.new_event_loop()

    def call(batch: Any) -> Iterator[Any]:
        steps = predict(batch)
        try:
            while True:
                with torch.inference_mode():
                    try:
                        value = loop.run_until_complete(_next(steps))
                    except StopAsyncIteration:
                        return
                yield value
        finally:
            loop.run_until_complete(steps.aclose())

    weakref.finalize(call, loop.close)
    return call


async def _next(steps: AsyncGenerator[Any, None]) -> Any:
    return await anext(steps)


def _awaited(predict: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[Any], Any]:
    # One loop for all calls: what the model keeps between them, such as a connection, belongs to a loop.
    loop = asyncio.new_event_loop()

    def call(batch: Any) -> Any:
        with torch.inference_mode():
            return loop.run_until_complete(predict(batch))

    weakref.finalize(call, loop.close)
    return call
