"""Calls by gRPC: the same services, splits and counters; replicas are reached at their gRPC ports, by HTTP/2 without TLS.

What the edge answers itself has the HTTP status of the same problem, a `grpc-status` beside it, and no body.
"""

from sundog_edge.haproxy.problems import IS_CALL, call_problem
from sundog_edge.layout import Layout
from sundog_edge.state_dir import StateDir

SERVICE = "/inference.GRPCInferenceService/"
METADATA = "sundog-service"
"""Names the service where the authority does not."""

_UNITS = {
    "H": "mul(3600000)",
    "M": "mul(60000)",
    "S": "mul(1000)",
    "m": "add(0)",
    "u": "div(1000)",
    "n": "div(1000000)",
}
"""Units of a deadline, to milliseconds."""


def replica(state: StateDir) -> str:
    """Rules of an arm's gRPC backend: the application's name, and the client's deadline or the service's, whichever is earlier."""
    asked = "".join(
        f"    http-request set-var(txn.asked) req.fhdr(grpc-timeout),rtrim({unit}),{factor} "
        f"if {{ req.fhdr(grpc-timeout) -m reg ^[0-9]{{1,8}}{unit}$ }}\n"
        for unit, factor in _UNITS.items()
    )
    return f"""    http-request set-header application %[be_name,map_str({state.map("applications")})]
    http-request del-header {METADATA}
    http-request set-var(txn.deadline) var(txn.split),field(3,|),add(0)
{asked}\
    http-request set-var(txn.deadline) var(txn.asked) if {{ var(txn.asked) -m found }} {{ var(txn.asked),sub(txn.deadline) lt 0 }}
    http-request set-header grpc-timeout %[var(txn.deadline)]m
"""


def outcome() -> str:
    """A status that comes with the headers, as that of an error without an answer does; one that comes after an answer is not seen."""
    return """    http-response set-var-fmt(txn.outcome) grpc%[res.fhdr(grpc-status)] if { res.fhdr(grpc-status) -m reg ^[0-9]{1,2}$ }
"""


def choice(layout: Layout) -> str:
    """Rules of the frontend that end with a backend for a call."""
    if not layout.grpc:
        return f"    use_backend none if {IS_CALL}\n"
    return f"    use_backend %[var(txn.arm),field(1,!)]-grpc if {IS_CALL}\n"


def errors() -> str:
    """HAProxy's own errors, as a gRPC client reads them."""
    answers = (
        call_problem(500, "the edge failed"),
        call_problem(502, "the replica gave no valid answer"),
        call_problem(503, "no replica is available"),
        call_problem(504, "the replica did not answer in time"),
    )
    return "".join(f"    http-error {answer}\n" for answer in answers)
