"""The client for programs with one event loop: a background task sends the events."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import AsyncRetrying

from sundog_feedback.base_client import BaseClient, Options, Outcome, make_event
from sundog_feedback.outbox import Counts
from sundog_feedback.retry import DeliveryFailed, parse_response


class AsyncFeedback(BaseClient):
    """The same as `Feedback`, with `async with`; `send` is called without `await`."""

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(url, **options)
        self._http = httpx.AsyncClient(headers=self._headers, timeout=self._timeout_s, transport=transport)
        self._retrying = AsyncRetrying(**self._policy)
        self._has_events, self._is_empty, self._flush_now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_empty.set()
        self._task: asyncio.Task[None] | None = None

    def send(self, **outcome: Unpack[Outcome]) -> bool:
        """Report an outcome, as `Feedback.send` does."""
        if self._task is None or self._task.done():
            self._outbox.drop(1, "the client is not open")
            return False
        taken = self._outbox.put(make_event(**outcome))
        if taken:
            self._has_events.set()
            self._is_empty.clear()
        return taken

    @property
    def counts(self) -> Counts:
        """Return the counts of all events so far."""
        return self._outbox.counts

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything is sent or dropped, as `Feedback.flush` does."""
        self._flush_now.set()
        try:
            await asyncio.wait_for(self._is_empty.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = 10.0) -> None:
        """Send waiting events and drop the rest, as `Feedback.close` does."""
        await self.flush(timeout_s)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._outbox.drop_all("the client was closed")
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="sundog-feedback")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        while True:
            await self._has_events.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flush_now.wait(), self._linger_s)
            while body := self._outbox.take(time.monotonic()):
                try:
                    answer: Any = await self._retrying(self._post, body)
                except (httpx.HTTPError, DeliveryFailed) as error:
                    self._outbox.drop_batch(str(error) or type(error).__name__)
                else:
                    self._outbox.settle(answer, time.monotonic())
            self._has_events.clear()
            if (pause_s := self._outbox.pause_s(time.monotonic())) is None:
                self._flush_now.clear()
                self._is_empty.set()
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._has_events.wait(), pause_s)
                self._has_events.set()

    async def _post(self, body: bytes) -> Any:
        return parse_response(await self._http.post(self._url, content=body))
