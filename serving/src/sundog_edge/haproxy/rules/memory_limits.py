"""What clients may hold of HAProxy's memory: buffers in all, requests of one connection, and requests of one address.

The start of a body is waited for before any rule that refuses, except for those that need none, so who holds what is bounded whoever
calls, and whatever for.
"""

from sundog_edge.haproxy.names import CLIENT_ADDRESS
from sundog_edge.state_dir import HaproxyProcessSettings

TABLE = "holding"
_SOURCES = 100_000
REFUSAL_KIND = "source"
"""The kind of refusal in the line of a request of an address that has too many."""

MAX_STREAMS = 32
"""Requests of one HTTP/2 connection at once. Clients are told, and let further ones wait, or open another connection."""

_FEWEST_BUFFERS = 64


def limits(settings: HaproxyProcessSettings) -> str:
    """Lines of `global`. Who finds no buffer waits: better late than that the kernel ends HAProxy with all that it holds.

    The other half of the memory is for TLS, tables, maps, and a worker that has a successor.
    """
    buffers = max(settings.memory_bytes // 2 // settings.buffer_bytes, _FEWEST_BUFFERS)
    return f"""    tune.buffers.limit {buffers}
    tune.h2.fe.max-concurrent-streams {MAX_STREAMS}
"""


def rules(settings: HaproxyProcessSettings) -> str:
    """Close the connection of a request, as soon as its headers are there, if its address has as many under way as it may have connections.

    HTTP/2 and gRPC have many requests on a connection, so a limit of connections alone is none of memory.
    """
    if not settings.source_connections:
        return ""
    many = f"{{ sc_conn_cur(7) gt {settings.source_connections} }}"
    return f"""    tcp-request content track-sc7 {CLIENT_ADDRESS} table {TABLE}
    tcp-request content set-var(txn.refused) str({REFUSAL_KIND}) if {many}
    tcp-request content reject if {many}
"""


def wait_for_body(settings: HaproxyProcessSettings) -> str:
    """Wait until a request's body is here, or as much of it as a buffer takes."""
    return f"    http-request wait-for-body time {settings.request_seconds}s\n"


def table() -> str:
    """The backend that holds how many requests an address has under way."""
    return f"""backend {TABLE} from base
    stick-table type ipv6 size {_SOURCES} expire 1m store conn_cur
"""
