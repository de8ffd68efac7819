"""The backends of arm slots: rules for requests that have an arm."""

from sundog_edge import headers
from sundog_edge.haproxy.names import (
    BLOCKS_TABLE,
    FALLBACK_PREFIX,
    FATAL_TABLE,
    GRPC_SUFFIX,
    MAX_BLOCKS,
    MAX_ROWS,
    ROWS_TABLE,
)
from sundog_edge.haproxy.problems import RETRY, render_problem
from sundog_edge.haproxy.rules import admission, assignment, cold_start, compression, feedback, grpc, probes, shadow
from sundog_edge.haproxy.rules.request_id import HAS_CLIENT_ID
from sundog_edge.split.layout import CHECK_MS, FALL, RISE, SlotServer
from sundog_edge.state_dir import StateDir

FAST_CHECK_MS = 100
_FATAL_IDS = 100_000
"""Each named request has an entry, also one that succeeds: no rule of HAProxy 2.8 can add one after its own 502."""


def render_server_options(server: SlotServer) -> str:
    """Return the options of a server line, which are the same in the file and at run time."""
    limit = f" maxconn {server.maxconn}" if server.maxconn else ""
    # A gRPC port does not answer HTTP checks. The replica's HTTP port does, and both belong to one process.
    grpc_check = f" port {server.check_port} check-proto h1 proto h2" if server.check_port else ""
    # After a failed check, HAProxy checks again at once, and the second failure takes the server down: a busy machine sometimes delays a
    # check, and all requests that wait at zero would be answered 503. If no replica answers in time, the agent retains slow ones.
    checks = f"check inter {server.check_ms} fastinter {FAST_CHECK_MS}"
    health = f"fall {FALL} rise {RISE}{grpc_check}{limit}"
    if server.backup:
        return f"{server.address} {checks} {health} backup"
    # A server that refuses a request's connection is down at once.
    return f"{server.address} {checks} downinter {CHECK_MS} observe layer4 error-limit 1 on-error mark-down {health}"


def render_tables() -> str:
    """Return backends without servers: request counts by row, running requests by row and block of arrival, ids of requests that ended a
    replica, and `none` for requests without a slot.
    """
    # A split may name a slot that this worker lacks. Then the request must not reach a server: `none` has none.
    return f"""backend {ROWS_TABLE} from base
    stick-table type string len 250 size {MAX_ROWS} nopurge store gpc0,conn_cur

backend {BLOCKS_TABLE} from base
    stick-table type string len 250 size {MAX_BLOCKS} expire 1m store conn_cur

backend {FATAL_TABLE} from base
    stick-table type string len 128 size {_FATAL_IDS} expire 10m store gpc0

backend none from base
"""


def render_arm_defaults(state: StateDir, *, shadowed: bool = False, compressed: bool = False) -> str:
    """Return `defaults arm`: count the choice, rewrite the path, choose a replica, mark the answer."""
    paths = """    http-request set-path %[var(txn.arm),field(3,!)]%[path,regsub(^/[^/]*,)] unless { var(txn.byhost) -m found }
    http-request set-path %[var(txn.arm),field(3,!)]%[path] if { var(txn.byhost) -m found }
"""
    paths += compression.rules() if compressed else ""
    answers = _fallback_responses() + cold_start.deadline_rules()
    if shadowed:
        return _defaults("arm", paths + shadow.request_rules(), answers + shadow.response_rules(), state)
    return _defaults("arm", paths, answers, state)


def _fallback_responses() -> str:
    """Return rules that replace plain-text errors of Serve's own proxy: no replica, or none answered in time. A model answers JSON."""
    is_proxy_error = "{ var(txn.standin) -m bool }"
    timeout = render_problem(504, "Gateway Timeout", "the replica did not answer in time", code="DeadlineExceeded")
    no_replica = render_problem(503, "Service Unavailable", "no replica is available", RETRY, "NoReplica")
    return f"""    http-response set-var(txn.standin) bool(true) if {{ srv_name -m beg {FALLBACK_PREFIX}- }} {{ status 404 408 500 503 }} \
!{{ res.hdr({headers.CONTENT_TYPE}) -m sub json }}
    http-response unset-var(txn.outcome) if {is_proxy_error}
    http-response set-var(txn.outcome) str(timeout) if {is_proxy_error} {{ status 408 }}
    http-response return {timeout} if {is_proxy_error} {{ status 408 }}
    http-response return {no_replica} if {is_proxy_error}
"""


