"""The one thread that runs the model.

Serve's throughput mode runs everything of a replica on one event loop, health checks included. A long forward pass on it
would make a busy replica look dead. It is one thread, not a pool: a model is never called twice at once, because user code
need not be thread-safe, and torch already spreads one forward pass over the replica's cores.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from sundog_runtime.telemetry.logs import LOGGER_NAME

Result = TypeVar("Result")

STUCK_AFTER_SECONDS = 600.0
"""A call that runs longer makes the replica unhealthy, because no request behind it will be answered."""

_logger = logging.getLogger(LOGGER_NAME)


class ModelThread:
    """A thread that runs calls in the order of their submission. It is a daemon, so a call that hangs does not keep the process alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "sundog-model") -> None:
        self._clock = clock
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started: float | None = None
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """Return the result of `call`, or raise its error. A call whose caller is cancelled before its turn is skipped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def job() -> None:
            result: Any = None
            error = None
            if not future.cancelled():
                try:
                    result = call()
                except BaseException as raised:  # noqa: BLE001 (any error is the caller's; the thread must go on)
                    error = raised
            # Before the result is set: its receiver must find the thread free.
            self._started = None
            try:
                loop.call_soon_threadsafe(self._settle, future, result, error)
            except RuntimeError:
                # The loop is closed: the process is ending, and no caller waits for the result.
                return

        self._waiting += 1
        self._jobs.put(job)
        return await future

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` in its turn, without a result. It must not raise."""
        self._jobs.put(call)

    @property
    def is_idle(self) -> bool:
        """Whether no call of `run` is running or waiting, as the event loop sees it."""
        return not self._waiting

    @property
    def busy_seconds(self) -> float:
        """Return how long the current call has been running; 0.0 if there is none."""
        started = self._started
        return 0.0 if started is None else self._clock() - started

    def close(self) -> None:
        """End the thread after the calls that were submitted."""
        self._jobs.put(None)

    def _work(self) -> None:
        while self._do(self._jobs.get()):
            pass

    def _do(self, job: Callable[[], None] | None) -> bool:
        """Run one job; return False for the end. A separate function, so that no variable keeps a job's data during the next wait."""
        if job is None:
            return False
        self._started = self._clock()
        try:
            job()
        except BaseException:  # a model's sys.exit() ends only its own call
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
    """Return `error` in a form that a future can hold. A model's sys.exit() or cancellation must not end the replica."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    raised = RuntimeError(f"the model raised {type(error).__name__}")
    raised.__cause__ = error
    return raised
