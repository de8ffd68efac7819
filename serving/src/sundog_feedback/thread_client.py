"""The client for programs with threads: a background thread sends the events."""

import os
import threading
import time
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import Retrying

from sundog_feedback.base_client import BaseClient, Options, Outcome, make_event
from sundog_feedback.outbox import Counts
from sundog_feedback.retry import DeliveryFailed, parse_response


class Feedback(BaseClient):
    """A client that reports outcomes to the service at `url`: `with Feedback("http://digits.vision.svc") as feedback: feedback.send(…)`.

    Keyword arguments are the members of `Options`. `close` sends waiting events, and so does the end of `with`.
    After a fork, the new process must create its own client: in it this one drops all events. Raises httpx.InvalidURL for an invalid URL.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: httpx.BaseTransport | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(url, **options)
        self._http = httpx.Client(headers=self._headers, timeout=self._timeout_s, transport=transport)
        self._changed = threading.Condition()
        self._flushing = 0
        self._closed = False
        self._process = os.getpid()
        self._abandoned = threading.Event()
        self._retrying = Retrying(sleep=self._sleep, **self._policy)
        self._thread = threading.Thread(target=self._run, name="sundog-feedback", daemon=True)
        self._thread.start()

    def send(self, **outcome: Unpack[Outcome]) -> bool:
        """Report an outcome by the members of `Outcome`. Return at once, without waiting for the edge; False if it was dropped."""
        event = make_event(**outcome)
        if self._is_forked:
            self._outbox.drop(1, "the client belongs to the process that this one was forked from")
            return False
        with self._changed:
            if self._closed:
                self._outbox.drop(1, "the client is closed")
                return False
            taken = self._outbox.put(event)
            self._changed.notify_all()
        return taken

    @property
    def counts(self) -> Counts:
        """Return the counts of all events so far."""
        if self._is_forked:
            return self._outbox.counts
        with self._changed:
            return self._outbox.counts

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything is sent or dropped. Return False after `timeout_s` seconds."""
        if self._is_forked:
            return False
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not len(self._outbox), timeout_s)
            finally:
                self._flushing -= 1

    def close(self, timeout_s: float = 10.0) -> None:
        """Send waiting events, and drop the rest after `timeout_s` seconds. A request that still runs then ends in the background."""
        if self._is_forked:
            return
        deadline = time.monotonic() + timeout_s
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._outbox.drop_all("the client was closed")
            self._abandoned.set()
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _is_forked(self) -> bool:
        """Whether this is a copy in a forked process: it has no thread, and another thread may have held its lock at the fork."""
        return os.getpid() != self._process

    def _run(self) -> None:
        # Only this thread knows when its last request has ended.
        with self._http:
            while body := self._next_batch():
                try:
                    answer = self._retrying(self._post, body)
                except (httpx.HTTPError, DeliveryFailed) as error:
                    with self._changed:
                        self._outbox.drop_batch(str(error) or type(error).__name__)
                else:
                    with self._changed:
                        self._outbox.settle(answer, time.monotonic())
                with self._changed:
                    self._changed.notify_all()

    def _next_batch(self) -> bytes:
        """Return the next body, after a pause in which more events can join it; empty when the client is closed."""
        with self._changed:
            while not self._closed and (pause_s := self._outbox.pause_s(time.monotonic())) != 0:
                self._changed.wait(pause_s)
            self._changed.wait_for(lambda: self._closed or self._flushing, self._linger_s)
            return self._outbox.take(time.monotonic())

    def _post(self, body: bytes) -> Any:
        if self._abandoned.is_set():
            raise DeliveryFailed("the client was closed")
        return parse_response(self._http.post(self._url, content=body))

    def _sleep(self, seconds: float) -> None:
        self._abandoned.wait(seconds)
