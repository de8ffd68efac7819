"""From a decoded request to its answer, whatever the protocol."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
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
from sundog_runtime.protocol.messages import Buffer, DecodedRequest, EncodedResponse
from sundog_runtime.scheduling.execution_mode import SMALL_BYTES, is_small
from sundog_runtime.scheduling.model_thread import ModelThread, as_exception
from sundog_runtime.scheduling.scheduler import NOT_AT_ONCE, Scheduler, make_deadline_problem
from sundog_runtime.signature import check_outputs
from sundog_runtime.telemetry.metrics import ReplicaMetrics
from sundog_runtime.tensors import to_plain

Result = TypeVar("Result")

_END = object()
_ENDS_THE_LOOP = (SystemExit, KeyboardInterrupt)
"""What asyncio lets through to whoever runs it, and so ends the replica, where a model raises it on the event loop."""

_logger = logging.getLogger("ray.serve.sundog")


class Inference:
    """One model's answers. `thread` runs the model; large bodies are read and written on `codec`, a thread beside it."""

    def __init__(
        self, model: LoadedModel, scheduler: Scheduler, thread: ModelThread, codec: ModelThread, metrics: ReplicaMetrics
    ) -> None:
        self.streams = model.streams
        self.scheduler = scheduler
        self._model = model
        self._thread = thread
        self._codec = codec
        self._metrics = metrics
        self._answers_are_small = True

    def try_read_at_once(
        self,
        decode: Callable[[Mapping[bytes, bytes], Buffer], DecodedRequest],
        headers: Mapping[bytes, bytes],
        body: Buffer,
    ) -> DecodedRequest | None:
        """The query in `body`; None where `answer_at_once` would have nothing to say to it. Raises Problem 400."""
        small = len(body) <= SMALL_BYTES and self._answers_are_small
        return decode(headers, body) if small and not self.streams and self.scheduler.can_infer_at_once() else None

    def answer_at_once(self, query: DecodedRequest, context: RequestContext) -> EncodedResponse | None:
        """As `answer`, but without waiting for anything; None where something must be waited for.

        An answer is written here however large it is. After a large one the next is not asked for here.
        """
        try:
            output = self.scheduler.infer_at_once(query.batch, _told(context, query))
            if output is NOT_AT_ONCE:
                return None
            self._answers_are_small = is_small(output)
            return self._encode(query, output)
        except Exception as error:
            _refuse_lack_of_values(error, query.batch)
            raise

    async def read(
        self,
        decode: Callable[[Mapping[bytes, bytes], Buffer], DecodedRequest],
        headers: Mapping[bytes, bytes],
        body: Buffer,
    ) -> DecodedRequest:
        """The query in `body`. Raises Problem 400."""
        return (
            decode(headers, body)
            if len(body) <= SMALL_BYTES
            else await self.read_on_codec_thread(decode, headers, body)
        )

    async def read_on_codec_thread(
        self,
        decode: Callable[[Mapping[bytes, bytes], Buffer], DecodedRequest],
        headers: Mapping[bytes, bytes],
        body: Buffer,
    ) -> DecodedRequest:
        """As `read`, while the event loop goes on. Raises Problem 400."""
        return await self._codec.run(lambda: decode(headers, body))

    async def answer(self, query: DecodedRequest, context: RequestContext) -> EncodedResponse:
        """Raises Problem, and what the model raises. Cancel it, and the request leaves the queue."""
        if self.streams:
            raise Problem(400, "Streaming", "the model answers in a stream, which this way of asking does not have")
        try:
            output = await self.scheduler.infer(query.batch, _told(context, query))
            self._answers_are_small = is_small(output)
            if self._answers_are_small:
                return self._encode(query, output)
            return await self._codec.run(lambda: self._encode(query, output))
        except Exception as error:
            _refuse_lack_of_values(error, query.batch)
            raise

    async def stream(self, query: DecodedRequest, context: RequestContext) -> AsyncGenerator[EncodedResponse, None]:
        """One answer for each item that the model yields, computed when it is asked for. Close it to stop the model.

        The deadline is that of the last item. Raises as `answer` does.
        """
        context = _told(context, query)
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
            _refuse_lack_of_values(error, query.batch)
            raise
        finally:
            if work.begun:
                self._metrics.waited(work.begun - work.asked)
                self._metrics.passed(1, work.seconds)

    def _encode(self, query: DecodedRequest, output: Any) -> EncodedResponse:
        return query.encode(check_outputs(self._model.signature.outputs, output))

    async def _on_model(self, call: Callable[[], Any], context: RequestContext, work: "_Work") -> Any:
        """One call of the model for a stream, on its thread."""
        timed = partial(work.of, lambda: call_for((context,), call))
        return await self._thread.run(lambda: self.scheduler.run_with_stuck_limit(context.deadline - work.asked, timed))

    async def _on_thread(self, generator: Any, context: RequestContext, work: "_Work") -> AsyncGenerator[Any, None]:
        """Between two items other requests have their turn."""
        try:
            while True:
                # Copied there: the model may write to it again as soon as another stream has its turn.
                item = await self._on_model(lambda: _next(generator), context, work)
                if item is _END:
                    return
                yield item
        finally:
            self._thread.post(
                lambda: self.scheduler.run_with_stuck_limit(context.deadline - work.asked, generator.close)
            )


