"""Whether a request is let in, and what is taken from it before a replica sees it.

Who is refused here has no arm. The kind of a refusal is told by its status (`loglines.refusal_kind`), so every kind has one of its own.
"""

from sundog_edge.haproxy.names import CLIENT_ADDRESS
from sundog_edge.haproxy.problems import IS_GRPC, render_grpc_problem, render_problem, render_refusal
from sundog_edge.haproxy.rules import authentication, drain, feedback, grpc, rate_limits
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir

SOURCES_TABLE = "sources"
_SOURCES = 100_000
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
"""Those that a model server refuses with a problem document, if it does. Its parser does not know all others."""

HAS_POLICY = "{ var(txn.policy) -m found }"
"""Whether the service asks for more than what every service gets."""


def connection_limit(settings: HaproxyProcessSettings) -> str:
    """Refuse more connections of one address than it may have."""
    if not settings.source_connections:
        return ""
    return f"""    tcp-request connection track-sc5 {CLIENT_ADDRESS} table {SOURCES_TABLE}
    tcp-request connection reject if {{ sc_conn_cur(5) gt {settings.source_connections} }}
"""


def backends(layout: Layout, state: StateDir) -> str:
    """The backends that hold what is counted and known here."""
    return f"""backend {SOURCES_TABLE} from base
    stick-table type ipv6 size {_SOURCES} expire 1m store conn_cur

{rate_limits.tables()}
{authentication.backend(layout, state)}"""


def expect_continue(state: StateDir) -> str:
    """Refuse a body that is larger by what the request says of itself, where the client waits to be asked for it.

    Others send it whatever is answered, and read that only if somebody reads theirs.
    """
    asks = f"!{IS_GRPC} {{ req.fhdr(expect) -i -m str 100-continue }} {{ req.hdr(content-length) -m found }}"
    large = "{ var(txn.limit) -m found } { req.hdr_val(content-length),sub(txn.limit) gt 0 }"
    limit = "larger than %[var(txn.limit)] bytes"
    found = "the body of %[req.hdr_val(content-length)] bytes is"
    refused = render_problem(413, "Content Too Large", f"{found} {limit}", code="BodyTooLarge")
    return f"""    http-request set-var(txn.limit) var(txn.name),map_str({state.map("splits")}),field(5,|) if {asks}
    http-request return {refused} if {asks} {large}
"""


def rules(state: StateDir) -> str:
    """Refuse what the service does not take, and set `txn.policy` where the service has one."""
    method = render_refusal(
        405,
        "Method Not Allowed",
        "this method is not supported",
        f"!{{ method {' '.join(_METHODS)} }}",
        " hdr Allow GET,HEAD,OPTIONS,POST",
    )
    host = render_refusal(
        400, "Bad Request", "a request of HTTP/1.1 needs the header host", "{ req.ver 1.1 } !{ req.hdr(host) -m found }"
    )
    websocket = render_refusal(
        501,
        "Not Implemented",
        "websockets are not supported",
        "{ req.hdr(upgrade) -i -m sub websocket }",
        code="NoWebsockets",
    )
    dots = render_refusal(
        400,
        "Bad Request",
        "the path has a segment of two dots",
        r"{ path -i -m sub .. %2e } { path -i -m reg (^|/|%2f)(\.|%2e){2}(/|%2f|$) }",
    )
    return f"""{method}{host}{websocket}{dots}\
    http-request set-var(txn.limit) var(txn.split),field(5,|)
    http-request set-var(txn.limit) int({feedback.MAX_BYTES}) if {feedback.IS_FEEDBACK}
{_body()}\
{grpc.refuse_malformed()}\
    http-request set-var(txn.policy) var(txn.name),map_str({state.map("policies")})
{authentication.rules(state)}\
{feedback.rate_limit()}\
{rate_limits.rules()}"""


def _body() -> str:
    """Refuse, once `txn.limit` is set, a body that is larger, by what the request says of itself or by what has come of it.

    Of a call that is in front of its message: whether it is compressed, and its length. A replica would have it in memory, unpacked,
    before anybody looked at it.
    """
    large, told = "{ req.body_size,sub(txn.limit) gt 0 }", "{ req.hdr(content-length) -m found }"
    limit = "larger than %[var(txn.limit)] bytes"
    packed = render_grpc_problem(415, "a compressed message is not supported; send it as it is")
    # That of feedback is no field's.
    field = ", which is endpoint.maxRequestBytes of its service"
    message = render_grpc_problem(413, f"the message of %[var(txn.message)] bytes is {limit}{field}")
    return f"""    http-request return {packed} if {IS_GRPC} {{ req.body,bytes(0,1),hex -m str 01 }}
    http-request set-var(txn.message) req.body,bytes(1,4),be2dec(,4) if {IS_GRPC}
    http-request return {message} if {IS_GRPC} {{ var(txn.message),sub(txn.limit) gt 0 }}
    http-request set-var-fmt(txn.toolarge) "the body is {limit}" if !{IS_GRPC} {large}
    http-request set-var-fmt(txn.toolarge) "%[var(txn.toolarge)]{field}" if {drain.IS_TOO_LARGE} !{feedback.IS_FEEDBACK}
    http-request set-var-fmt(txn.toolarge) "the body of %[req.body_size] bytes is {limit}{field}" \
if {drain.IS_TOO_LARGE} {told} !{feedback.IS_FEEDBACK}
{drain.rules()}"""


def header_rules() -> str:
    """Take away what only the edge may say to a replica, what is meant for the edge alone, and what an underscore disguises."""
    return f"""    http-request del-header x-sundog- -m beg
    http-request del-header _ -m sub
    http-request del-header upgrade
    http-request del-header proxy- -m beg
    http-request del-header x-api-key if {HAS_POLICY} {authentication.AUTH_REQUIRED}
    http-request del-header authorization if {HAS_POLICY} {authentication.AUTH_REQUIRED}
    http-request del-header x-request-timeout-seconds
    http-request set-header x-sundog-timeout-seconds %[var(txn.split),field(4,|)]
    http-request set-header x-request-disconnect-disabled ?1
"""


def queue_limit(state: StateDir) -> str:
    """Refuse, in an arm's backend, what would wait behind too many; it counts against the arm, whose shortage it is."""
    retry = " hdr Retry-After 1"
    full = [
        render_refusal(
            503, "Service Unavailable", "too many requests wait for a replica", condition, retry, "Overloaded"
        )
        for condition in (
            f"{{ var(txn.waiting) -m found }} {{ be_name,map_str_int({state.map('queues')},1000000),sub(txn.waiting) le 0 }}",
            f"{HAS_POLICY} {{ var(txn.policy),field(11,|) -m str 0 }} {{ be_conn_free eq 0 }}",
        )
    ]
    return f"""    http-request set-var(txn.waiting) queue if {{ queue gt 0 }}
{"".join(full)}"""
