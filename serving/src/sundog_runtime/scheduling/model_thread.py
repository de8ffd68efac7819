"""The one thread that runs the model.

Serve's throughput mode runs everything of a replica on one event loop, health checks included, so a long forward pass
on it would make a busy replica look dead. One thread, not a pool: a model is never called twice at once (user code need
not be thread-safe), and torch spreads one forward pass over the replica's cores by itself.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")

STUCK_AFTER_SECONDS = 600.0
"""A call that runs longer than this makes the replica unhealthy: nothing behind it will ever be answered."""

_logger = logging.getLogger("ray.serve.sundog")


class ModelThread:
    """Runs calls in the order they were asked for. The thread is a daemon: a call that hangs keeps no process alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "sundog-model") -> None:
        self._clock = clock
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started: float | None = None
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, or what it raised. A call whose caller was cancelled before its turn is not made."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def job() -> None:
            result: Any = None
            error = None
            if not future.cancelled():
                try:
                    result = call()
                except BaseException as raised:  # noqa: BLE001 (it is the caller's, whatever it is; the thread must live on)
                    error = raised
            # Before anybody is told: who has the result finds the thread free.
            self._started = None
            try:
                loop.call_soon_threadsafe(self._settle, future, result, error)
            except RuntimeError:
                # The loop is closed: the process is going away, and nobody waits for the result.
                return

        self._waiting += 1
        self._jobs.put(job)
        return await future

    def post(self, call: Callable[[], None]) -> None:
        """Run `call`, which tells nobody how it ended, in its turn. It must not raise."""
        self._jobs.put(call)

    @property
    def idle(self) -> bool:
        """Whether no call of `run` is running or waiting, as the event loop knows it."""
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
        while self._do(self._jobs.get()):
            pass

    def _do(self, job: Callable[[], None] | None) -> bool:
        """Run one job; False for the end. A call of its own, so that nobody holds a job's data while the next is waited for."""
        if job is None:
            return False
        self._started = self._clock()
        try:
            job()
        except BaseException:  # a model's sys.exit() ends nothing but its own call
            _logger.exception("a call on the model's thread raised")
        self._started = None
        return True

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._waiting -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(as_exception(error))


def as_exception(error: BaseException) -> Exception:
    """`error` as a future can hold it. A model's sys.exit(), or a cancellation of its own, must not end the replica."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    raised = RuntimeError(f"the model raised {type(error).__name__}")
    raised.__cause__ = error
    return raised
