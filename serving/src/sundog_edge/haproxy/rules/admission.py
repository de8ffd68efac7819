"""Admission: refuse requests, and remove headers that no replica may see.

A request that is refused here has no arm. `log_lines.classify_refusal` derives the kind of a refusal from its status, so every kind has a
different status.
"""

from sundog_edge import headers
from sundog_edge.haproxy.names import CLIENT_ADDRESS, HAS_POLICY
from sundog_edge.haproxy.problems import IS_GRPC, RETRY, render_grpc_problem, render_problem, render_refusal
from sundog_edge.haproxy.rules import authentication, client_address, drain, feedback, grpc, ofrep, rate_limits
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir

SOURCES_TABLE = "sources"
_SOURCES = 100_000
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
"""Methods that the model server answers, or refuses with a problem document. Its parser does not know the others."""


def connection_limit(settings: HaproxyProcessSettings) -> str:
    """Return rules that refuse too many connections of one address, except of a trusted proxy, whose clients share them."""
    if not settings.source_connections:
        return ""
    exception = f" unless {client_address.is_trusted(settings)}" if settings.trusted_proxies else ""
    return f"""    tcp-request connection track-sc5 {CLIENT_ADDRESS} table {SOURCES_TABLE}{exception}
    tcp-request connection reject if {{ sc_conn_cur(5) gt {settings.source_connections} }}
"""


def backends(layout: Layout, state: StateDir) -> str:
    """Return the backends for the tables and keys of admission."""
    return f"""backend {SOURCES_TABLE} from base
    stick-table type ipv6 size {_SOURCES} expire 1m store conn_cur

{rate_limits.tables()}
{authentication.backend(layout, state)}"""


def expect_continue(state: StateDir) -> str:
    """Return rules that refuse a body by its `content-length` if the client waits for `100 Continue`.

    Other clients send the body in any case, and read the answer only after the edge has read it.
    """
    is_waiting = f"!{IS_GRPC} {{ req.fhdr({headers.EXPECT}) -i -m str 100-continue }} {{ req.hdr({headers.CONTENT_LENGTH}) -m found }}"
    length = f"req.hdr_val({headers.CONTENT_LENGTH})"
    is_large = f"{{ var(txn.limit) -m found }} {{ {length},sub(txn.limit) gt 0 }}"
    limit = "larger than %[var(txn.limit)] bytes"
    body = f"the body of %[{length}] bytes is"
    refused = render_problem(413, "Content Too Large", f"{body} {limit}", code="BodyTooLarge")
    return f"""    http-request set-var(txn.limit) var(txn.name),map_str({state.map("splits")}),field(5,|) if {is_waiting}
    http-request return {refused} if {is_waiting} {is_large}
"""


def rules(state: StateDir) -> str:
    """Return rules that refuse invalid requests, and set `txn.policy` if the service has a policy."""
    method = render_refusal(
        405,
        "Method Not Allowed",
        "this method is not supported",
        f"!{{ method {' '.join(_METHODS)} }}",
        f" hdr {headers.ALLOW} GET,HEAD,OPTIONS,POST",
    )
    host = render_refusal(
        400,
        "Bad Request",
        f"a request of HTTP/1.1 needs the header {headers.HOST}",
        f"{{ req.ver 1.1 }} !{{ req.hdr({headers.HOST}) -m found }}",
    )
    websocket = render_refusal(
        501,
        "Not Implemented",
        "websockets are not supported",
        f"{{ req.hdr({headers.UPGRADE}) -i -m sub websocket }}",
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
    http-request set-var(txn.limit) int({ofrep.MAX_BYTES}) if {ofrep.IS_OFREP}
{_body_size_rules()}\
{grpc.refuse_malformed()}\
    http-request set-var(txn.policy) var(txn.name),map_str({state.map("policies")})
{authentication.rules(state)}\
{feedback.rate_limit()}\
{ofrep.rate_limit()}\
{rate_limits.rules()}"""


def _body_size_rules() -> str:
    """Return rules that refuse a body larger than `txn.limit`, by its declared or its received size.

    A gRPC message starts with a compression flag and its length. A replica would decompress the message in memory before any check.
    """
    is_large, is_declared = "{ req.body_size,sub(txn.limit) gt 0 }", f"{{ req.hdr({headers.CONTENT_LENGTH}) -m found }}"
    limit = "larger than %[var(txn.limit)] bytes"
    detail = "a compressed message is not supported; send it as it is"
    compressed = render_grpc_problem(415, detail, grpc.ACCEPTED_ENCODINGS)
    # The limits of feedback and look-ups are not fields of the service.
    is_models = f"!{feedback.IS_FEEDBACK} !{ofrep.IS_OFREP}"
    field = ", which is endpoint.maxRequestBytes of its service"
    message = render_grpc_problem(413, f"the message of %[var(txn.message)] bytes is {limit}{field}")
    return f"""    http-request return {compressed} if {IS_GRPC} {{ req.body,bytes(0,1),hex -m str 01 }}
    http-request set-var(txn.message) req.body,bytes(1,4),be2dec(,4) if {IS_GRPC}
    http-request return {message} if {IS_GRPC} {{ var(txn.message),sub(txn.limit) gt 0 }}
    http-request set-var-fmt(txn.toolarge) "the body is {limit}" if !{IS_GRPC} {is_large}
    http-request set-var-fmt(txn.toolarge) "%[var(txn.toolarge)]{field}" if {drain.IS_TOO_LARGE} {is_models}
    http-request set-var-fmt(txn.toolarge) "the body of %[req.body_size] bytes is {limit}{field}" \
if {drain.IS_TOO_LARGE} {is_declared} {is_models}
{drain.rules()}"""


def header_rules() -> str:
    """Return rules that remove headers: those that only the edge may set, those for the edge only, and those with underscores."""
    return f"""    http-request del-header {headers.SUNDOG_PREFIX} -m beg
    http-request del-header _ -m sub
    http-request del-header {headers.UPGRADE}
    http-request del-header {headers.PROXY_PREFIX} -m beg
    http-request del-header {headers.API_KEY} if {HAS_POLICY} {authentication.AUTH_REQUIRED}
    http-request del-header {headers.AUTHORIZATION} if {HAS_POLICY} {authentication.AUTH_REQUIRED}
    http-request del-header {headers.SERVE_TIMEOUT}
    http-request set-header {headers.TIMEOUT} %[var(txn.split),field(4,|)]
    http-request set-header {headers.DISCONNECT_DISABLED} ?1
{client_address.header_rule()}"""


def queue_limit(state: StateDir) -> str:
    """Return rules of an arm's backend that refuse requests when too many wait. Refusals count for the arm, which lacks replicas."""
    full = [
        render_refusal(
            503, "Service Unavailable", "too many requests wait for a replica", condition, RETRY, "Overloaded"
        )
        for condition in (
            f"{{ var(txn.waiting) -m found }} {{ be_name,map_str_int({state.map('queues')},1000000),sub(txn.waiting) le 0 }}",
            f"{HAS_POLICY} {{ var(txn.policy),field(11,|) -m str 0 }} {{ be_conn_free eq 0 }}",
        )
    ]
    return f"""    http-request set-var(txn.waiting) queue if {{ queue gt 0 }}
{"".join(full)}"""