def render_grpc_defaults(state: StateDir, *, shadowed: bool = False) -> str:
    """Return `defaults call`: the same for gRPC, where the path stays and a header names the application."""
    mirrored = shadow.request_rules() if shadowed else ""
    outcomes = grpc.outcome_rules() + cold_start.call_deadline_rules()
    return _defaults("call", grpc.error_responses() + grpc.request_rules(state) + mirrored, outcomes, state)


def _fatal_request_rules() -> str:
    """Return rules against a third attempt of a request that ended two replicas, even if its client sends it again."""
    is_known = "{ sc_get_gpc0(8) gt 0 }"
    ended_replica = "{ status 502 } !{ var(txn.outcome) -m found }"
    return f"""    http-request track-sc8 var(txn.requestid) table {FATAL_TABLE} if {HAS_CLIENT_ID}
    http-request disable-l7-retry if {HAS_CLIENT_ID} {is_known}
    http-after-response sc-inc-gpc0(8) if {HAS_CLIENT_ID} {ended_replica}
"""


def _row_rules(state: StateDir) -> str:
    return f"""    http-request set-var(txn.row) var(txn.arm),field(2,!),concat(/,txn.unitkind)
{probes.row_rule()}\
{cold_start.row_rules(state)}\
    http-request track-sc0 var(txn.row) table {ROWS_TABLE}
    http-request set-var(txn.count) sc_inc_gpc0(0)
    http-request set-var(txn.block) var(txn.received),div(10000000)
    http-request track-sc2 var(txn.row),concat(/,txn.block) table {BLOCKS_TABLE}
"""


def render_cold_calls(state: StateDir) -> str:
    """Return the backend of gRPC health checks at zero."""
    return cold_start.calls_backend(state, _row_rules(state))


def _defaults(name: str, request: str, response: str, state: StateDir) -> str:
    # `allbackups`: the only backup is Serve's own proxy. Without the option, requests beyond its limit would wait for it alone, and stay
    # there when a replica comes.
    return f"""defaults {name} from base
    balance leastconn
    retries 1
    option redispatch 1
    option allbackups
    retry-on conn-failure empty-response
    http-reuse safe
    timeout check 2s
    option httpchk
    http-check send meth GET uri /-/routes
    http-check expect string-lf "\\"%[be_name,map_str({state.map("prefixes")},none)]\\""
{_row_rules(state)}\
{cold_start.health_rules() if name == "arm" else ""}\
{admission.queue_limit(state)}\
{_fatal_request_rules()}\
    http-request set-timeout server var(txn.split),field(3,|)
{cold_start.timeout_rule()}\
{request}\
    http-response set-var(txn.ttfb) date(0,us),sub(txn.received)
    http-response set-var(txn.outcome) str(ok)
    http-response set-var(txn.outcome) str(invalid) if {{ res.hdr({headers.OUTCOME}) -m str invalid }}
{response}\
    http-response del-header {headers.SUNDOG_PREFIX} -m beg
{assignment.response_rules()}\
{feedback.exposure_header(state)}"""


def render_slot(name: str, wait_ms: int, servers: list[SlotServer]) -> str:
    """Return one arm slot, or its twin for gRPC: the longest wait for a busy replica, and the servers with which a new worker starts."""
    lines = "".join(f"    server {server.name} {render_server_options(server)}\n" for server in servers)
    kind = "call" if name.endswith(GRPC_SUFFIX) else "arm"
    return f"backend {name} from {kind}\n    timeout queue {wait_ms}ms\n{lines}"
