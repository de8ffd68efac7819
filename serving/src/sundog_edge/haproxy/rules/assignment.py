"""Assign a request to an arm: by its unit's bucket, by an override of an allow-listed caller, or by its headers."""

from sundog_edge import headers
from sundog_edge.haproxy.names import STICKY_UNIT
from sundog_edge.haproxy.problems import RETRY, render_refusal
from sundog_edge.haproxy.rules import probes
from sundog_edge.haproxy.rules.authentication import HAS_VALID_TOKEN
from sundog_edge.haproxy.rules.handover import IS_OVER_TLS
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import StateDir

COOKIE_MAX_AGE_S = 365 * 24 * 3600
_HAS_UNIT = "{ var(txn.unit) -m len gt 0 }"

BUCKET_OF_UNIT = "var(txn.salt),concat(:,txn.unit),xxh64,and(9223372036854775807),mod(10000)"
"""The bucket of `txn.unit`. `split.assignment.unit_bucket` is the same in Python; `contract/split/test_unit_buckets.py` compares them."""


def unit_rules(layout: Layout, state: StateDir) -> str:
    """Return rules that set `txn.unit` (if any), `txn.unitkind` and `txn.bucket`, and `txn.arm` if an override or a match applies.

    A unit is the whole value as bytes: a header's first line without outer blanks, a cookie, a JSON string, or the decimal whole part of a
    JSON number, in a body or a claim. HAProxy hashes the bytes that it sees, as `split.assignment` does.
    """
    return f"""    http-request set-var(txn.flags) var(txn.split),field(7,|)
    http-request set-var(txn.salt) var(txn.split),field(1,|)
    http-request set-var(txn.source) var(txn.split),field(2,|)
    http-request set-var(txn.size) req.body_size
{"".join(_source_rules(source) for source in layout.units)}\
    http-request set-var(txn.unitkind) str(anonymous)
    http-request set-var(txn.bucket) rand(10000)
    http-request set-var(txn.unitkind) str({STICKY_UNIT}) if {_HAS_UNIT}
    http-request set-var(txn.bucket) {BUCKET_OF_UNIT} if {_HAS_UNIT}
    http-request set-var(txn.table) var(txn.split),field(6,|)
{_override_rules(layout, state)}\
{_match_rules(layout, state)}"""


def _source_rules(source: str) -> str:
    kind, _, name = source.partition(":")
    is_source = f"{{ var(txn.source) -m str {source} }}"
    if kind == "header":
        return f"    http-request set-var(txn.unit) req.fhdr({name},1) if {is_source}\n"
    if kind == "cookie":
        return f"""    http-request set-var(txn.unit) req.cook({name}) if {is_source}
    http-request set-var(txn.issued) uuid() if {is_source} !{_HAS_UNIT} !{probes.IS_PROBE}
    http-request set-var(txn.unit) var(txn.issued) if {{ var(txn.issued) -m found }}
{"".join(f"    http-request set-var(txn.secure) bool(true) if {is_source} {tls}{chr(10)}" for tls in IS_OVER_TLS)}"""
    if kind == "jwtClaim":
        # Converted as below. Claims are read only from verified tokens; a request with an API key has none.
        return f"""    http-request set-var(txn.unit) var(txn.token),jwt_payload_query('$.{name}','int'),concat(,) \
if {is_source} {HAS_VALID_TOKEN}
"""
    # Only complete bodies: the buffered part of a longer one depends on its arrival.
    # As `int` a number keeps all its digits; `concat` converts it to text, so 7 and "7" are the same unit.
    return f"""    http-request set-var(txn.unit) req.body,json_query('{name}',int),concat(,) \
if {is_source} {{ req.body_len,sub(txn.size) eq 0 }} {{ req.hdr({headers.CONTENT_LENGTH}) -m found }}
"""


def arm_rules(state: StateDir) -> str:
    """Return rules that set `txn.arm` unless an override or a match did, or answer 503."""
    no_arm = render_refusal(
        503,
        "Service Unavailable",
        "the service is not ready yet",
        "!{ var(txn.arm) -m found }",
        RETRY,
        "NotReady",
    )
    return f"""    http-request set-var(txn.number) var(txn.bucket),add(10000)
    http-request set-var(txn.arm) var(txn.table),concat(/,txn.number),map_beg({state.map("ranges")}) \
unless {{ var(txn.arm) -m found }}
{no_arm}"""


def _override_rules(layout: Layout, state: StateDir) -> str:
    """Return the rules of overrides. `txn.client` is the name of the request's API key."""
    has_feature = "{ var(txn.flags) -m sub o }"
    lines = [f"    http-request set-var(txn.network) src,map_ip({state.map('networks')}) if {has_feature}\n"]
    for name in layout.overrides:
        is_candidate = f"{has_feature} {{ req.fhdr({name}) -m found }} !{{ var(txn.arm) -m found }}"
        lines.append(
            f"    http-request set-var-fmt(txn.wish) %[var(txn.table)]|{name}|%[req.fhdr({name},1)]| if {is_candidate}\n"
        )
        lines += [
            f"    http-request set-var(txn.arm) var(txn.wish),concat({mark},txn.{variable}),map_str({state.map('overrides')}) "
            f"if {is_candidate} {{ var(txn.{variable}) -m found }}\n"
            for mark, variable in (("n", "network"), ("k", "client"))
        ]
    return "".join(lines) if layout.overrides else ""


def _match_rules(layout: Layout, state: StateDir) -> str:
    """Return rules that count the service's headers with the right value. The number of all of them is the key of the arm.

    HAProxy looks up the hash of a value. So no value of a spec or a client becomes part of a rule or of a map's syntax.
    """
    has_feature, matches = "{ var(txn.flags) -m sub h }", state.map("matches")
    lines = [f"    http-request set-var(txn.matched) int(0) if {has_feature}\n"]
    for name in layout.matches:
        has_header = f"{has_feature} {{ req.fhdr({name},1) -m found }}"
        lines.append(f"""    http-request set-var-fmt(txn.wish) \
%[var(txn.table)]|{name}|%[req.fhdr({name},1),sha2(256),hex,lower] if {has_header}
    http-request set-var(txn.matched) var(txn.matched),add(1) if {has_header} {{ var(txn.wish),map_str({matches}) -m found }}
""")
    lines.append(
        f"    http-request set-var(txn.arm) var(txn.table),concat(|,txn.matched),map_str({matches}) "
        f"if {has_feature} !{{ var(txn.arm) -m found }}\n"
    )
    return "".join(lines) if layout.matches else ""


def response_rules() -> str:
    """Return rules for the answer: the arm if the service reveals it, and the cookie that keeps the client the same unit."""
    if_revealed = "if { var(txn.flags) -m sub r } { var(txn.arm) -m found }"
    cookie = (
        f"%[var(txn.source),field(2,:)]=%[var(txn.issued)]; Path=/; Max-Age={COOKIE_MAX_AGE_S}; HttpOnly; SameSite=Lax"
    )
    is_issued = "{ var(txn.issued) -m found } { var(txn.arm) -m found }"
    return f"""    http-after-response set-header {headers.REVISION} %[var(txn.arm),field(4,!)] {if_revealed}
    http-after-response set-header {headers.ARM} %[var(txn.arm),field(5,!)] {if_revealed}
    http-after-response add-header {headers.SET_COOKIE} "{cookie}" if {is_issued} !{{ var(txn.secure) -m bool }}
    http-after-response add-header {headers.SET_COOKIE} "{cookie}; Secure" if {is_issued} {{ var(txn.secure) -m bool }}
"""
