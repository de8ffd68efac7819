"""What the mirror is told: of a share of a service's requests, the request and its answer, in one datagram each.

HAProxy sends a log line and goes on, whether anybody reads it or not: so nothing that comes after can hold up a request. Only the mirror's
target of the frontend takes lines of level `notice`, which requests that are mirrored have, and only its format has the structured data
that the copies are in. `sundog_edge.mirror.records` reads it.
"""

from sundog_edge.haproxy.names import BOOT_VARIABLE, MIRRORED_TABLE
from sundog_edge.haproxy.rules import probes
from sundog_edge.state_dir import StateDir

MAX_BODY_BYTES = 12_000
"""Of a body that is copied: with its headers it fits the smallest buffer, and both in base64 fit a line."""

MAX_MIRRORED_PER_SECOND = 100
"""Requests of one service that one edge mirrors in a second; a constant bound of what all of this may cost."""

_SLICE_BYTES = 6_000
_TAKEN = "{ var(txn.mirror) -m bool }"
_WHOLE = "!{ var(txn.mirrorskip) -m found }"
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
"""In this order; whatever a client or a replica chose is in base64, so none of it can hold a blank or a quote."""


def _slices(variable: str) -> str:
    # HAProxy's converters work in one buffer, which a body in base64 does not fit. Slices of a multiple of 3 bytes join without padding.
    return "".join(
        f"%[var({variable}),bytes({start},{_SLICE_BYTES}),base64]" for start in range(0, MAX_BODY_BYTES, _SLICE_BYTES)
    )


def log_target(state: StateDir) -> str:
    """Where the copies go, and what is in them."""
    copied = " ".join((*FIELDS, _slices("txn.mirrorbody"), _slices("txn.mirroranswer")))
    return f"""    log {state.mirror_socket} len 65535 format rfc5424 local0 notice
    log-format-sd "[mirror of=\\"{copied}\\"]"
"""


def table() -> str:
    """By service, attempt and epoch: what was sampled, and what of it was taken."""
    return f"""backend {MIRRORED_TABLE} from base
    stick-table type string len 250 size 2000 store gpc0,gpc1,gpc1_rate(1s),conn_cur
"""


def request_rules() -> str:
    """Draw whether a request is mirrored, and copy what is asked. For the defaults of arms, once the row and the path are set."""
    sampled = "{ var(txn.mirrored) -m bool }"
    copied = f"if {_TAKEN} {_WHOLE}"
    return f"""    http-request set-var(txn.mirrorbar) var(txn.split),field(8,|)
    http-request set-var(txn.mirrorarm) var(txn.split),field(9,|)
    http-request set-var(txn.mirrored) bool(true) if {{ var(txn.mirrorbar) -m int gt 0 }} {{ rand(10000),sub(txn.mirrorbar) lt 0 }} \
!{{ var(txn.arm),field(5,!),strcmp(txn.mirrorarm) eq 0 }} !{probes.IS_PROBE}
    http-request track-sc{_COUNTER} var(txn.row),field(1,/,3) table {MIRRORED_TABLE} if {sampled}
    http-request sc-inc-gpc0({_COUNTER}) if {sampled}
    http-request set-var(txn.mirror) bool(true) if {sampled} {{ sc_gpc1_rate({_COUNTER}) lt {MAX_MIRRORED_PER_SECOND} }}
    http-request sc-inc-gpc1({_COUNTER}) if {_TAKEN}
    http-request set-log-level notice if {_TAKEN}
    http-request set-var(txn.mirrorskip) str(grpc) if {_TAKEN} {{ var(txn.grpc) -m bool }}
    http-request set-var(txn.mirrorskip) str(method) if {_TAKEN} {_WHOLE} !{{ method POST }}
    http-request set-var(txn.mirrorskip) str(size) if {_TAKEN} {_WHOLE} !{{ req.hdr(content-length) -m found }}
    http-request set-var(txn.mirrorskip) str(size) if {_TAKEN} {_WHOLE} {{ var(txn.size) -m int gt {MAX_BODY_BYTES} }}
    http-request set-var(txn.mirrorskip) str(size) if {_TAKEN} {_WHOLE} !{{ req.body_len,sub(txn.size) eq 0 }}
    http-request set-var(txn.mirrorpath) pathq {copied}
    http-request set-var(txn.mirrortype) req.fhdr(content-type) {copied}
    http-request set-var(txn.mirrorjson) req.fhdr(inference-header-content-length) {copied}
    http-request set-var(txn.mirroraccept) req.fhdr(accept) {copied}
    http-request set-var(txn.mirrorbody) req.body {copied}
"""


def response_rules() -> str:
    """Copy what is answered. Waited for is only a body of known, small length, which its replica has begun to send."""
    good = "{ status 200 }"
    copied = f"if {_TAKEN} {_WHOLE} {good}"
    return f"""    http-response set-var(txn.mirrorskip) str(streaming) {copied} !{{ res.hdr(content-length) -m found }}
    http-response set-var(txn.mirrorsize) res.hdr_val(content-length) {copied}
    http-response set-var(txn.mirrorskip) str(size) {copied} {{ var(txn.mirrorsize) -m int gt {MAX_BODY_BYTES} }}
    http-response wait-for-body time 1d {copied}
    http-response set-var(txn.mirroranswertype) res.fhdr(content-type) {copied}
    http-response set-var(txn.mirroranswerjson) res.fhdr(inference-header-content-length) {copied}
    http-response set-var(txn.mirroranswer) res.body {copied}
"""
