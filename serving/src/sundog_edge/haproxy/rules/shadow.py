"""Copy a share of a service's requests to the mirror: each request and its answer in one datagram.

HAProxy sends a log line and continues, whether a process reads it or not. So the mirror cannot delay a request. Mirrored requests have
level `notice`, which only the mirror's log target accepts, and only its format has the structured data with the copies.
`sundog_edge.mirror.records` parses it.
"""

from sundog_edge import headers
from sundog_edge.haproxy.names import BOOT_VARIABLE, MIRRORED_TABLE
from sundog_edge.haproxy.rules import probes
from sundog_edge.state_dir import StateDir

MAX_BODY_BYTES = 12_000
"""Largest copied body. With its headers it fits the smallest buffer; request and answer in base64 fit a line."""

MAX_MIRRORED_PER_SECOND = 100
"""Requests of one service that one edge mirrors per second: a fixed limit of the cost."""

_SLICE_BYTES = 6_000
_IS_TAKEN = "{ var(txn.mirror) -m bool }"
_IS_WHOLE = "!{ var(txn.mirrorskip) -m found }"
_COUNTER = 6

FIELDS = (
    f"${{{BOOT_VARIABLE}}}-%pid",
    "%[var(txn.row),field(1,/,3)]",
    "%[var(txn.mirrorskip)]",
    "%ST",
    "%ts",
    "%[var(txn.outcome)]",
    "%[var(txn.received)]",
    "%[date(0,us),sub(txn.received)]",
    "%[var(txn.requestid)]",
    "%[var(txn.arm),field(3,!)]",
    "%[var(txn.size)]",
    "%[var(txn.mirrorsize)]",
    "%[var(txn.mirrorpath),base64]",
    "%[var(txn.mirrortype),base64]",
    "%[var(txn.mirrorjson),base64]",
    "%[var(txn.mirroraccept),base64]",
    "%[var(txn.mirroranswertype),base64]",
    "%[var(txn.mirroranswerjson),base64]",
)
"""Fields in this order. Values from clients and replicas are in base64, so they contain no blank and no quote."""


def _slices(variable: str) -> str:
    # HAProxy's converters use one buffer, too small for a whole body in base64. Slices of a multiple of 3 bytes join without padding.
    return "".join(
        f"%[var({variable}),bytes({start},{_SLICE_BYTES}),base64]" for start in range(0, MAX_BODY_BYTES, _SLICE_BYTES)
    )


def log_target(state: StateDir) -> str:
    """Return the log target for copies, and its format."""
    copied = " ".join((*FIELDS, _slices("txn.mirrorbody"), _slices("txn.mirroranswer")))
    return f"""    log {state.mirror_socket} len 65535 format rfc5424 local0 notice
    log-format-sd "[mirror of=\\"{copied}\\"]"
"""


def table() -> str:
    """Return the table of sampled and taken requests by service, attempt and epoch."""
    return f"""backend {MIRRORED_TABLE} from base
    stick-table type string len 250 size 2000 store gpc0,gpc1,gpc1_rate(1s),conn_cur
"""


def request_rules() -> str:
    """Return rules that sample a request and copy it. They need the row and the path, and belong to the defaults of arms."""
    is_sampled = "{ var(txn.mirrored) -m bool }"
    if_copied = f"if {_IS_TAKEN} {_IS_WHOLE}"
    return f"""    http-request set-var(txn.mirrorbar) var(txn.split),field(8,|)
    http-request set-var(txn.mirrorarm) var(txn.split),field(9,|)
    http-request set-var(txn.mirrored) bool(true) if {{ var(txn.mirrorbar) -m int gt 0 }} {{ rand(10000),sub(txn.mirrorbar) lt 0 }} \
!{{ var(txn.arm),field(5,!),strcmp(txn.mirrorarm) eq 0 }} !{probes.IS_PROBE}
    http-request track-sc{_COUNTER} var(txn.row),field(1,/,3) table {MIRRORED_TABLE} if {is_sampled}
    http-request sc-inc-gpc0({_COUNTER}) if {is_sampled}
    http-request set-var(txn.mirror) bool(true) if {is_sampled} {{ sc_gpc1_rate({_COUNTER}) lt {MAX_MIRRORED_PER_SECOND} }}
    http-request sc-inc-gpc1({_COUNTER}) if {_IS_TAKEN}
    http-request set-log-level notice if {_IS_TAKEN}
    http-request set-var(txn.mirrorskip) str(grpc) if {_IS_TAKEN} {{ var(txn.grpc) -m bool }}
    http-request set-var(txn.mirrorskip) str(method) if {_IS_TAKEN} {_IS_WHOLE} !{{ method POST }}
    http-request set-var(txn.mirrorskip) str(size) if {_IS_TAKEN} {_IS_WHOLE} !{{ req.hdr({headers.CONTENT_LENGTH}) -m found }}
    http-request set-var(txn.mirrorskip) str(size) if {_IS_TAKEN} {_IS_WHOLE} {{ var(txn.size) -m int gt {MAX_BODY_BYTES} }}
    http-request set-var(txn.mirrorskip) str(size) if {_IS_TAKEN} {_IS_WHOLE} !{{ req.body_len,sub(txn.size) eq 0 }}
    http-request set-var(txn.mirrorpath) pathq {if_copied}
    http-request set-var(txn.mirrortype) req.fhdr({headers.CONTENT_TYPE}) {if_copied}
    http-request set-var(txn.mirrorjson) req.fhdr({headers.JSON_LENGTH}) {if_copied}
    http-request set-var(txn.mirroraccept) req.fhdr({headers.ACCEPT}) {if_copied}
    http-request set-var(txn.mirrorbody) req.body {if_copied}
"""


def response_rules() -> str:
    """Return rules that copy the answer. HAProxy waits only for a body of known, small length that the replica has begun to send."""
    is_ok = "{ status 200 }"
    if_copied = f"if {_IS_TAKEN} {_IS_WHOLE} {is_ok}"
    return f"""    http-response set-var(txn.mirrorskip) str(streaming) {if_copied} !{{ res.hdr({headers.CONTENT_LENGTH}) -m found }}
    http-response set-var(txn.mirrorsize) res.hdr_val({headers.CONTENT_LENGTH}) {if_copied}
    http-response set-var(txn.mirrorskip) str(size) {if_copied} {{ var(txn.mirrorsize) -m int gt {MAX_BODY_BYTES} }}
    http-response wait-for-body time 1d {if_copied}
    http-response set-var(txn.mirroranswertype) res.fhdr({headers.CONTENT_TYPE}) {if_copied}
    http-response set-var(txn.mirroranswerjson) res.fhdr({headers.JSON_LENGTH}) {if_copied}
    http-response set-var(txn.mirroranswer) res.body {if_copied}
"""
