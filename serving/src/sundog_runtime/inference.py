"""The path from a decoded request to its answer, for every protocol."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from inspect import isasyncgen, isgenerator
from math import inf
from typing import Any, TypeVar

import numpy as np

from sundog_runtime.context import RequestContext, call_for, working_on
from sundog_runtime.errors import Problem, bad_input
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, Decoder, EncodedResponse, Headers
from sundog_runtime.scheduling.execution_mode import SMALL_BYTES, is_small
from sundog_runtime.scheduling.model_thread import ModelThread, as_exception
from sundog_runtime.scheduling.scheduler import NOT_AT_ONCE, Scheduler, make_deadline_problem
from sundog_runtime.signature import check_outputs
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics
from sundog_runtime.tensors import to_plain

Result = TypeVar("Result")

_END = object()
_EXITS = (SystemExit, KeyboardInterrupt)
"""Exceptions that asyncio passes on to the caller of the loop. A model that raises one on the event loop would end the replica."""

_logger = logging.getLogger(LOGGER_NAME)


class Inference:
    """Answers of one model. `thread` runs the model; `codec` is a second thread, which reads and writes large bodies."""

    def __init__(
        self, model: LoadedModel, scheduler: Scheduler, thread: ModelThread, codec: ModelThread, metrics: ReplicaMetrics
    ) -> None:
        self.is_streaming = model.is_streaming
        self.scheduler = scheduler
        self._model = model
        self._thread = thread
        self._codec = codec
        self._metrics = metrics
        self._answers_are_small = True

    def try_read_at_once(self, decode: Decoder, headers: Headers, body: Buffer) -> DecodedRequest | None:
        """Return the query in `body`; None if `answer_at_once` cannot answer it. Raises Problem 400."""
        small = len(body) <= SMALL_BYTES and self._answers_are_small
        return decode(headers, body) if small and not self.is_streaming and self.scheduler.can_infer_at_once() else None

    def answer_at_once(self, query: DecodedRequest, context: RequestContext) -> EncodedResponse | None:
        """Answer like `answer`, but without waiting; return None if it would have to wait.

        An answer is encoded here however large it is. After a large answer, the next request is not answered at once.
        """
        try:
            output = self.scheduler.infer_at_once(query.batch, _with_parameters(context, query))
            if output is NOT_AT_ONCE:
                return None
            self._answers_are_small = is_small(output)
            return self._encode(query, output)
        except Exception as error:
            _raise_if_values_missing(error, query.batch)
            raise

    async def read(
        self, decode: Decoder, headers: Headers, body: Buffer, *, max_loop_bytes: int = SMALL_BYTES
    ) -> DecodedRequest:
        """Return the query in `body`. One of more than `max_loop_bytes` bytes does not block the event loop. Raises Problem 400."""
        if len(body) <= max_loop_bytes:
            return decode(headers, body)
        return await self._codec.run(lambda: decode(headers, body))

    async def answer(self, query: DecodedRequest, context: RequestContext) -> EncodedResponse:
        """Return the answer. Raises Problem, and what the model raises. When cancelled, the request leaves the queue."""
        if self.is_streaming:
            detail = "the model answers in a stream, which this protocol does not support; request it in plain JSON"
            raise Problem(400, "Streaming", detail)
        try:
            output = await self.scheduler.infer(query.batch, _with_parameters(context, query))
            self._answers_are_small = is_small(output)
            if self._answers_are_small:
                return self._encode(query, output)
            return await self._codec.run(lambda: self._encode(query, output))
        except Exception as error:
            _raise_if_values_missing(error, query.batch)
            raise

    async def stream(self, query: DecodedRequest, context: RequestContext) -> AsyncGenerator[EncodedResponse, None]:
        """Yield one answer for each item that the model yields, computed on demand. Close the generator to stop the model.

        The deadline is that of the last item. Raises as `answer` does.
        """
        context = _with_parameters(context, query)
        work = _Work(time.monotonic())
        try:
            result = await _before(
                context.deadline, self._on_model(lambda: self._model.predict(query.batch), context, work)
            )
            if isasyncgen(result):
                items: AsyncIterator[Any] = _on_loop(result, context, work)
            elif isgenerator(result):
                items = self._on_thread(result, context, work)
            else:
                items = _one(result)
            async with aclosing(items):  # type: ignore[type-var]  # all three are generators
                while (item := await _before(context.deadline, anext(items, _END))) is not _END:
                    yield self._encode(query, item)
        except Exception as error:
            _raise_if_values_missing(error, query.batch)
            raise
        finally:
            self._metrics.record_wait((work.started or time.monotonic()) - work.requested)
            if work.started:
                self._metrics.record_pass(1, work.seconds)

    def _encode(self, query: DecodedRequest, output: Any) -> EncodedResponse:
        return query.encode(check_outputs(self._model.signature.outputs, output))

    async def _on_model(self, call: Callable[[], Any], context: RequestContext, work: "_Work") -> Any:
        """Call the model for a stream, on its thread."""
        timed = partial(work.time, lambda: call_for((context,), call))
        return await self._thread.run(
            lambda: self.scheduler.run_with_stuck_limit(context.deadline - work.requested, timed)
        )

    async def _on_thread(self, generator: Any, context: RequestContext, work: "_Work") -> AsyncGenerator[Any, None]:
        """Yield the items of a synchronous generator. Other requests run between two items."""
        try:
            while True:
                # Copied on the model's thread: the model may write to the item again as soon as another stream runs.
                item = await self._on_model(lambda: _next(generator), context, work)
                if item is _END:
                    return
                yield item
        finally:
            self._thread.post(
                lambda: self.scheduler.run_with_stuck_limit(context.deadline - work.requested, generator.close)
            )


def _raise_if_values_missing(error: Exception, batch: Any) -> None:
    """Raise Problem 400 if the model failed on an input without values: clients choose that, so it is no failure of the model."""
    failed = not isinstance(error, Problem) or error.status == HTTPStatus.INTERNAL_SERVER_ERROR
    if failed and _has_empty_input(batch):
        _logger.info("the model failed on an input without values: %r", error)
        detail = "an input holds no values, and the model fails on that; send at least one row"
        raise bad_input("EmptyInput", detail) from error


def _has_empty_input(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size == 0
    if isinstance(value, dict):
        return any(map(_has_empty_input, value.values()))
    return isinstance(value, list) and all(map(_has_empty_input, value))


def _with_parameters(context: RequestContext, query: DecodedRequest) -> RequestContext:
    return context if query.parameters is None else context.with_parameters(query.parameters)


@dataclass(slots=True)
class _Work:
    """The model's time for one stream, in seconds: when it was requested, when it started (0: not yet), and its sum.

    Between two items the model works for other requests. Time that an asynchronous model awaits counts as its own.
    """

    requested: float
    started: float = 0.0
    seconds: float = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time the block."""
        since = time.monotonic()
        self.started = self.started or since
        try:
            yield
        finally:
            self.seconds += time.monotonic() - since

    def time(self, function: Callable[[], Result]) -> Result:
        """Time one call."""
        with self.measure():
            return function()


