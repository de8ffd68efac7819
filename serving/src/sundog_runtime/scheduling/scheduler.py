"""The scheduler between decoded requests and the model: queue, batches, deadlines, and each request's own result.

Everything here runs on the event loop, except `_step` and `_run_batch`, which run where the model does.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias, TypeVar

from sundog_runtime.context import NO_PARAMETERS, RequestContext, call_for
from sundog_runtime.errors import ClientGoneError, Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.scheduling.batch_assembly import (
    NOT_ROWS,
    batch_key,
    find_unbatchable_reason,
    join_batches,
    split_output,
)
from sundog_runtime.scheduling.batch_queue import BatchQueue, QueuedRequest
from sundog_runtime.scheduling.execution_mode import (
    PassDurations,
    ThreadUsage,
    is_small,
    thread_usage_reader,
    unpreempted_seconds,
)
from sundog_runtime.scheduling.model_thread import STUCK_AFTER_SECONDS, ModelThread, as_exception
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics
from sundog_runtime.tensors import to_plain

Result = TypeVar("Result")

MAX_QUEUED_REQUESTS = 1024
"""Requests that may wait in one replica. Serve admits `maxOngoingRequests` at a time, which is usually less."""

NOT_AT_ONCE = object()
"""Returned instead of an output if the request has to wait."""

STUCK_DEADLINE_FACTOR = 4.0
"""A call is stuck if it runs longer than this many times the deadlines of its requests, because no client waits any more."""

_MIN_STUCK_LIMIT_S = 60.0
_logger = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class _PendingRequest:
    """One request's inputs, and the future that gets its output."""

    batch: Any
    context: RequestContext
    future: "asyncio.Future[Any]"


_Entry: TypeAlias = QueuedRequest[_PendingRequest]


@dataclass(frozen=True, slots=True)
class _BatchResult:
    """The result of one batch: an output or an error for each request.

    `seconds` are from begin to end; `own_seconds` are without time that the machine took (`execution_mode`).
    """

    batch: list[_Entry]
    results: list[tuple[Any, BaseException | None]]
    started: float
    seconds: float
    own_seconds: float


