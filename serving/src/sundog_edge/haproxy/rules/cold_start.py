"""Cold starts: HAProxy holds requests while their application is scaled to zero.

Serve's own proxy is the only server of the slot then, and takes one request at a time. The first request goes there, and so Serve learns at
once that it has to start a replica. All others wait in HAProxy's queue, and so does the next one if the first client goes away. When the
agent adds the first replica that Serve lists, HAProxy sends it the queue. gRPC calls have a queue of their own, before the gRPC port of
the same proxy.
"""

import json
from typing import Any

from sundog_edge import headers
from sundog_edge.counting.log_lines import ANSWERED_OUTCOME
from sundog_edge.haproxy.names import GRPC_SUFFIX, HELD_ORIGIN, IS_HELD
from sundog_edge.haproxy.problems import IS_GRPC, render_problem
from sundog_edge.haproxy.rules import grpc
from sundog_edge.haproxy.rules.agent_backend import MAX_CONNECTIONS
from sundog_edge.haproxy.rules.probes import IS_PROBE
from sundog_edge.state_dir import StateDir

FALLBACK_MAXCONN = 1
"""Concurrent requests at Serve's own proxy if the application may scale to zero: one is enough to start a replica."""

CALLS_BACKEND = "cold-calls"
"""The backend of gRPC health checks at zero. Their answers need trailers, which HAProxy cannot compose: the agent answers them."""

_RETRY_AFTER_S = 1
_IS_COLD_CHECK = "{ var(txn.check) -m found }"
"""Whether the request is a health check of an application at zero. The variable is the model's name in the path, or the service's."""

_MODEL = "%[var(txn.name)]"
_ANSWERS: dict[str, dict[str, Any]] = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/[^/]+(/versions/1)?/ready": {"name": _MODEL, "ready": True},
    "/v1/models/[^/]+": {"name": _MODEL, "ready": True},
    "/v1/models": {"models": [_MODEL]},
}
"""The model server's answers to health checks, by the expression of their path below the service's."""


def health_rules() -> str:
    """Return rules that answer health checks of an application at zero, so that they start no replica.

    `ready` means that a request is answered, here after a cold start. Metadata of the model is known to a replica only, so other probes
    start one.
    """
    path = f"path -m reg ^(/[^/]+)?({'|'.join(_ANSWERS)})/*$"
    by_host, named = "{ var(txn.byhost) -m found }", "{ path -m reg ^(/[^/]+)?(/v2/models/|/v1/models/[^/]) }"
    is_cold = f"{IS_HELD} {IS_PROBE} {{ {path} }}"
    unknown = render_problem(404, "Not Found", f"this service has one model, {_MODEL}", code="NotFound")
    is_other = f"{_IS_COLD_CHECK} !{{ var(txn.check),strcmp(txn.name) eq 0 }}"
    answers = "".join(
        f"    http-request return status 200 content-type application/json lf-string {_quote(answer)} "
        f"if {_IS_COLD_CHECK} {{ path -m reg ^(/[^/]+)?{pattern}/*$ }}\n"
        for pattern, answer in _ANSWERS.items()
    )
    return f"""    http-request set-var(txn.check) var(txn.name) if {is_cold}
    http-request set-var(txn.check) path,field(4,/) if {is_cold} {named} {by_host}
    http-request set-var(txn.check) path,field(5,/) if {is_cold} {named} !{by_host}
    http-request set-var(txn.outcome) str({ANSWERED_OUTCOME}) if {_IS_COLD_CHECK}
    http-request return {unknown} if {is_other}
{answers}"""


def _quote(answer: dict[str, Any]) -> str:
    return '"' + json.dumps(answer, separators=(",", ":")).replace('"', '\\"') + '"'


def use_calls_backend(state: StateDir) -> str:
    """Return the rule of the frontend that sends gRPC health checks to the agent while their application is at zero."""
    entry = f"{{ var(txn.arm),field(1,!),concat({GRPC_SUFFIX}),map_str({state.map('cold')}) -m found }}"
    is_check = f"{IS_GRPC} {IS_PROBE} {{ path -m str {' '.join(grpc.HEALTH_CHECKS)} }}"
    return f"    use_backend {CALLS_BACKEND} if {is_check} {entry}\n"


def calls_backend(state: StateDir, row_rules: str) -> str:
    """Return the backend of the agent for such calls. `row_rules` count them as those of their arm are counted."""
    return f"""backend {CALLS_BACKEND} from base
    timeout queue 1s
    timeout server 5s
    retries 0
    option http-server-close
    http-reuse never
{row_rules}\
{grpc.error_responses()}\
    http-request set-header {headers.SERVICE} %[var(txn.name)]
    http-response set-var(txn.outcome) str({ANSWERED_OUTCOME})
    server agent unix@{state.cold_calls_socket} maxconn {MAX_CONNECTIONS}
"""


def row_rules(state: StateDir) -> str:
    """Return rules that set `txn.held` and count held requests in a separate row. They need `txn.row`.

    A held request has waited for a replica, which is no latency of the model. While one arm of a service is at zero, requests to the
    others count as held too: else the evidence of the arms would be of different times, and their requests would not have the ratio of
    their weights.
    """
    is_cold = f"{{ str(service:),concat(,txn.name),map_str({state.map('cold')}) -m found }}"
    entry = f"be_name,map_str_int({state.map('cold')})"
    return f"""    http-request set-var(txn.held) {entry} if {{ {entry} -m found }}
    http-request set-var(txn.row) var(txn.arm),field(2,!),field(1,/,4),concat(/{HELD_ORIGIN}/anonymous) if {is_cold} !{IS_PROBE}
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
    http-after-response set-header {headers.RETRY_AFTER.lower()} {_RETRY_AFTER_S} if {is_late}
    http-after-response set-status 503 reason "Service Unavailable" if {is_late}
"""


def call_deadline_rules() -> str:
    """Return the same for a held gRPC call: it is UNAVAILABLE, with the pause after which its client may retry."""
    is_unanswered = f"{IS_HELD} !{{ var(txn.outcome) -m found }}"
    is_late = f"{is_unanswered} {{ status 504 }}"
    return f"""    http-after-response set-header {headers.GRPC_STATUS} 14 if {is_late}
    http-after-response set-header {headers.GRPC_MESSAGE} "no replica started in time" if {is_late}
    http-after-response set-status 503 reason "Service Unavailable" if {is_late}
    http-after-response set-header {headers.GRPC_PUSHBACK} {1000 * _RETRY_AFTER_S} if {is_unanswered} {{ status 503 }}
"""


def _if_held(then: str, otherwise: str) -> str:
    return f"%[var(txn.held,0),iif({then},{otherwise})]"
