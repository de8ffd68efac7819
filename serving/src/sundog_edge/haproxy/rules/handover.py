"""Handover: a replaced worker forwards requests that still reach it, on connections that were idle at its replacement.

Such a worker has outdated rules, keys and servers, and no longer checks servers. So it forwards each request to its successor, which
assigns and counts it. The old worker writes no line and counts nothing. HAProxy closes the client's connection with the answer.
"""

from sundog_edge import headers
from sundog_edge.haproxy.rules import grpc
from sundog_edge.state_dir import StateDir

MAP = "relay"
"""This map is empty until the agent sees that the worker has a successor. In a replaced worker, only maps can change."""

SUCCESSOR_KEY = "successor"
IS_OVER_TLS = ("{ ssl_fc }", f"{{ so_name relay }} {{ req.hdr({headers.TLS}) -m found }}")
"""Conditions for a client with TLS; either is enough."""


def _relay_condition(state: StateDir) -> str:
    """Return the condition of handover. In a current worker, only its first half is evaluated."""
    return f"{{ stopping }} {{ str({SUCCESSOR_KEY}),map_str({state.map(MAP)}) -m found }}"


def bind(state: StateDir) -> str:
    """Return the bind line for requests of the predecessor. The PROXY protocol carries the client's address."""
    return f"    bind unix@{state.relay_socket} name relay accept-proxy mode 600\n"


def rules(state: StateDir) -> str:
    """Return the first rules of the frontend, which are the last ones for forwarded requests."""
    relays = _relay_condition(state)
    return f"""    http-request del-header {headers.TLS} if {relays} !{{ so_name relay }}
    http-request set-header {headers.TLS} 1 if {relays} {{ ssl_fc }}
    http-request set-log-level silent if {relays}
    http-request allow if {relays}
"""


def use_backend(state: StateDir) -> str:
    """Return the first choice of a backend."""
    relays = _relay_condition(state)
    return f"""    use_backend relay-calls if {relays} {grpc.IS_GRPC_PATH}
    use_backend relay if {relays}
"""


def backends(state: StateDir) -> str:
    """Return the backends for the successor. Its timeouts apply, so none is needed here."""
    return "\n".join(
        f"""backend {name} from base
    timeout server 1d
    http-reuse never
    server successor unix@{state.relay_socket} send-proxy-v2{protocol}
"""
        for name, protocol in (("relay", ""), ("relay-calls", " proto h2"))
    )
