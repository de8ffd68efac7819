"""Between decoded requests and the model: waiting, joining, deadlines, and each request's own end.

Everything here runs on the event loop but `_step` and `_pass`, which run where the model does.
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
from sundog_runtime.scheduling.batch_assembly import batch_key, find_unbatchable_reason, join_batches, split_output
from sundog_runtime.scheduling.batch_queue import BatchQueue, QueuedRequest
from sundog_runtime.scheduling.execution_mode import (
    PassDurations,
    ThreadUsage,
    is_small,
    thread_usage_reader,
    unpreempted_seconds,
)
from sundog_runtime.scheduling.model_thread import STUCK_AFTER_SECONDS, ModelThread, as_exception
from sundog_runtime.telemetry.metrics import ReplicaMetrics
from sundog_runtime.tensors import to_plain

Result = TypeVar("Result")

MAX_QUEUED_REQUESTS = 1024
"""Requests that may wait in one replica. Serve admits `maxOngoingRequests` at a time, which is less as a rule."""

NOT_AT_ONCE = object()
"""Instead of an output: the request has to wait."""

STUCK_DEADLINE_FACTOR = 4.0
"""A call that runs longer than so many times the deadlines of its requests is stuck: nobody waits for it any more."""

_LEAST_PATIENCE_SECONDS = 60.0
_logger = logging.getLogger("ray.serve.sundog")


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request's inputs, and who waits for the output."""

    batch: Any
    context: RequestContext
    future: "asyncio.Future[Any]"


_Entry: TypeAlias = QueuedRequest[_Ask]


@dataclass(frozen=True, slots=True)
class _Passed:
    """What came out of handing out one batch: for each request its output or its error.

    `seconds` are from begin to end; `own_seconds` are those of them that were not the machine's (`pace`).
    """

    batch: list[_Entry]
    ends: list[tuple[Any, BaseException | None]]
    begun: float
    seconds: float
    own_seconds: float