class Scheduler:
    """The scheduler of one model: one call at a time, on its thread, or on the event loop if its passes are quick."""

    def __init__(
        self,
        model: LoadedModel,
        thread: ModelThread,
        metrics: ReplicaMetrics,
        max_rows: int = 1,
        max_delay_s: float = 0.0,
        max_waiting: int = MAX_QUEUED_REQUESTS,
        clock: Callable[[], float] = time.monotonic,
        usage: Callable[[], ThreadUsage] | None = thread_usage_reader,
    ) -> None:
        self._model = model
        self._thread = thread
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._clock = clock
        self._usage = usage
        # A predictor's own code may depend on its thread (a database connection, asyncio.run); a module does not.
        self._durations = PassDurations() if model.platform == "pytorch" and not model.needs_model_thread else None
        # A predictor may also return memory of its own, and write to it in its next call, before this answer is encoded.
        self._copies = model.platform == "python"
        self.is_batching = max_rows > 1 and not find_unbatchable_reason(model)
        self._batches: BatchQueue[_PendingRequest] = BatchQueue(max_rows if self.is_batching else 1, max_delay_s)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether a step is on the model's thread, or about to be. Changes under the lock. While it is False, only the
        # event loop touches the queue or the model.
        self._stepping = False
        self._arriving = 0
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._stuck_limit_s = STUCK_AFTER_SECONDS

    @property
    def waiting(self) -> int:
        """Return the number of requests in the queue."""
        return len(self._batches)

    @property
    def is_stuck(self) -> bool:
        """Whether a call of the model has been running for so long that no request behind it will be answered."""
        return self._thread.busy_seconds > self._stuck_limit_s

    def run_with_stuck_limit(self, longest: float, call: Callable[[], Result]) -> Result:
        """Return `call()`, made on the model's thread. Meanwhile `is_stuck` depends on `longest`, the seconds that its clients wait."""
        self._stuck_limit_s = min(max(_MIN_STUCK_LIMIT_S, STUCK_DEADLINE_FACTOR * longest), STUCK_AFTER_SECONDS)
        try:
            return call()
        finally:
            self._stuck_limit_s = STUCK_AFTER_SECONDS

    def begin_arrival(self) -> None:
        """Note that a request has begun to arrive: held requests may wait for it. A call of `end_arrival` must follow."""
        self._arriving += 1

    def end_arrival(self) -> None:
        """Note that the request has arrived and is about to call `infer`, or never will."""
        self._arriving -= 1
        if self._held and not self._arriving:
            asyncio.get_running_loop().call_soon(self._flush)

    def can_infer_at_once(self) -> bool:
        """Whether `infer_at_once` may answer a request that has arrived now."""
        return self._can_run_on_loop() and not self._held and not (self._arriving and self.is_batching)

    def infer_at_once(self, batch: Any, context: RequestContext) -> Any:
        """Infer like `infer` if nothing has to be waited for; otherwise return NOT_AT_ONCE without any effect."""
        now = self._clock()
        if context.deadline <= now:
            raise make_deadline_problem()
        return self._run_on_loop(batch, context, now) if self.can_infer_at_once() and is_small(batch) else NOT_AT_ONCE

    async def infer(self, batch: Any, context: RequestContext) -> Any:
        """Return the model's output for `batch`, converted by `tensors.to_plain`.

        Raises Problem 504 when the deadline passes (a request that still waits then is never computed), Problem 503 when
        too many wait, and any error that the model raises on this request alone. When it is cancelled, or when its client
        goes away (which raises ClientGoneError), the request leaves the queue.
        """
        output = self.infer_at_once(batch, context)
        if output is not NOT_AT_ONCE:
            return output
        now = self._clock()
        if len(self._batches) >= self._max_waiting:
            detail = f"{self._max_waiting} requests already wait for the model"
            raise Problem(503, "Overloaded", detail, ((b"retry-after", b"1"),))
        return await self._wait(batch, context, now)

    def _can_run_on_loop(self) -> bool:
        # Never beside a call on the thread: a model runs one call at a time.
        return self._durations is not None and self._durations.is_quick and not self._stepping and self._thread.is_idle

    def _run_on_loop(self, batch: Any, context: RequestContext, now: float) -> Any:
        before = self._usage() if self._usage is not None else None
        output, error = self._run_one(batch, context)
        seconds = self._clock() - now
        if self._durations is not None:
            self._durations.observe(self._own_seconds(seconds, before))
        self._metrics.record_pass(1, seconds)
        if error is not None:
            raise as_exception(error)
        return output

    async def _wait(self, batch: Any, context: RequestContext, now: float) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        key, rows = batch_key(batch) if self.is_batching else (None, 1)
        if key is not None and context.parameters is not NO_PARAMETERS:
            key = (key, context.parameters.key)
        entry = QueuedRequest(_PendingRequest(batch, context, future), key, rows)
        alarm = None
        if context.deadline < inf:
            alarm = loop.call_later(context.deadline - now, self._expire, entry)
        watch = None
        if context.until_gone is not None:
            watch = loop.create_task(_cancel_when_gone(future, context.until_gone))
        try:
            self._enqueue(entry, now)
            return await future
        except asyncio.CancelledError:
            self._withdraw(entry)
            if watch is not None and watch.done() and not watch.cancelled():
                raise ClientGoneError from None
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            if watch is not None:
                watch.cancel()

    def _enqueue(self, entry: _Entry, now: float) -> None:
        runs_on_loop = (self._held or self._can_run_on_loop()) and is_small(entry.payload.batch)
        with self._changed:
            self._batches.add(entry, now)
            self._changed.notify()
        if runs_on_loop:
            self._hold()
        else:
            self._start_thread_step()

    def _hold(self) -> None:
        """Hold waiting requests on the event loop until the arriving ones are here, or for as long as that is worthwhile."""
        if not self._held:
            self._held = True
            delay_s = min(self._batches.max_delay_s, self._batches.pass_seconds)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._flush)
        if not self._arriving:
            self._flush()

    def _flush(self) -> None:
        """Run the held requests, if they are still held."""
        if not self._held:
            return
        self._held = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._can_run_on_loop():
            batch, _ = self._batches.take_batch(inf)
            if not batch:
                return
            result = self._run_batch(batch)
            self._batches.record_pass(result.seconds)
            self._settle(result)
        self._start_thread_step()

    def _start_thread_step(self) -> None:
        self._loop = asyncio.get_running_loop()
        with self._changed:
            post = bool(self._batches) and not self._stepping
            self._stepping |= post
        if post:
            self._thread.post(self._step)

    def _withdraw(self, entry: _Entry) -> None:
        with self._changed:
            was_waiting = self._batches.discard(entry)
        if was_waiting:
            self._metrics.record_wait(self._clock() - entry.arrived)

    def _expire(self, entry: _Entry) -> None:
        self._withdraw(entry)
        if not entry.payload.future.done():
            entry.payload.future.set_exception(make_deadline_problem())

    def _settle(self, result: _BatchResult) -> None:
        """Give every request its result, on the event loop."""
        self._metrics.record_pass(len(result.batch), result.seconds)
        if self._durations is not None:
            self._durations.observe(result.own_seconds)
        for entry, (output, error) in zip(result.batch, result.results, strict=True):
            self._metrics.record_wait(result.started - entry.arrived)
            future = entry.payload.future
            if future.done():
                continue
            if error is None:
                future.set_result(output)
            else:
                future.set_exception(as_exception(error))

    def _step(self) -> None:
        """Run the next batch on the model's thread, if a request still waits.

        One batch at a time, behind other calls that were submitted meanwhile: settings are applied between requests.
        """
        with self._changed:
            while True:
                batch, until = self._batches.take_batch(self._clock())
                if batch:
                    break
                if until is None:
                    self._stepping = False
                    return
                self._changed.wait(until - self._clock())
        longest = max(entry.payload.context.deadline - entry.arrived for entry in batch)
        result = self.run_with_stuck_limit(longest, lambda: self._run_batch(batch))
        with self._changed:
            self._batches.record_pass(result.seconds)
            self._stepping = again = bool(self._batches)
        if again:
            self._thread.post(self._step)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, result)
        except RuntimeError:
            # The loop is closed: the process is ending, and no client waits for the result.
            return

    def _run_batch(self, batch: list[_Entry]) -> _BatchResult:
        before = self._usage() if self._usage is not None else None
        started = self._clock()
        results = self._run_joined(batch) if len(batch) > 1 else None
        if results is None:
            results = [self._run_entry(entry) for entry in batch]
        seconds = self._clock() - started
        return _BatchResult(batch, results, started, seconds, self._own_seconds(seconds, before))

    def _own_seconds(self, seconds: float, before: ThreadUsage | None) -> float:
        """Return the own time of a pass on this thread; `seconds` if the thread's usage is unknown."""
        if before is None or self._usage is None:
            return seconds
        return unpreempted_seconds(seconds, before, self._usage)

    def _run_joined(self, batch: list[_Entry]) -> list[tuple[Any, BaseException | None]] | None:
        """Return every request's part of one call; None if the call failed, so that each request must run alone.

        An error of one request thus reaches only that request, and the others get their own outputs.
        """
        requests = [entry.payload for entry in batch]
        try:
            inputs = join_batches([request.batch for request in requests])
            contexts = tuple(request.context for request in requests)
            output = self._to_plain(call_for(contexts, lambda: self._model.predict(inputs)))
        except BaseException:  # noqa: BLE001 (the request that raises it again gets it)
            return None
        parts = split_output(output, [entry.rows for entry in batch])
        if parts is None:
            self.stop_batching(NOT_ROWS)
            return None
        return [(part, None) for part in parts]

    def _to_plain(self, output: Any) -> Any:
        return to_plain(output, copy=self._copies)

    def stop_batching(self, reason: str) -> None:
        """Run each further request in a pass of its own."""
        if self.is_batching:
            self.is_batching = False
            self._batches.max_rows = 1
            _logger.warning("requests are not batched: the model cannot take several at once: %s", reason)

    def _run_entry(self, entry: _Entry) -> tuple[Any, BaseException | None]:
        # A request that was abandoned while the others ran is not worth a pass.
        if entry.payload.future.done():
            return None, None
        return self._run_one(entry.payload.batch, entry.payload.context)

    def _run_one(self, batch: Any, context: RequestContext) -> tuple[Any, BaseException | None]:
        try:
            return self._to_plain(call_for((context,), lambda: self._model.predict(batch))), None
        except BaseException as raised:  # noqa: BLE001 (any error is this request's; the other requests must go on)
            return None, raised


def make_deadline_problem() -> Problem:
    """Return the problem of a request whose deadline has passed."""
    return Problem(504, "DeadlineExceeded", "the request's deadline passed before the model had answered")


async def _cancel_when_gone(future: "asyncio.Future[Any]", until_gone: Callable[[], Awaitable[None]]) -> None:
    """Cancel `future` when the client goes away."""
    await until_gone()
    future.cancel()
