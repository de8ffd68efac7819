"""HAProxy's lines, parsed.

A line is a head, which many requests have alike, and a tail of numbers, parted by one blank, `-` where there is nothing:
`boot row service refused status termination retries server outcome slow block` and
`count ttfb total bytes unit group received`. `slow` has the arm's thresholds, parted by commas, and `block` is the number of the 10 s block
of arrival; times are microseconds, `ttfb` and `total` from the instant at which the edge had the headers and as much of the body as fits
its buffer: all of a smaller one, while the rest of a larger one comes after it. `unit` is the unsalted hash as a signed integer.
HAProxy composes every field from fixed words, its own maps and its own numbers, so no client or replica can put a blank or a line
end into one.
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
"""What is counted of answers that take long, by the place of the threshold that they are above."""

SERVICE_REFUSALS = ("auth", "rate", "size", "malformed", "websocket", "notReady")
"""Why a service refuses a request before it has an arm."""

FEEDBACK_KIND = "feedback"
"""What stands for the kind of a refusal in the line of a request with feedback, however that was answered."""

GIVEN_UP_OUTCOME = "givenUp"
"""The outcome of a call by gRPC that its client's own deadline has ended, whatever was answered to it then."""

_KIND_OF_STATUS = {401: "auth", 403: "auth", 413: "size", 429: "rate", 501: "websocket", 503: "notReady"}
HEAD_FIELDS = 11
TAIL_FIELDS = 7
_NONE = "-"
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
"""By grpc-status: cancelled, unknown, deadline exceeded, resource exhausted, internal, unavailable, data loss; others blame the client."""


class EndHead(NamedTuple):
    """What the head of a line says about requests that had an arm. `slow_us` has the arm's thresholds, in the order of `SLOW`.

    `poison` where the first attempt failed, and the replica of the second went away without an answer.
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


class RefusalHead(NamedTuple):
    """Requests, or the starts of some, that never got an arm. `counted` when HAProxy saw whole headers and so counted them."""

    boot: str
    kind: str
    service: str
    counted: bool


class FeedbackHead(NamedTuple):
    """Requests with feedback of one service, and how they were answered. `counted` as for refusals."""

    boot: str
    service: str
    status: int
    counted: bool


def parse_head(head: bytes) -> EndHead | RefusalHead | FeedbackHead:
    """The head of a line. Raises ValueError when it is none of ours."""
    fields = head.decode().split(" ")
    if len(fields) != HEAD_FIELDS:
        raise ValueError(f"a line's head has {len(fields)} fields, not {HEAD_FIELDS}")
    boot, row, service, refused, status, termination, retries, server, outcome, slow, block = fields
    if row == _NONE:
        known = "" if service == _NONE else service
        if refused == FEEDBACK_KIND:
            return FeedbackHead(boot, known, int(status), block != _NONE)
        kind = refused if refused != _NONE else classify_refusal(int(status), termination, bool(known))
        if not _KIND.fullmatch(kind):
            raise ValueError("a line's kind of refusal is no word")
        return RefusalHead(boot, kind, known, block != _NONE)
    return EndHead(
        boot,
        row,
        classify_end(int(status), termination, outcome),
        int(retries),
        retries.startswith("+"),
        server,
        () if slow == _NONE else _thresholds(slow),
        int(block),
        int(retries) > 0 and outcome == _NONE and (status, termination[:2]) == ("502", "SH"),
    )


def _thresholds(told: str) -> tuple[int, ...]:
    found = tuple(map(int, told.split(",")))
    if len(found) > len(SLOW_COLUMNS):
        raise ValueError(f"a line has {len(found)} thresholds, more than {len(SLOW_COLUMNS)}")
    return found


def classify_end(status: int, termination: str, outcome: str) -> str:
    """The class of a request's end.

    `termination` is HAProxy's pair of letters: who ended the session (`-` nobody, C or c the client, S the server, s the server by
    timeout, others the proxy itself) and when (R request, Q queue, C connect, H headers, D data). `outcome` is `-` until a replica's
    status has come, then `ok`, `invalid`, `grpc<status>` or `givenUp`; `timeout` where Serve's own proxy has waited in vain.
    """
    if outcome == GIVEN_UP_OUTCOME:
        return "abortBefore"
    cause = termination[:1]
    responded = outcome != _NONE
    if cause in {"C", "c"}:
        return "abortDuring" if responded else "abortBefore"
    if responded:
        return _answered(status, cause, outcome)
    # An answer without a server's status was composed by the edge; only the wait for the server's headers is a timeout of the request.
    return "timeout" if termination[:2] == "sH" else "edge5xx"


def _answered(status: int, cause: str, outcome: str) -> str:
    if cause == "s" or outcome == "timeout":
        return "timeout"
    # The model server cuts off a client that has such an answer and still sends its body.
    if cause != "-" and not (cause == "S" and 400 <= status < 500):
        return "truncated"
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
    """Why a request got no arm, where no rule of ours has said so."""
    if termination[:1] in {"C", "c"} or status == 408:
        return "unfinished"
    if known_service and status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    return "unknown" if status == 404 else "malformed"
