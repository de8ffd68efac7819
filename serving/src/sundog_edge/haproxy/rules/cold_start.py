"""Cold starts: HAProxy holds requests while their application is scaled to zero.

Serve's own proxy is the only server of the slot then, and takes one request at a time. The first request goes there, and so Serve learns at
once that it has to start a replica. All others wait in HAProxy's queue, and so does the next one if the first client goes away. When the
agent adds the first replica that Serve lists, HAProxy sends it the queue. gRPC calls have a queue of their own, before the gRPC port of
the same proxy.
"""

from sundog_edge.haproxy.names import HELD_ORIGIN, IS_HELD
from sundog_edge.haproxy.problems import render_problem
from sundog_edge.haproxy.rules.probes import IS_PROBE
from sundog_edge.state_dir import StateDir

FALLBACK_MAXCONN = 1
"""Concurrent requests at Serve's own proxy if the application may scale to zero: one is enough to start a replica."""

_RETRY_AFTER_S = 1


def row_rules(state: StateDir) -> str:
    """Return rules that set `txn.held` and count held requests in a separate row. They need `txn.row`.

    A held request has waited for a replica, which is no latency of the model.
    """
    entry = f"be_name,map_str_int({state.map('cold')})"
    return f"""    http-request set-var(txn.held) {entry} if {{ {entry} -m found }}
    http-request set-var(txn.row) var(txn.arm),field(2,!),field(1,/,4),concat(/{HELD_ORIGIN}/anonymous) if {IS_HELD} !{IS_PROBE}
"""


def timeout_rule() -> str:
    """Return the rule that gives a held request its time. It follows the rule for all requests."""
    return f"    http-request set-timeout server var(txn.held) if {IS_HELD}\n"


def deadline_rules() -> str:
    """Return HAProxy's own answer to a request without an answer in time. For a held request it is 503: no replica has seen it."""
    problem = render_problem(
        504,
        _if_held("Service Unavailable", "Gateway Timeout"),
        _if_held("no replica started in time", "the replica did not answer in time"),
        code=_if_held("NoReplica", "DeadlineExceeded"),
    ).replace(":504,", f":{_if_held('503', '504')},")
    is_late = f"{IS_HELD} {{ status 504 }} !{{ var(txn.outcome) -m found }}"
    return f"""    http-error {problem}
    http-after-response set-header retry-after {_RETRY_AFTER_S} if {is_late}
    http-after-response set-status 503 reason "Service Unavailable" if {is_late}
"""


def call_deadline_rules() -> str:
    """Return the same for a held gRPC call: it is UNAVAILABLE, with the pause after which its client may retry."""
    is_unanswered = f"{IS_HELD} !{{ var(txn.outcome) -m found }}"
    is_late = f"{is_unanswered} {{ status 504 }}"
    return f"""    http-after-response set-header grpc-status 14 if {is_late}
    http-after-response set-header grpc-message "no replica started in time" if {is_late}
    http-after-response set-status 503 reason "Service Unavailable" if {is_late}
    http-after-response set-header grpc-retry-pushback-ms {1000 * _RETRY_AFTER_S} if {is_unanswered} {{ status 503 }}
"""


def _if_held(then: str, otherwise: str) -> str:
    return f"%[var(txn.held,0),iif({then},{otherwise})]"
