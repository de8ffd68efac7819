"""Parse HAProxy's log lines.

A line has a head, which is the same for many requests, and a tail of numbers. Fields are separated by one blank; `-` is an empty field.

- Head: `boot row service refused status termination retries server outcome slow block`. `slow` is the arm's thresholds, separated by
  commas. `block` is the number of the 10 s block of arrival.
- Tail: `count ttfb total bytes unit group received`. Times are microseconds. `ttfb` and `total` start when the edge has the headers and
  the part of the body that fits its buffer; the rest of a larger body arrives later. `unit` is the unsalted hash as a signed integer.

HAProxy composes every field from fixed words, its own maps and its own numbers. So no client or replica can put a blank or a line end
into a field.
"""

import re
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
ERRORS = frozenset({"server5xx", "edge5xx", "timeout", "truncated", "invalid"})
SLOW_COLUMNS = ("slow", "slow2", "slow3")
"""Counts of slow answers, by the position of the exceeded threshold."""

ROW_COLUMNS = (*ENDS, SLOW_COLUMNS[0], "firstAttemptFailed", *SLOW_COLUMNS[1:])
"""Counts of a row in each of its blocks of time and groups of units."""

SERVICE_REFUSALS = ("auth", "rate", "size", "malformed", "websocket", "notReady")
"""Kinds of refusals by a service, before the request has an arm."""

FEEDBACK_KIND = "feedback"
"""The kind in the line of a request with feedback, whatever its answer."""

OFREP_KIND = "ofrep"
"""The same for a look-up of a unit's arm."""

GIVEN_UP_OUTCOME = "givenUp"
"""The outcome of a gRPC call that ended by its client's own deadline, whatever its answer."""

ANSWERED_OUTCOME = "answered"
"""The outcome of a health check at zero, which the edge answers in place of a replica."""

_KIND_OF_STATUS = {401: "auth", 403: "auth", 413: "size", 429: "rate", 501: "websocket", 503: "notReady"}
HEAD_FIELDS = 11
TAIL_FIELDS = 7
_NONE = "-"
_CLIENT = frozenset({"C", "c"})
"""Letters of terminations by the client."""

_KIND = re.compile(r"[A-Za-z0-9]{1,32}")

_GRPC_ENDS = {
    0: "ok",
    1: "abortDuring",
    2: "server5xx",
    4: "timeout",
    8: "throttled",
    13: "server5xx",
    14: "server5xx",
    15: "server5xx",
}
"""By grpc-status: cancelled, unknown, deadline exceeded, resource exhausted, internal, unavailable, data loss. Others are client errors."""


class EndHead(NamedTuple):
    """The head of lines of requests that had an arm. `slow_us` is the arm's thresholds, in the order of SLOW_COLUMNS.

    `poison`: the first attempt failed, and the replica of the second one ended without an answer. `client_closed`: the client closed the
    connection, or was silent for too long, before it had the whole answer.
    """

    boot: str
    row: str
    end: str
    retries: int
    redispatched: bool
    server: str
    slow_us: tuple[int, ...]
    block: int
    poison: bool = False
    client_closed: bool = False


class RefusalHead(NamedTuple):
    """The head of lines of requests, complete or not, that never got an arm. `counted`: HAProxy saw whole headers and so counted them."""

    boot: str
    kind: str
    service: str
    counted: bool


class AgentHead(NamedTuple):
    """The head of lines of requests for the agent, by service and status: FEEDBACK_KIND or OFREP_KIND. `counted` as for refusals."""

    boot: str
    kind: str
    service: str
    status: int
    counted: bool


def parse_head(head: bytes) -> EndHead | RefusalHead | AgentHead:
    """Parse the head of a line. Raises ValueError for a head of another shape."""
    fields = head.decode().split(" ")
    if len(fields) != HEAD_FIELDS:
        raise ValueError(f"head of a line: found {len(fields)} fields; expected {HEAD_FIELDS}")
    boot, row, service, refused, status, termination, retries, server, outcome, slow, block = fields
    if row == _NONE:
        service_name = "" if service == _NONE else service
        if refused in {FEEDBACK_KIND, OFREP_KIND}:
            return AgentHead(boot, refused, service_name, int(status), block != _NONE)
        kind = refused if refused != _NONE else classify_refusal(int(status), termination, bool(service_name))
        if not _KIND.fullmatch(kind):
            raise ValueError("kind of refusal in a line: expected a word")
        return RefusalHead(boot, kind, service_name, block != _NONE)
    return EndHead(
        boot,
        row,
        classify_end(int(status), termination, outcome),
        int(retries),
        retries.startswith("+"),
        server,
        () if slow == _NONE else _parse_thresholds(slow),
        int(block),
        int(retries) > 0 and outcome == _NONE and (status, termination[:2]) == ("502", "SH"),
        termination[:1] in _CLIENT,
    )


def _parse_thresholds(text: str) -> tuple[int, ...]:
    thresholds = tuple(map(int, text.split(",")))
    if len(thresholds) > len(SLOW_COLUMNS):
        raise ValueError(f"thresholds of a line: found {len(thresholds)}; expected at most {len(SLOW_COLUMNS)}")
    return thresholds


def classify_end(status: int, termination: str, outcome: str) -> str:
    """Return the class of a request's end, one of ENDS.

    `termination` is HAProxy's pair of letters: who ended the session (`-` normal end, C or c the client, S the server, s the server by
    timeout, others the proxy itself) and when (R request, Q queue, C connect, H headers, D data). `outcome` is `-` until a replica
    has sent a status, then `ok`, `invalid`, `grpc<status>` or `givenUp`; `timeout` where Serve's own proxy found no replica in time.
    """
    if outcome == GIVEN_UP_OUTCOME:
        return "abortBefore"
    if outcome == ANSWERED_OUTCOME:
        return "client4xx" if status >= 400 else "ok"
    cause = termination[:1]
    if outcome == _NONE:
        if cause in _CLIENT:
            return "abortBefore"
        # Without a server's status, the edge composed the answer. Only the wait for the server's headers is a timeout of the request.
        return "timeout" if termination[:2] == "sH" else "edge5xx"
    answered = _classify_headers(status, outcome)
    if cause == "-" or answered in ERRORS:
        # Clients often close as soon as they have the status of a failure. It is a failure of the arm all the same.
        return answered
    if cause in _CLIENT:
        return "abortDuring" if answered == "ok" else answered
    # The model server closes the connection to a client that has a 4xx answer and still sends its body.
    if cause == "S" and 400 <= status < 500:
        return answered
    return "timeout" if cause == "s" else "truncated"


def _classify_headers(status: int, outcome: str) -> str:
    """Return the end that the headers of a replica's answer show, whatever comes after them."""
    if outcome == "timeout":
        return "timeout"
    if status >= 500:
        return "server5xx"
    if status == 429:
        return "throttled"
    if status >= 400:
        return "client4xx"
    if outcome.startswith("grpc"):
        return _GRPC_ENDS.get(int(outcome[4:]), "client4xx")
    return "invalid" if outcome == "invalid" else "ok"


def classify_refusal(status: int, termination: str, known_service: bool) -> str:
    """Return the kind of a refusal for which no rule of the edge has set one."""
    if termination[:1] in _CLIENT or status == 408:
        return "unfinished"
    if known_service and status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    return "unknown" if status == 404 else "malformed"
