"""gRPC calls: they have the same services, splits and counters, and reach replicas at their gRPC ports, by HTTP/2 without TLS.

The edge's own answers have the HTTP status of the problem, a `grpc-status`, and no body.
"""

from sundog_edge import headers
from sundog_edge.counting.log_lines import GIVEN_UP_OUTCOME
from sundog_edge.haproxy.names import IS_HELD
from sundog_edge.haproxy.problems import IS_GRPC, render_grpc_problem
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import StateDir

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
PROBES = (
    *(
        f"{SERVICE}{method}"
        for method in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata")
    ),
    f"{HEALTH}Check",
)
"""Paths that the model server answers without its model."""

HEALTH_CHECKS = (f"{SERVICE}ServerLive", f"{SERVICE}ServerReady", f"{SERVICE}ModelReady", f"{HEALTH}Check")
"""Those of them that the agent answers while the application is scaled to zero."""

IS_GRPC_PATH = f"{{ path -m beg {SERVICE} {HEALTH} }}"
"""Whether the path is of gRPC. `txn.grpc` is set by this."""

_UNITS = {
    "H": "mul(3600000)",
    "M": "mul(60000)",
    "S": "mul(1000)",
    "m": "add(0)",
    "u": "div(1000)",
    "n": "div(1000000)",
}
"""Conversion of a deadline's units to milliseconds."""

_EARLY_MS = 10
"""Milliseconds by which a server's clock may end a deadline too early."""

_HELD_MARGIN_MS = 1000
"""Milliseconds by which the deadline of a held call exceeds the edge's, whose answer says that no replica started."""

_PREFIX_BYTES = 5
"""Bytes before a message: its compression flag and its length."""

_ENCODINGS = "identity gzip deflate"
"""Encodings that a gRPC server knows. Compressed messages are not supported, but a client may name one and not compress."""

ACCEPTED_ENCODINGS = f" hdr {headers.GRPC_ACCEPT_ENCODING} identity"
"""The header of a refused encoding, by which gRPC clients learn what the server takes."""

_DIGIT = "[A-Za-z0-9+/]"
_BASE64 = f"({_DIGIT}{{64}})*({_DIGIT}{{4}}){{0,15}}({_DIGIT}[AQgw]|{_DIGIT}{{2}}[AEIMQUYcgkosw048])?=*"
"""Base64 as a gRPC server accepts it. Long runs come first, because each repetition of a group may cost stack."""

_BINARY, _END = r"(^|\n)[^:\n]*-bin: ", r"\r"
"""The text before and after a base64 value in a header line."""


def refuse_unsupported() -> str:
    """Return the rule that refuses an unknown method at once: a streaming client would continue to send and wait for the answer."""
    known = " ".join((*PROBES, f"{SERVICE}ModelInfer"))
    refused = render_grpc_problem(405, "this method is not supported")
    return f"    http-request return {refused} if {IS_GRPC} !{{ path -m str {known} }}\n"


def refuse_malformed() -> str:
    """Return rules that refuse invalid calls. A gRPC server reports them as its own errors or waits for more, which would count for an arm.

    HAProxy cannot detect the early end of a message that exceeds the buffer and has no length in the headers.
    """
    method = render_grpc_problem(405, "a call is a POST", f" hdr {headers.ALLOW} POST")
    trailers = render_grpc_problem(400, f"a call needs the header {headers.TE}: trailers")
    encoding = render_grpc_problem(
        415, f"the {headers.GRPC_ENCODING} is unknown; send messages as they are", ACCEPTED_ENCODINGS
    )
    binary = render_grpc_problem(400, "the value of a header whose name ends in -bin is not base64")
    short = render_grpc_problem(400, "the message is shorter than the length in front of it")
    encoding_name = headers.GRPC_ENCODING
    encodings = f"{{ req.fhdr({encoding_name}) -m found }}"
    return f"""    http-request return {method} if {IS_GRPC} !{{ method POST }}
    http-request return {trailers} if {IS_GRPC} !{{ req.fhdr({headers.TE}) -i -m str trailers }}
    http-request return {encoding} if {IS_GRPC} {encodings} !{{ req.fhdr({encoding_name}) -m str {_ENCODINGS} }}
    http-request return {encoding} if {IS_GRPC} {{ req.fhdr_cnt({encoding_name}) gt 1 }}
    http-request return {binary} if {IS_GRPC} {{ req.hdrs -m sub "bin: " }} \
{{ req.hdrs,regsub("'{_BINARY}{_BASE64}{_END}'",,g) -m reg '{_BINARY}' }}
    http-request set-var(txn.sent) req.body_size if {IS_GRPC}
    http-request set-var(txn.needed) int({_PREFIX_BYTES}) if {IS_GRPC}
    http-request set-var(txn.needed) req.body,bytes(1,4),be2dec(,4),add({_PREFIX_BYTES}) if {IS_GRPC} {{ req.body,bytes(1,4) -m found }}
    http-request set-var(txn.whole) bool(true) if {IS_GRPC} {{ req.hdr({headers.CONTENT_LENGTH}) -m found }}
    http-request set-var(txn.whole) bool(true) if {IS_GRPC} {{ internal.htx.has_eom }}
    http-request return {short} if {IS_GRPC} {{ var(txn.whole) -m bool }} {{ var(txn.needed),sub(txn.sent) gt 0 }}
"""


