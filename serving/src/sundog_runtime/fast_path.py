"""uvicorn's HTTP/1.1 protocol, with a fast path for small requests that can be answered at once.

A small model's request usually arrives in one piece, and its model answers within a millisecond on the event loop. Such a
request needs no scope, no task, no messages and no second write. The fast path answers it in the call that received its
last byte, in one write. Every other request takes uvicorn's path, unchanged: it starts there with its headers or, if its
body is late, a moment after them.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Protocol
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sundog_runtime.context import headers_of
from sundog_runtime.protocol.messages import Buffer, HttpResponse
from sundog_runtime.telemetry.logs import LOGGER_NAME

REQUEST_ID_HEADER = b"x-request-id"
_SAFE_TO_RETURN = re.compile(rb"[\x21-\x7e]{1,256}")
_STATUS_LINES = {int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}

_logger = logging.getLogger(LOGGER_NAME)


class AdmissionCounter(Protocol):
    """A counter of ongoing requests, by which Serve limits and scales."""

    def try_admit(self) -> bool:
        """Count a request if another one is allowed now, until `record_response`. Return whether it was counted."""

    def record_response(self, status: int, seconds: float) -> None:
        """Record a response: its status and its duration."""

    def cancel_admission(self) -> None:
        """Undo `try_admit`, because the request takes uvicorn's path and is counted there."""


@dataclass(frozen=True, slots=True)
class FastPath:
    """`answer` returns the response to a POST by path, headers and body, or None if uvicorn's path must handle it.

    `paths` are full paths as requests have them, without a query. Any exception from `answer` disables the fast path for good.
    """

    paths: Mapping[bytes, str]
    answer: Callable[[str, Mapping[bytes, bytes], Buffer], HttpResponse | None]
    admission_counter: AdmissionCounter


class TrailerDroppingProtocol(HttpToolsProtocol):
    """uvicorn's protocol without trailers, which uvicorn appends to the headers although no proxy has checked them.

    A proxy that removes or sets headers does so before the body, and passes on what comes after it.
    """

    _headers_are_over = False

    def on_message_begin(self) -> None:
        """Start a request."""
        self._headers_are_over = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; ignore a trailer, for which the parser calls this method too."""
        if not self._headers_are_over:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take what follows as trailers."""
        self._headers_are_over = True
        super().on_headers_complete()


class _FastPathProtocol(TrailerDroppingProtocol):
    """One connection. `enabled` holds for all connections of a server."""

    fast_path: ClassVar[FastPath]
    enabled: ClassVar[bool] = True
    _held = False
    _body: bytes | bytearray = b""
    _default_headers: Any = None
    _head = b""
    _idle_since: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse `data`. A request that has not arrived whole after that takes uvicorn's path."""
        super().data_received(data)
        if self._held:
            self._release_held()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header, as uvicorn does, in one call: a request has some ten headers."""
        if not self._headers_are_over:
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_message_begin(self) -> None:
        """Start a request. Its scope is made when it is needed."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._headers_are_over = False

    def on_headers_complete(self) -> None:
        """Hold a request that the fast path may answer until its body has arrived."""
        self._headers_are_over = True
        if self._can_be_held():
            self._held, self._body = True, b""
        else:
            self._start_in_uvicorn()

    def on_body(self, body: bytes) -> None:
        """Add a part of the body."""
        if not self._held:
            super().on_body(body)
        elif self._body:
            self._body = bytearray(self._body) if isinstance(self._body, bytes) else self._body
            self._body += body
        else:
            self._body = body

    def on_message_complete(self) -> None:
        """Answer the complete request."""
        if self._held and self._try_answer_safely():
            self._held = False
            return
        if self._held:
            self._release_held()
        super().on_message_complete()

    def _can_be_held(self) -> bool:
        # Cheapest checks first. An earlier request that is still open must be answered first (pipelining).
        return (
            self.enabled
            and self.url in self.fast_path.paths
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.flow.write_paused
        )

    def _release_held(self) -> None:
        self._held = False
        if self.transport.is_closing():
            # The request was malformed, and uvicorn has sent the answer to that.
            return
        body, self._body = self._body, b""
        self._start_in_uvicorn()
        if body:
            super().on_body(bytes(body))

    def _start_in_uvicorn(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        # The scope holds this list object, so it is extended in place.
        self.headers.extend(headers)
        super().on_headers_complete()

    def _try_answer_safely(self) -> bool:
        """Answer the request if the fast path can; return whether it did.

        Raises nothing: the parser would report the request as malformed.
        """
        try:
            return self._try_answer()
        except Exception:
            # No byte of an answer has been written yet, so uvicorn's path can answer.
            type(self).enabled = False
            _logger.exception("fast path disabled: it failed")
            return False

    def _try_answer(self) -> bool:
        started = time.monotonic()
        headers = headers_of(self.headers)
        given = headers.get(REQUEST_ID_HEADER)
        if given is None:
            given = headers[REQUEST_ID_HEADER] = str(uuid4()).encode()
        elif not _SAFE_TO_RETURN.fullmatch(given):
            return False
        admission_counter = self.fast_path.admission_counter
        if not admission_counter.try_admit():
            return False
        reply = None
        try:
            reply = self.fast_path.answer(self.fast_path.paths[self.url], headers, self._body)
        finally:
            if reply is None:
                admission_counter.cancel_admission()
        if reply is None:
            return False
        ready = time.monotonic()
        self._write(reply, given)
        # The client has its answer; the rest happens while it reads.
        self._record(reply.status, ready - started)
        self._become_idle(ready)
        return True

    def _record(self, status: int, seconds: float) -> None:
        try:
            self.fast_path.admission_counter.record_response(status, seconds)
        except Exception:
            type(self).enabled = False
            _logger.exception("fast path disabled: a request could not be counted")

    def _become_idle(self, now: float) -> None:
        """Do what uvicorn does after a response. It starts and cancels a timer for each request; here one timer lives on."""
        self.server_state.total_requests += 1
        self._idle_since = now
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None
        super()._unset_keepalive_if_required()

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None or self.transport.is_closing():
            # Busy: the next response starts a timer again.
            return
        left = self._idle_since + self.timeout_keep_alive - time.monotonic()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def _write(self, reply: HttpResponse, request_id: bytes) -> None:
        found = self.server_state.default_headers
        if found is not self._default_headers:
            self._default_headers = found
            self._head = b"".join(b"%b: %b\r\n" % pair for pair in found)
        line = _STATUS_LINES.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status
        headers = b"".join([b"%b: %b\r\n" % pair for pair in reply.headers])
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
            % (line, self._head, headers, len(reply.body), request_id, reply.body)
        )


def make_protocol_class(fast_path: FastPath) -> type[HttpToolsProtocol]:
    """Return the class that uvicorn instantiates for every connection, instead of its own."""
    return type("FastPathProtocol", (_FastPathProtocol,), {"fast_path": fast_path})
