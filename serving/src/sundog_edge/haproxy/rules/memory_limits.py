"""Limit clients' use of HAProxy's memory: buffers in total, requests of one connection, and requests of one address.

HAProxy waits for the start of a body before any rule that refuses, except rules that need no body. So these limits apply to every caller.
"""

from sundog_edge.haproxy.names import CLIENT_ADDRESS
from sundog_edge.haproxy.problems import render_refusal
from sundog_edge.state_dir import HaproxyProcessSettings

TABLE = "holding"
_SOURCES = 100_000
REFUSAL_KIND = "source"
"""Kind of refusal for a request of an address with too many requests."""

MAX_STREAMS = 32
"""Concurrent requests of one HTTP/2 connection. Clients know this limit; they let more requests wait, or open another connection."""

_MIN_BUFFERS = 64

MAX_HEADERS = 100
_PARSED_HEADERS = 400
_HEADER_ROOM_BYTES = 8192
"""A buffer has space for headers beyond `buffer_bytes`, so that rules can refuse them. HAProxy 2.8 answers requests that its parser refuses
with a page of its own, which no setting replaces."""

_REWRITE_BYTES = 1024


def limits(settings: HaproxyProcessSettings) -> str:
    """Return lines of `global`. Without a free buffer, a request waits; otherwise the kernel might kill HAProxy for its memory.

    The other half of the memory is for TLS, tables, maps, and a replaced worker.
    """
    size = settings.buffer_bytes + _HEADER_ROOM_BYTES
    buffers = max(settings.memory_bytes // 2 // size, _MIN_BUFFERS)
    return f"""    tune.bufsize {size}
    tune.maxrewrite {_REWRITE_BYTES}
    tune.http.maxhdr {_PARSED_HEADERS}
    tune.buffers.limit {buffers}
    tune.h2.fe.max-concurrent-streams {MAX_STREAMS}
"""


def rules(settings: HaproxyProcessSettings) -> str:
    """Return rules that close a connection after the request's headers if its address has too many running requests.

    The limit equals that of connections. HTTP/2 and gRPC have many requests on a connection, so limiting connections does not limit memory.
    """
    if not settings.source_connections:
        return ""
    too_many = f"{{ sc_conn_cur(7) gt {settings.source_connections} }}"
    return f"""    tcp-request content track-sc7 {CLIENT_ADDRESS} table {TABLE}
    tcp-request content set-var(txn.refused) str({REFUSAL_KIND}) if {too_many}
    tcp-request content reject if {too_many}
"""


def refuse_large_headers(settings: HaproxyProcessSettings) -> str:
    """Return rules that refuse headers beyond `buffer_bytes`, or too many of them. `txn.body` is the part of the body that has arrived."""
    most = settings.buffer_bytes - _REWRITE_BYTES
    are_large = f"{{ var(txn.body) -m found }} {{ internal.htx.data,sub(txn.body) gt {most} }}"
    target = render_refusal(
        414, "URI Too Long", "the target is too long", f"{are_large} {{ url,length gt {most // 2} }}"
    )
    title, detail = "Request Header Fields Too Large", f"the headers are larger than {most} bytes"
    large = render_refusal(431, title, detail, are_large)
    many = render_refusal(
        431, title, f"there are more than {MAX_HEADERS} headers", f"{{ req.fhdr_cnt gt {MAX_HEADERS} }}"
    )
    return f"""    http-request set-var(txn.body) req.body_len if {{ internal.htx.data gt {most} }}
{target}{large}{many}"""


def wait_for_body(settings: HaproxyProcessSettings) -> str:
    """Return the rule that waits for a request's body, or for as much of it as fits a buffer."""
    return f"    http-request wait-for-body time {settings.request_seconds}s\n"


def table() -> str:
    """Return the backend with the table of running requests by address."""
    return f"""backend {TABLE} from base
    stick-table type ipv6 size {_SOURCES} expire 1m store conn_cur
"""