def _refuse_lack_of_values(error: Exception, batch: Any) -> None:
    """Raises Problem 400 where `error` is of an input without values: clients choose that, so it is no failure of the model."""
    failed = not isinstance(error, Problem) or error.status == HTTPStatus.INTERNAL_SERVER_ERROR
    if failed and _lacks_values(batch):
        _logger.info("the model failed on an input without values: %r", error)
        detail = "an input holds no values, and the model fails on that; send at least one row"
        raise bad_input("EmptyInput", detail) from error


def _lacks_values(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size == 0
    if isinstance(value, dict):
        return any(map(_lacks_values, value.values()))
    return isinstance(value, list) and all(map(_lacks_values, value))


def _told(context: RequestContext, query: DecodedRequest) -> RequestContext:
    return context if query.parameters is None else context.with_parameters(query.parameters)


@dataclass(slots=True)
class _Work:
    """What one stream has had of the model: when it was asked for, when that began (0: not yet), and for how long in all, in seconds.

    Between two items the model works for others; what an asynchronous one awaits is its own time.
    """

    asked: float
    begun: float = 0.0
    seconds: float = 0.0

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Time what is done within."""
        since = time.monotonic()
        self.begun = self.begun or since
        try:
            yield
        finally:
            self.seconds += time.monotonic() - since

    def of(self, function: Callable[[], Result]) -> Result:
        """Time one call."""
        with self.going_on():
            return function()


async def _on_loop(generator: Any, context: RequestContext, work: _Work) -> AsyncGenerator[Any, None]:
    try:
        while True:
            try:
                with working_on(context), work.going_on():
                    item = await anext(generator, _END)
            except (asyncio.CancelledError, *_ENDS_THE_LOOP) as error:
                if _is_cancellation(error):
                    raise
                raise as_exception(error) from error
            if item is _END:
                return
            yield to_plain(item)
    finally:
        try:
            await generator.aclose()
        except (Exception, asyncio.CancelledError, *_ENDS_THE_LOOP) as error:
            if _is_cancellation(error):
                raise
            # Nobody is left to be told; with a synchronous one it is the same.
            _logger.exception("a stream that was given up raised")


def _is_cancellation(error: BaseException) -> bool:
    """Whether `error` is that somebody cancels the present task; else it is of the model's own, whatever it is."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _one(value: Any) -> AsyncGenerator[Any, None]:
    yield to_plain(value)


def _next(generator: Any) -> Any:
    item = next(generator, _END)
    return item if item is _END else to_plain(item, copy=True)


async def _before(deadline: float, awaitable: Any) -> Any:
    """Raises Problem 504 when it takes too long."""
    if deadline == inf:
        return await awaitable
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise make_deadline_problem() from None
        raise
