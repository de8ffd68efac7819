"""The one thread that runs the model.

Serve's throughput mode runs everything of a replica on one event loop, health checks included, so a long forward pass
on it would make a busy replica look dead. One thread, not a pool: a model is never called twice at once (user code need
not be thread-safe), and torch spreads one forward pass over the replica's cores by itself.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

STUCK_AFTER_SECONDS = 600.0
"""A call that runs longer than this makes the replica unhealthy: nothing behind it will ever be answered."""


@dataclass(frozen=True, slots=True)
class _Job:
    call: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class ModelThread:
    """Runs calls in the order they were asked for. The thread is a daemon: a call that hangs keeps no process alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started: float | None = None
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name="sundog-model", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, or what it raised. A call whose caller was cancelled before its turn is not made."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting += 1
        self._jobs.put(_Job(call, future, loop))
        return await future

    @property
    def idle(self) -> bool:
        """Whether no call is running or waiting, as the event loop knows it."""
        return not self._waiting

    @property
    def busy_seconds(self) -> float:
        """How long the present call has been running; 0.0 when there is none."""
        started = self._started
        return 0.0 if started is None else self._clock() - started

    def close(self) -> None:
        """End the thread after the calls that were asked for."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            if not job.future.cancelled():
                self._started = self._clock()
                try:
                    result = job.call()
                except BaseException as raised:  # noqa: BLE001 (it is the caller's, whatever it is; the thread must live on)
                    error = raised
                self._started = None
            try:
                job.loop.call_soon_threadsafe(self._settle, job.future, result, error)
            except RuntimeError:
                # The loop is closed: the process is going away, and nobody waits for the result.
                return

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._waiting -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            # A future cannot hold StopIteration, and a model's sys.exit() must not end the replica.
            future.set_exception(RuntimeError(f"the model raised {type(error).__name__}"))
