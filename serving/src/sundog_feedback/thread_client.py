"""The client for programs of threads: a thread of its own sends what the others put."""

import os
import threading
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from tenacity import Retrying

from sundog_feedback.base_client import BaseClient, Options, Outcome, make_event
from sundog_feedback.outbox import Counts
from sundog_feedback.retry import DeliveryFailed, parse_response


class Feedback(BaseClient):
    """Reports outcomes to the service at `url`, as in `with Feedback("http://digits.vision.svc") as feedback: feedback.send(…)`.

    How is said by the members of `Options`. `close` sends what waits; so does the end of `with`.
    A process that is forked has to make one of its own: in it this one takes nothing. Raises httpx.InvalidURL for what is no URL.
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
        """Report an outcome, by the members of `Outcome`. Returns at once, edge or no edge; False if it was dropped at once."""
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
        """What came of all events so far."""
        if self._is_forked:
            return self._outbox.counts
        with self._changed:
            return self._outbox.counts

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything has been sent or dropped. False if the time was not enough."""
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
        """Send what waits, for so long at most; what is left is dropped."""
        if self._is_forked:
            return
        self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._outbox.drop_all("the client was closed")
            self._abandoned.set()
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _is_forked(self) -> bool:
        """Whether this is a copy: it has no thread, and its lock may have been held by one when the copy was made."""
        return os.getpid() != self._process

    def _run(self) -> None:
        while body := self._next():
            try:
                answer = self._retrying(self._post, body)
            except (httpx.HTTPError, DeliveryFailed) as error:
                with self._changed:
                    self._outbox.drop_batch(str(error) or type(error).__name__)
            else:
                with self._changed:
                    self._outbox.settle(answer)
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> bytes:
        """The next body, once there is one and others have had time to join it; empty when the client is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._outbox))
            self._changed.wait_for(lambda: self._closed or self._flushing, self._linger_s)
            return self._outbox.take()

    def _post(self, body: bytes) -> Any:
        if self._abandoned.is_set():
            raise DeliveryFailed("the client was closed")
        return parse_response(self._http.post(self._url, content=body))

    def _sleep(self, seconds: float) -> None:
        self._abandoned.wait(seconds)
