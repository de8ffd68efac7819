"""HAProxy's lines, parsed.

A request's line has twelve fields, parted by one blank, `-` where there is none:
`boot row number status termination retries server received first end outcome service`, the three instants in microseconds.
HAProxy composes every field from fixed words, its own maps and its own numbers, so no client
or replica can put a blank or a line end into one.
"""

from functools import lru_cache
from typing import NamedTuple

ENDS = (
    "ok",
    "client4xx",
    "throttled",
    "server5xx",
    "edge5xx",
    "timeout",
    "truncated",
    "invalid",
    "abortBefore",
    "abortDuring",
)
ABORTS = frozenset({"abortBefore", "abortDuring"})
REFUSALS = ("size", "notReady", "malformed", "unknown", "unfinished")
_FIELDS = 12
_NONE = b"-"


class End(NamedTuple):
    """The end of a request that had an arm. Durations in microseconds from the request fully received."""

    boot: bytes
    row: bytes
    number: int
    end: str
    retries: int
    redispatched: bool
    fallback: bool
    ttfb_us: int
    total_us: int


class Refusal(NamedTuple):
    """A request, or the start of one, that never got an arm. `counted` when HAProxy saw whole headers and so counted it."""

    boot: bytes
    kind: str
    service: str
    counted: bool


def parse(line: bytes) -> End | Refusal | None:
    """One line without its line end; None when it is none of ours."""
    fields = line.split(b" ")
    try:
        if len(fields) == _FIELDS:
            return _refusal(fields) if fields[1] == _NONE else _end(fields)
    except ValueError:
        pass
    return None


def _end(fields: list[bytes]) -> End:
    boot, row, number, status, termination, retries, server, received, first, end, outcome, _ = fields
    start = int(received)
    total = max(0, int(end) - start)
    return End(
        boot,
        row,
        0 if number == _NONE else int(number),
        end_class(int(status), termination, first != _NONE, outcome == b"invalid"),
        int(retries),
        retries[:1] == b"+",
        server[:8] == b"fallback",
        total if first == _NONE else max(0, int(first) - start),
        total,
    )


def _refusal(fields: list[bytes]) -> Refusal:
    service = "" if fields[11] == _NONE else fields[11].decode()
    return Refusal(fields[0], refusal_kind(int(fields[3]), fields[4], bool(service)), service, fields[7] != _NONE)


@lru_cache(maxsize=1024)
def end_class(status: int, termination: bytes, responded: bool, invalid: bool) -> str:
    """The class of a request's end.

    `termination` is HAProxy's pair of letters: who ended the session (`-` nobody, C or c the client, S the server, s the server by
    timeout, others the proxy itself) and when (R request, Q queue, C connect, H headers, D data). `responded` says whether the
    server's status had come.
    """
    cause = termination[:1]
    if cause in {b"C", b"c"}:
        return "abortDuring" if responded else "abortBefore"
    if responded:
        return _answered(status, cause, invalid)
    # An answer without a server's status was composed by the edge; only the wait for the server's headers is a timeout of the request.
    return "timeout" if termination[:2] == b"sH" else "edge5xx"


def _answered(status: int, cause: bytes, invalid: bool) -> str:
    if cause == b"s":
        return "timeout"
    if cause != b"-":
        return "truncated"
    if status >= 500:
        return "server5xx"
    if status == 429:
        return "throttled"
    if status >= 400:
        return "client4xx"
    return "invalid" if invalid else "ok"


def refusal_kind(status: int, termination: bytes, known_service: bool) -> str:
    """Why a request got no arm."""
    if termination[:1] in {b"C", b"c"} or status == 408:
        return "unfinished"
    if known_service and status in {413, 503}:
        return "size" if status == 413 else "notReady"
    return "unknown" if status == 404 else "malformed"