class Scheduler:
    """Runs one model: one call at a time, on its thread, or on the event loop where that is quick."""

    def __init__(
        self,
        model: LoadedModel,
        thread: ModelThread,
        metrics: ReplicaMetrics,
        max_rows: int = 1,
        max_delay: float = 0.0,
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
        self._pace = PassDurations() if model.platform == "pytorch" and not model.needs_model_thread else None
        # It may also answer with memory of its own that its next call writes to, before this answer is written.
        self._copies = model.platform == "python"
        self.joins = max_rows > 1 and not find_unbatchable_reason(model)
        self._batches: BatchQueue[_Ask] = BatchQueue(max_rows if self.joins else 1, max_delay)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether a step is on the model's thread, or about to be. Changes under the lock; while it is False nothing
        # but the event loop touches the queue or the model.
        self._stepping = False
        self._coming = 0
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._patience = STUCK_AFTER_SECONDS

    @property
    def waiting(self) -> int:
        """Requests that are in the queue."""
        return len(self._batches)

    @property
    def stuck(self) -> bool:
        """Whether a call of the model has been running for so long that nothing behind it will be answered."""
        return self._thread.busy_seconds > self._patience

    def run_with_stuck_limit(self, longest: float, call: Callable[[], Result]) -> Result:
        """`call()`, on the model's thread. While it runs, `stuck` goes by `longest`, the seconds that who asked for it waits."""
        self._patience = min(max(_LEAST_PATIENCE_SECONDS, STUCK_DEADLINE_FACTOR * longest), STUCK_AFTER_SECONDS)
        try:
            return call()
        finally:
            self._patience = STUCK_AFTER_SECONDS

    def expect(self) -> None:
        """A request has begun to arrive: who is held for company may wait for it. `expected` must follow."""
        self._coming += 1

    def expected(self) -> None:
        """The request has arrived, and is about to ask for its answer, or it never will."""
        self._coming -= 1
        if self._held and not self._coming:
            asyncio.get_running_loop().call_soon(self._flush)

    def can_infer_at_once(self) -> bool:
        """Whether `infer_at_once` may have an answer for a request that is here now."""
        return self._may_run_here() and not self._held and not (self._coming and self.joins)

    def infer_at_once(self, batch: Any, context: RequestContext) -> Any:
        """As `infer`, where nothing has to be waited for; else NOT_AT_ONCE, and nothing has happened."""
        now = self._clock()
        if context.deadline <= now:
            raise make_deadline_problem()
        return self._here(batch, context, now) if self.can_infer_at_once() and is_small(batch) else NOT_AT_ONCE

    async def infer(self, batch: Any, context: RequestContext) -> Any:
        """The model's output for `batch`, as `tensors.plain` gives it.

        Raises Problem 504 when the deadline passes (what still waits then is never computed), Problem 503 when too
        many wait, and whatever the model raises on this request alone. When it is cancelled, or when its client is gone
        (which raises ClientGoneError), it leaves the queue.
        """
        output = self.infer_at_once(batch, context)
        if output is not NOT_AT_ONCE:
            return output
        now = self._clock()
        if len(self._batches) >= self._max_waiting:
            detail = f"{self._max_waiting} requests are waiting for the model already"
            raise Problem(503, "Overloaded", detail, ((b"retry-after", b"1"),))
        return await self._wait(batch, context, now)

    def _may_run_here(self) -> bool:
        # Never beside a call on the thread: a model is used by one at a time.
        return self._pace is not None and self._pace.quick and not self._stepping and self._thread.idle

    def _here(self, batch: Any, context: RequestContext, now: float) -> Any:
        before = self._usage() if self._usage is not None else None
        output, error = self._alone(batch, context)
        seconds = self._clock() - now
        if self._pace is not None:
            self._pace.observe(self._own(seconds, before))
        self._metrics.passed(1, seconds)
        if error is not None:
            raise as_exception(error)
        return output

    async def _wait(self, batch: Any, context: RequestContext, now: float) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        key, rows = batch_key(batch) if self.joins else (None, 1)
        if key is not None and context.parameters is not NO_PARAMETERS:
            key = (key, context.parameters.key)
        entry = QueuedRequest(_Ask(batch, context, future), key, rows)
        alarm = None
        if context.deadline < inf:
            alarm = loop.call_later(context.deadline - now, self._expire, entry)
        watch = None
        if context.until_gone is not None:
            watch = loop.create_task(_leave(future, context.until_gone))
        try:
            self._put(entry, now)
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

    def _put(self, entry: _Entry, now: float) -> None:
        here = (self._held or self._may_run_here()) and is_small(entry.payload.batch)
        with self._changed:
            self._batches.add(entry, now)
            self._changed.notify()
        if here:
            self._hold()
        else:
            self._to_thread()

    def _hold(self) -> None:
        """Keep what waits on the event loop until those that are coming are here, or for as long as is worth it."""
        if not self._held:
            self._held = True
            patience = min(self._batches.max_delay, self._batches.pass_seconds)
            self._timer = asyncio.get_running_loop().call_later(patience, self._flush)
        if not self._coming:
            self._flush()

    def _flush(self) -> None:
        """Put before the model what was held, if it still is."""
        if not self._held:
            return
        self._held = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._may_run_here():
            batch, _ = self._batches.take(inf)
            if not batch:
                return
            passed = self._pass(batch)
            self._batches.done(passed.seconds)
            self._settle(passed)
        self._to_thread()

    def _to_thread(self) -> None:
        self._loop = asyncio.get_running_loop()
        with self._changed:
            post = bool(self._batches) and not self._stepping
            self._stepping |= post
        if post:
            self._thread.post(self._step)

    def _withdraw(self, entry: _Entry) -> None:
        with self._changed:
            self._batches.discard(entry)

    def _expire(self, entry: _Entry) -> None:
        self._withdraw(entry)
        if not entry.payload.future.done():
            entry.payload.future.set_exception(make_deadline_problem())

    def _settle(self, passed: _Passed) -> None:
        """On the event loop: give every request its end."""
        self._metrics.passed(len(passed.batch), passed.seconds)
        if self._pace is not None:
            self._pace.observe(passed.own_seconds)
        for entry, (output, error) in zip(passed.batch, passed.ends, strict=True):
            self._metrics.waited(passed.begun - entry.arrived)
            future = entry.payload.future
            if future.done():
                continue
            if error is None:
                future.set_result(output)
            else:
                future.set_exception(as_exception(error))

    def _step(self) -> None:
        """On the model's thread: the next batch, if something still waits.

        One batch at a time, behind whatever else the thread was asked for meanwhile: settings come between requests.
        """
        with self._changed:
            while True:
                batch, until = self._batches.take(self._clock())
                if batch:
                    break
                if until is None:
                    self._stepping = False
                    return
                self._changed.wait(until - self._clock())
        longest = max(entry.payload.context.deadline - entry.arrived for entry in batch)
        passed = self.run_with_stuck_limit(longest, lambda: self._pass(batch))
        with self._changed:
            self._batches.done(passed.seconds)
            self._stepping = again = bool(self._batches)
        if again:
            self._thread.post(self._step)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._settle, passed)
        except RuntimeError:
            # The loop is closed: the process is going away, and nobody waits for the result.
            return

    def _pass(self, batch: list[_Entry]) -> _Passed:
        before = self._usage() if self._usage is not None else None
        begun = self._clock()
        ends = self._joined(batch) if len(batch) > 1 else None
        if ends is None:
            ends = [self._of(entry) for entry in batch]
        seconds = self._clock() - begun
        return _Passed(batch, ends, begun, seconds, self._own(seconds, before))

    def _own(self, seconds: float, before: ThreadUsage | None) -> float:
        """The own time of a pass on this thread; all of it where nothing says what the thread has had."""
        if before is None or self._usage is None:
            return seconds
        return unpreempted_seconds(seconds, before, self._usage)

    def _joined(self, batch: list[_Entry]) -> list[tuple[Any, BaseException | None]] | None:
        """Every request's part of one call; None where the call failed: then each must be tried alone.

        An error of one request is so told to that one, and the others get what they would have got.
        """
        asks = [entry.payload for entry in batch]
        try:
            inputs = join_batches([ask.batch for ask in asks])
            output = self._plain(call_for(tuple(ask.context for ask in asks), lambda: self._model.predict(inputs)))
        except BaseException:  # noqa: BLE001 (told to the request that raises it again)
            return None
        parts = split_output(output, [entry.rows for entry in batch])
        if parts is None:
            self.stop_joining("its outputs do not have as many rows as its inputs")
            return None
        return [(part, None) for part in parts]

    def _plain(self, output: Any) -> Any:
        return to_plain(output, copy=self._copies)

    def stop_joining(self, why: str) -> None:
        """From now on each request is a pass of its own."""
        if self.joins:
            self.joins = False
            self._batches.max_rows = 1
            _logger.warning("requests are not batched: the model cannot take several at once: %s", why)

    def _of(self, entry: _Entry) -> tuple[Any, BaseException | None]:
        # One that has left while the others were tried is not worth a pass.
        if entry.payload.future.done():
            return None, None
        return self._alone(entry.payload.batch, entry.payload.context)

    def _alone(self, batch: Any, context: RequestContext) -> tuple[Any, BaseException | None]:
        try:
            return self._plain(call_for((context,), lambda: self._model.predict(batch))), None
        except BaseException as raised:  # noqa: BLE001 (it is the request's, whatever it is; the others must live on)
            return None, raised


def make_deadline_problem() -> Problem:
    """The end of a request whose time is over."""
    return Problem(504, "DeadlineExceeded", "the request's time was over before the model had answered it")


async def _leave(future: "asyncio.Future[Any]", until_gone: Callable[[], Awaitable[None]]) -> None:
    """Cancel `future` when the client is gone."""
    await until_gone()
    future.cancel()
