"""What is known about the request that a model is working on.

A predictor asks `sundog_runtime.context.current()` inside of `predict`:

    request = current()
    if request is not None:
        log.info("…", extra={"request": request.request_id, "trace": request.trace_id})

A pass over several joined requests has no single one: `current()` is None then, and `joined()` gives all of them in the
order of their rows. What clients say beside their tensors is the same for all of them, and `parameters()` has it:

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
    """What a client says beside its tensors, read-only: of the request by name, and by the name of an input where it has some.

    What the protocol itself gives a meaning to, such as `binary_data`, is not among it.
    """

    request: Mapping[str, Parameter]
    inputs: Mapping[str, Mapping[str, Parameter]]

    @property
    def key(self) -> Hashable:
        """Equal for what is the same to a model: 1, 1.0 and true are not."""
        return _typed(self.request), tuple((name, _typed(given)) for name, given in sorted(self.inputs.items()))


def parameters_of(request: Mapping[str, Parameter], inputs: Mapping[str, Mapping[str, Parameter]]) -> Parameters:
    """Read-only views of what nobody else changes."""
    views = {name: MappingProxyType(given) for name, given in inputs.items()}
    return Parameters(MappingProxyType(request), MappingProxyType(views))


def _typed(given: Mapping[str, Parameter]) -> Hashable:
    return tuple((name, type(value), value) for name, value in sorted(given.items()))


NO_PARAMETERS = parameters_of({}, {})


class RequestContext:
    """One request. `deadline` is in seconds of `time.monotonic()`, or infinite.

    `until_gone` returns when nobody waits for the answer any more; None where the caller cancels what it gave up.
    `parameters` are known once the body has been read.
    Ids are made when somebody asks for them: most requests are answered without.
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
        """The same request, under the same ids."""
        # They are made when somebody asks, and here two could ask.
        _ = self.request_id, self.traceparent
        found = copy(self)
        found.parameters = parameters
        return found

    @cached_property
    def request_id(self) -> str:
        """The one the client, the edge or Serve gave, where it is fit to be printed; else a new one."""
        given = self._headers.get(b"x-request-id", b"")
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    @cached_property
    def traceparent(self) -> str:
        """The caller's W3C `traceparent`; where that is missing or invalid, that of a new trace which nobody samples."""
        given = self._headers.get(b"traceparent", b"").strip()
        matched = _TRACEPARENT.fullmatch(given)
        # Version 00 has exactly four fields; a later one may have more behind them.
        if matched is None or (given.startswith(b"00") and len(given) != _KNOWN_VERSION_BYTES):
            return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"
        return given[:_KNOWN_VERSION_BYTES].decode("ascii")

    @property
    def tracestate(self) -> str:
        """The caller's `tracestate`, empty where `traceparent` is a new one: it belongs to the trace it came with."""
        if self.traceparent.encode() != self._headers.get(b"traceparent", b"").strip()[:_KNOWN_VERSION_BYTES]:
            return ""
        return self._headers.get(b"tracestate", b"").decode("latin-1")[:512]

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]


def headers_of(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name, in lower case as they came; the first of several by one name.

    A server may have put trailers behind them, which nobody in front of it has looked at: none takes the place of a header.
    """
    return dict(reversed(pairs))


def deadline_of(headers: Mapping[bytes, bytes], now: float) -> float:
    """When the answer is no longer wanted, in the clock of `now`; infinite where no header says anything usable.

    The edge's header is ours alone. Of Serve's the deadline is a little before the time that it gives: Serve reads it
    too, and would answer first, in its own words.
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
    """The request that this call of the model is for; None outside of one, and for several joined ones."""
    requests = _current.get()
    return requests[0] if len(requests) == 1 else None


def joined() -> tuple[RequestContext, ...]:
    """All requests that this call of the model is for, in the order of their rows."""
    return _current.get()


def parameters() -> Parameters:
    """What clients say beside their tensors in this call of the model: requests that say other things are not joined with it."""
    requests = _current.get()
    return requests[0].parameters if requests else NO_PARAMETERS


@contextmanager
def working_on(*requests: RequestContext) -> Iterator[None]:
    """Inside, `current` and `joined` tell of `requests`."""
    token = _current.set(requests)
    try:
        yield
    finally:
        _current.reset(token)


def call_for(requests: tuple[RequestContext, ...], call: Callable[[], object]) -> object:
    """`call()`, with `requests` as what it is for. As `working_on`, for the path where microseconds count."""
    token = _current.set(requests)
    try:
        return call()
    finally:
        _current.reset(token)
