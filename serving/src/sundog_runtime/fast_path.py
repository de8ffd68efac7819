"""HTTP/1.1 as uvicorn speaks it, with a shorter way for small requests that are answered at once.

What is usual about a small model's request, that it arrives in one piece and that its model answers within a
millisecond on the event loop, needs none of what is made for the others: a scope, a task, messages, two writes. Here
such a request is answered in the call that received its last byte, in one write. Every other request goes uvicorn's
way, untouched: it begins there with its headers, or, where its body is late, a moment after them.
"""

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

REQUEST_ID_HEADER = b"x-request-id"
_FIT_TO_BE_REPEATED = re.compile(rb"[\x21-\x7e]{1,256}")
_STATUS_LINES = {int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}

_logger = logging.getLogger("ray.serve.sundog")


class AdmissionCounter(Protocol):
    """Counts the requests in the house for whoever limits and scales by them."""

    def enter(self) -> bool:
        """Whether a request may be worked on now; if so it counts until `leave`."""

    def leave(self, status: int, seconds: float) -> None:
        """It was answered."""

    def cancel_admission(self) -> None:
        """It comes in by another door: as if it had not entered."""


@dataclass(frozen=True, slots=True)
class FastPath:
    """`answer` gives the reply to a POST by path, headers and body, or None to have it asked the usual way.

    `paths` are those as they stand in a request, without a query. Whatever `answer` raises closes this way for good.
    """

    paths: Mapping[bytes, str]
    answer: Callable[[str, Mapping[bytes, bytes], Buffer], HttpResponse | None]
    admission_counter: AdmissionCounter


class TrailerDroppingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, but for trailers, which it puts behind the headers: nobody in front of it has looked at them.

    A proxy that takes headers away, or sets them, does so before the body, and passes on what comes after it.
    """

    _headers_are_over = False

    def on_message_begin(self) -> None:
        """A request begins."""
        self._headers_are_over = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which the parser tells by the same name."""
        if not self._headers_are_over:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What is told as a header from now on is none."""
        self._headers_are_over = True
        super().on_headers_complete()


class _ShortWayProtocol(TrailerDroppingProtocol):
    """One connection."""

    way: ClassVar[FastPath]
    open: ClassVar[bool] = True
    _held = False
    _body: bytes | bytearray = b""
    _default_headers: Any = None
    _head = b""

    def data_received(self, data: bytes) -> None:
        """As uvicorn; and what has not arrived whole by now takes the usual way."""
        super().data_received(data)
        if self._held:
            self._take_the_usual_way()

    def on_message_begin(self) -> None:
        """A request begins. Its scope is made when it is needed."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._headers_are_over = False

    def on_headers_complete(self) -> None:
        """Hold what may be answered at once until its body is here."""
        self._headers_are_over = True
        if self._may_be_held():
            self._held, self._body = True, b""
        else:
            self._begin_the_usual_way()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._held:
            super().on_body(body)
        elif self._body:
            self._body = bytearray(self._body) if isinstance(self._body, bytes) else self._body
            self._body += body
        else:
            self._body = body

    def on_message_complete(self) -> None:
        """The request is here."""
        if self._held and self._answered():
            self._held = False
            return
        if self._held:
            self._take_the_usual_way()
        super().on_message_complete()

    def _may_be_held(self) -> bool:
        # In the order of what is told cheapest; a cycle that is under way answers first (pipelining).
        return (
            self.open
            and self.url in self.way.paths
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.flow.write_paused
        )

    def _take_the_usual_way(self) -> None:
        self._held = False
        if self.transport.is_closing():
            # It was malformed: the answer to that is sent.
            return
        body, self._body = self._body, b""
        self._begin_the_usual_way()
        if body:
            super().on_body(bytes(body))

    def _begin_the_usual_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        # The scope has this list.
        self.headers.extend(headers)
        super().on_headers_complete()

    def _answered(self) -> bool:
        """Whether the request has its answer. Raises nothing: the parser would call the request malformed."""
        try:
            return self._answer_at_once()
        except Exception:
            # Nothing is written yet.
            type(self).open = False
            _logger.exception("requests are not answered at once any more: the short way failed")
            return False

    def _answer_at_once(self) -> bool:
        begun = time.monotonic()
        headers = headers_of(self.headers)
        given = headers.get(REQUEST_ID_HEADER)
        if given is None:
            given = headers[REQUEST_ID_HEADER] = str(uuid4()).encode()
        elif not _FIT_TO_BE_REPEATED.fullmatch(given):
            return False
        admission_counter = self.way.admission_counter
        if not admission_counter.enter():
            return False
        reply = None
        try:
            reply = self.way.answer(self.way.paths[self.url], headers, self._body)
        finally:
            if reply is None:
                admission_counter.cancel_admission()
        if reply is None:
            return False
        ready = time.monotonic()
        self._write(reply, given)
        # The client has its answer: what is left is done while it reads.
        self._put_down(reply.status, ready - begun)
        return True

    def _put_down(self, status: int, seconds: float) -> None:
        try:
            self.way.admission_counter.leave(status, seconds)
        except Exception:
            type(self).open = False
            _logger.exception("requests are not answered at once any more: they could not be counted")
        self.on_response_complete()

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


def make_protocol_class(short_way: FastPath) -> type[HttpToolsProtocol]:
    """What uvicorn makes for every connection, in the place of its own."""
    return type("ShortWayProtocol", (_ShortWayProtocol,), {"way": short_way})