async def _on_loop(generator: Any, context: RequestContext, work: _Work) -> AsyncGenerator[Any, None]:
    try:
        while True:
            try:
                with working_on(context), work.measure():
                    item = await anext(generator, _END)
            except (asyncio.CancelledError, *_EXITS) as error:
                if _is_cancellation(error):
                    raise
                raise as_exception(error) from error
            if item is _END:
                return
            yield to_plain(item)
    finally:
        try:
            await generator.aclose()
        except (Exception, asyncio.CancelledError, *_EXITS) as error:
            if _is_cancellation(error):
                raise
            # The client has gone away. A synchronous generator's error is logged in the same way.
            _logger.exception("an abandoned stream raised")


def _is_cancellation(error: BaseException) -> bool:
    """Whether `error` means that the current task is cancelled; otherwise the model raised it, whatever its type."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _one(value: Any) -> AsyncGenerator[Any, None]:
    yield to_plain(value)


def _next(generator: Any) -> Any:
    item = next(generator, _END)
    return item if item is _END else to_plain(item, copy=True)


async def _before(deadline: float, awaitable: Any) -> Any:
    """Return the result of `awaitable`. Raises Problem 504 when it takes too long."""
    if deadline == inf:
        return await awaitable
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise make_deadline_problem() from None
        raise