def request_rules(state: StateDir) -> str:
    """Return rules of an arm's gRPC backend: the application's name, and the earlier of the client's and the service's deadline.

    Metadata between gRPC libraries is removed: a server fails at unknown values of it.
    """
    deadlines = "".join(
        f"    http-request set-var(txn.asked) req.fhdr({headers.GRPC_TIMEOUT}),rtrim({unit}),{factor} "
        f"if {{ req.fhdr({headers.GRPC_TIMEOUT}) -m reg ^[0-9]{{1,8}}{unit}$ }}\n"
        for unit, factor in _UNITS.items()
    )
    return f"""    http-request set-header {headers.APPLICATION} %[be_name,map_str({state.map("applications")})]
    http-request del-header {headers.GRPC_SERVICE}
    http-request del-header {headers.GRPC_INTERNAL_PREFIX} -m beg
    http-request del-header {headers.GRPC_LIBRARIES} -m reg
    http-request set-var(txn.deadline) var(txn.split),field(3,|),add(0)
    http-request set-var(txn.deadline) var(txn.held),add({_HELD_MARGIN_MS}) if {IS_HELD}
{deadlines}\
    http-request set-var(txn.own) bool(true) if {{ var(txn.asked) -m found }} {{ var(txn.asked),sub(txn.deadline) lt 0 }}
    http-request set-var(txn.deadline) var(txn.asked) if {{ var(txn.own) -m bool }}
    http-request set-header {headers.GRPC_TIMEOUT} %[var(txn.deadline)]m
"""


def outcome_rules() -> str:
    """Return rules that set the outcome from a status in the headers, as of errors without an answer. HAProxy does not see a later status.

    If the client's deadline is the earlier one and has passed, the client gave up the call.
    """
    status = f"res.fhdr({headers.GRPC_STATUS})"
    passed = f"{{ var(txn.ttfb),div(1000),add({_EARLY_MS}),sub(txn.deadline) ge 0 }}"
    return f"""    http-response set-var-fmt(txn.outcome) grpc%[{status}] if {{ {status} -m reg ^[0-9]{{1,2}}$ }}
    http-response set-var(txn.outcome) str({GIVEN_UP_OUTCOME}) if {{ {status} -m str 4 }} {{ var(txn.own) -m bool }} {passed}
"""


def use_backend(layout: Layout) -> str:
    """Return the rule of the frontend that chooses the backend of a call."""
    if not layout.grpc:
        return f"    use_backend none if {IS_GRPC}\n"
    return f"    use_backend %[var(txn.arm),field(1,!)]-grpc if {IS_GRPC}\n"


def error_responses() -> str:
    """Return HAProxy's own errors in the form for gRPC clients."""
    answers = (
        render_grpc_problem(500, "the edge failed"),
        render_grpc_problem(502, "the replica gave no valid answer"),
        render_grpc_problem(503, "no replica is available"),
        render_grpc_problem(504, "the replica did not answer in time"),
    )
    return "".join(f"    http-error {answer}\n" for answer in answers)
