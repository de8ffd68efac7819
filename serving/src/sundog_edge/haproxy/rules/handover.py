"""What a replaced worker does with requests that still reach it, on connections that were idle when it was replaced.

Such a worker has the rules, the keys and the servers of the moment it was replaced, and checks no server any more. So it hands each
request to its successor, which assigns and counts it, and forgets it: no line, no count. HAProxy then closes the client's connection
with the answer.
"""

from sundog_edge.haproxy.rules import grpc
from sundog_edge.state_dir import StateDir

MAP = "relay"
"""Empty, until the agent has seen that a worker has a successor: HAProxy changes nothing else in one that was replaced."""

SUCCESSOR_KEY = "successor"
_TLS = "x-sundog-tls"
IS_OVER_TLS = ("{ ssl_fc }", f"{{ so_name relay }} {{ req.hdr({_TLS}) -m found }}")
"""Conditions of which either means that the client came by TLS."""


def _relays(state: StateDir) -> str:
    """The condition; a worker that goes on pays for its first half only."""
    return f"{{ stopping }} {{ str({SUCCESSOR_KEY}),map_str({state.map(MAP)}) -m found }}"


def bind(state: StateDir) -> str:
    """Where the frontend takes what its predecessor hands over; who the client is comes with the connection."""
    return f"    bind unix@{state.relay_socket} name relay accept-proxy mode 600\n"


def rules(state: StateDir) -> str:
    """The first rules of the frontend: for what is handed over they are the last."""
    relays = _relays(state)
    return f"""    http-request del-header {_TLS} if {relays} !{{ so_name relay }}
    http-request set-header {_TLS} 1 if {relays} {{ ssl_fc }}
    http-request set-log-level silent if {relays}
    http-request allow if {relays}
"""


def use_backend(state: StateDir) -> str:
    """The first choice of a backend."""
    relays = _relays(state)
    return f"""    use_backend relay-calls if {relays} {grpc.IS_GRPC_PATH}
    use_backend relay if {relays}
"""


def backends(state: StateDir) -> str:
    """The way to the successor. Its own timeouts hold there, so none is needed here."""
    return "\n".join(
        f"""backend {name} from base
    timeout server 1d
    http-reuse never
    server successor unix@{state.relay_socket} send-proxy-v2{protocol}
"""
        for name, protocol in (("relay", ""), ("relay-calls", " proto h2"))
    )
