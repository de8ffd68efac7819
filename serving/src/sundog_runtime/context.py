"""Facts about the request that a model is working on.

A predictor asks `sundog_runtime.context.current()` inside of `predict`:

    request = current()
    if request is not None:
        log.info("…", extra={"request": request.request_id, "trace": request.trace_id})

A call of the model with several batched requests has no single one: `current()` is None then, and `joined()` returns all
of them in the order of their rows. All of them have the same parameters, which clients send beside their tensors:
    temperature = parameters().request.get("temperature", 1.0)
    language = parameters().inputs.get("text", {}).get("language")
"""

import os
import re
import uuid
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import inf
from types import MappingProxyType

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_KNOWN_VERSION_BYTES = 55

TIMEOUT_HEADER = b"x-sundog-timeout-seconds"
SERVE_TIMEOUT_HEADER = b"x-request-timeout-seconds"
_MARGIN = 0.05
_MOST_MARGIN_SECONDS = 0.1

Parameter = str | int | float | bool | None
"""The value of a parameter, as the client sent it."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters that a client sends beside its tensors, read-only: those of the request, and those of each input by its name.

    Parameters to which the protocol gives a meaning, such as `binary_data`, are not included.
    """

    request: Mapping[str, Parameter]
    inputs: Mapping[str, Mapping[str, Parameter]]

    @property
    def key(self) -> Hashable:
        """Return a key that is equal for parameters that mean the same to a model: 1, 1.0 and true differ."""
        return _typed(self.request), tuple((name, _typed(given)) for name, given in sorted(self.inputs.items()))


def parameters_of(request: Mapping[str, Parameter], inputs: Mapping[str, Mapping[str, Parameter]]) -> Parameters:
    """Wrap mappings that no other code changes as read-only views."""
    views = {name: MappingProxyType(given) for name, given in inputs.items()}
    return Parameters(MappingProxyType(request), MappingProxyType(views))


def _typed(given: Mapping[str, Parameter]) -> Hashable:
    return tuple((name, type(value), value) for name, value in sorted(given.items()))


NO_PARAMETERS = parameters_of({}, {})


class RequestContext:
    """One request. `deadline` is in seconds of `time.monotonic()`, or infinite.

    `until_gone` returns when the client has gone away; None where the protocol cancels abandoned requests itself.
    `parameters` are known once the body has been read.
    Ids are made on first use because most requests need none.
    """

    def __init__(
        self,
        headers: Mapping[bytes, bytes] | None = None,
        deadline: float = inf,
        until_gone: Callable[[], Awaitable[None]] | None = None,
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self._headers = headers or {}
        self.deadline = deadline
        self.until_gone = until_gone
        self.parameters = parameters

    def with_parameters(self, parameters: Parameters) -> "RequestContext":
        """Return the same request, with the same ids, with other parameters."""
        # Make the ids before the copy; otherwise each copy would make its own.
        _ = self.request_id, self.traceparent
        found = copy(self)
        found.parameters = parameters
        return found

    @cached_property
    def request_id(self) -> str:
        """Return the id from the client, the edge or Serve if it is printable; otherwise a new one."""
        given = self._headers.get(b"x-request-id", b"")
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    @cached_property
    def traceparent(self) -> str:
        """Return the caller's W3C `traceparent`; if it is missing or invalid, one of a new trace that is not sampled."""
        given = self._headers.get(b"traceparent", b"").strip()
        matched = _TRACEPARENT.fullmatch(given)
        # Version 00 has exactly four fields; a later version may have more after them.
        if matched is None or (given.startswith(b"00") and len(given) != _KNOWN_VERSION_BYTES):
            return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"
        return given[:_KNOWN_VERSION_BYTES].decode("ascii")

    @property
    def tracestate(self) -> str:
        """Return the caller's `tracestate`; empty if `traceparent` is new, because a state belongs to its trace."""
        if self.traceparent.encode() != self._headers.get(b"traceparent", b"").strip()[:_KNOWN_VERSION_BYTES]:
            return ""
        return self._headers.get(b"tracestate", b"").decode("latin-1")[:512]

    @property
    def trace_id(self) -> str:
        """Return the trace id of `traceparent`, 32 hexadecimal digits."""
        return self.traceparent[3:35]


def headers_of(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by name, in lower case as they arrived; the first one if a name occurs several times.

    A server may append trailers to the headers. Proxies do not check trailers, so a trailer never replaces a header.
    """
    return dict(reversed(pairs))


def deadline_of(headers: Mapping[bytes, bytes], now: float) -> float:
    """Return the time when the client stops waiting, in the clock of `now`; infinite if no header gives a usable time.

    Only the edge sets the header of Sundog. Serve reads its own header too, and would answer first with its own message.
    For that header the deadline is therefore a little before the given time.
    """
    if (given := headers.get(TIMEOUT_HEADER)) is not None:
        return now + _seconds(given)
    if (given := headers.get(SERVE_TIMEOUT_HEADER)) is not None:
        seconds = _seconds(given)
        return now + seconds - min(seconds * _MARGIN, _MOST_MARGIN_SECONDS)
    return inf


def _seconds(given: bytes) -> float:
    try:
        seconds = float(given)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf


_current: ContextVar[tuple[RequestContext, ...]] = ContextVar("sundog_requests", default=())


def current() -> RequestContext | None:
    """Return the request that this call of the model is for; None outside of a call, and for several batched requests."""
    requests = _current.get()
    return requests[0] if len(requests) == 1 else None


def joined() -> tuple[RequestContext, ...]:
    """Return all requests that this call of the model is for, in the order of their rows."""
    return _current.get()


def parameters() -> Parameters:
    """Return the parameters of this call of the model. Requests with different parameters are never batched together."""
    requests = _current.get()
    return requests[0].parameters if requests else NO_PARAMETERS


@contextmanager
def working_on(*requests: RequestContext) -> Iterator[None]:
    """Make `current` and `joined` return `requests` inside the block."""
    token = _current.set(requests)
    try:
        yield
    finally:
        _current.reset(token)


def call_for(requests: tuple[RequestContext, ...], call: Callable[[], object]) -> object:
    """Return `call()`, made for `requests`. Same as `working_on`, for the path where microseconds count."""
    token = _current.set(requests)
    try:
        return call()
    finally:
        _current.reset(token)
