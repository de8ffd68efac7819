"""The client for programs of one event loop: a task of its own sends what others put."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import AsyncRetrying

from sundog_feedback.base_client import BaseClient, Options, Outcome, make_event
from sundog_feedback.outbox import Counts
from sundog_feedback.retry import DeliveryFailed, parse_response


class AsyncFeedback(BaseClient):
    """As `Feedback`, with `async with`; `send` is called without `await`."""

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
        self._some, self._none, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._none.set()
        self._task: asyncio.Task[None] | None = None

    def send(self, **outcome: Unpack[Outcome]) -> bool:
        """As `Feedback.send`."""
        if self._task is None or self._task.done():
            self._outbox.drop(1, "the client is not open")
            return False
        taken = self._outbox.put(make_event(**outcome))
        if taken:
            self._some.set()
            self._none.clear()
        return taken

    @property
    def counts(self) -> Counts:
        """What came of all events so far."""
        return self._outbox.counts

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """As `Feedback.flush`."""
        self._hurry.set()
        try:
            await asyncio.wait_for(self._none.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = 10.0) -> None:
        """As `Feedback.close`."""
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
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._linger_s)
            while body := self._outbox.take():
                try:
                    self._outbox.settle(await self._retrying(self._post, body))
                except (httpx.HTTPError, DeliveryFailed) as error:
                    self._outbox.drop_batch(str(error) or type(error).__name__)
            self._some.clear()
            self._hurry.clear()
            self._none.set()

    async def _post(self, body: bytes) -> Any:
        return parse_response(await self._http.post(self._url, content=body))
