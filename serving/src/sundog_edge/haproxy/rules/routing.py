"""Find the service of a request: by host, else by the first path segment; for gRPC by the metadata `sundog-service`."""

from sundog_edge import headers
from sundog_edge.haproxy.problems import IS_GRPC, header_excerpt, json_excerpt, render_refusal
from sundog_edge.haproxy.rules import grpc
from sundog_edge.state_dir import StateDir

_METADATA = f"req.fhdr({headers.GRPC_SERVICE})"


def service_name(state: StateDir) -> str:
    """Return rules that set `txn.name`, and `txn.byhost` if the host names the service."""
    return f"""    http-request set-var(txn.byhost) req.hdr({headers.HOST}),host_only,rtrim(.),lower,map_str({state.map("hosts")})
    http-request set-var(txn.name) var(txn.byhost)
    http-request set-var(txn.name) path,field(2,/) unless {{ var(txn.byhost) -m found }}
    http-request set-var(txn.grpc) bool(true) if {grpc.IS_GRPC_PATH}
    http-request set-var(txn.name) {_METADATA} if {IS_GRPC} !{{ var(txn.byhost) -m found }}
"""


def rules(state: StateDir) -> str:
    """Return rules that set `txn.split`, the service's value in `splits`, or answer 404.

    They come after the wait for the body, so that the value is not outdated.
    """
    host, metadata = f"req.hdr({headers.HOST})", _METADATA
    unknown = render_refusal(
        404,
        "Not Found",
        f"no service has this host or path: {json_excerpt(host)}, {json_excerpt('path')}",
        "!{ var(txn.split) -m found }",
        code="NoSuchService",
        call=f"no service has this host or {headers.GRPC_SERVICE}: {header_excerpt(host)}, {header_excerpt(metadata)}",
    )
    return f"""    http-request set-var(txn.split) var(txn.name),map_str({state.map("splits")})
{unknown}\
    http-request set-var(txn.service) var(txn.name)
"""
