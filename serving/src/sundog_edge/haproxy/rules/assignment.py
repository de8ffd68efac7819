"""Which arm a request gets: its unit, the unit's bucket, the bucket's range; or the arm that an allow-listed caller asked for, or that
its headers stand for.
"""

from sundog_edge.haproxy.problems import render_refusal
from sundog_edge.haproxy.rules import probes
from sundog_edge.haproxy.rules.authentication import HAS_VALID_TOKEN
from sundog_edge.haproxy.rules.handover import IS_OVER_TLS
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import StateDir

COOKIE_MAX_AGE_S = 365 * 24 * 3600
_HAS_UNIT = "{ var(txn.unit) -m len gt 0 }"


def unit_rules(layout: Layout, state: StateDir) -> str:
    """Set `txn.unit` where the request has one, `txn.unitkind` and `txn.bucket`; and `txn.arm` if an override or a match holds.

    A unit is the whole value as bytes: a header's first line without outer blanks, a cookie, a JSON string, or the whole part of a
    JSON number in decimal, be it in a body or a claim. Units hash as HAProxy sees them; `sundog_edge.split.assignment` is the reference.
    """
    return f"""    http-request set-var(txn.flags) var(txn.split),field(7,|)
    http-request set-var(txn.salt) var(txn.split),field(1,|)
    http-request set-var(txn.source) var(txn.split),field(2,|)
    http-request set-var(txn.size) req.body_size
{"".join(_source(source) for source in layout.units)}\
    http-request set-var(txn.unitkind) str(anonymous)
    http-request set-var(txn.bucket) rand(10000)
    http-request set-var(txn.unitkind) str(sticky) if {_HAS_UNIT}
    http-request set-var(txn.bucket) var(txn.salt),concat(:,txn.unit),xxh64,and(9223372036854775807),mod(10000) if {_HAS_UNIT}
    http-request set-var(txn.table) var(txn.split),field(6,|)
{_overrides(layout, state)}\
{_matches(layout, state)}"""


def _source(source: str) -> str:
    kind, _, name = source.partition(":")
    chosen = f"{{ var(txn.source) -m str {source} }}"
    if kind == "header":
        return f"    http-request set-var(txn.unit) req.fhdr({name},1) if {chosen}\n"
    if kind == "cookie":
        return f"""    http-request set-var(txn.unit) req.cook({name}) if {chosen}
    http-request set-var(txn.issued) uuid() if {chosen} !{_HAS_UNIT} !{probes.IS_PROBE}
    http-request set-var(txn.unit) var(txn.issued) if {{ var(txn.issued) -m found }}
{"".join(f"    http-request set-var(txn.secure) bool(true) if {chosen} {tls}{chr(10)}" for tls in IS_OVER_TLS)}"""
    if kind == "jwtClaim":
        # As below; of a token that was not believed, or that an API key made needless, nothing is read.
        return f"""    http-request set-var(txn.unit) var(txn.token),jwt_payload_query('$.{name}','int'),concat(,) \
if {chosen} {HAS_VALID_TOKEN}
"""
    # Only a body that is here as a whole: of a longer one, what is in the buffer depends on how it arrived.
    # As `int` a number keeps all its digits; `concat` makes it text, so that 7 and "7" are the same unit.
    return f"""    http-request set-var(txn.unit) req.body,json_query('{name}',int),concat(,) \
if {chosen} {{ req.body_len,sub(txn.size) eq 0 }} {{ req.hdr(content-length) -m found }}
"""


def arm_rules(state: StateDir) -> str:
    """Set `txn.arm` where neither an override nor a match has, or answer 503."""
    no_arm = render_refusal(
        503,
        "Service Unavailable",
        "the service is not ready yet",
        "!{ var(txn.arm) -m found }",
        " hdr Retry-After 1",
        "NotReady",
    )
    return f"""    http-request set-var(txn.number) var(txn.bucket),add(10000)
    http-request set-var(txn.arm) var(txn.table),concat(/,txn.number),map_beg({state.map("ranges")}) \
unless {{ var(txn.arm) -m found }}
{no_arm}"""


def _overrides(layout: Layout, state: StateDir) -> str:
    """`txn.client` is the name of the API key that the request was admitted by."""
    some = "{ var(txn.flags) -m sub o }"
    lines = [f"    http-request set-var(txn.network) src,map_ip({state.map('networks')}) if {some}\n"]
    for name in layout.overrides:
        wished = f"{some} {{ req.fhdr({name}) -m found }} !{{ var(txn.arm) -m found }}"
        lines.append(
            f"    http-request set-var-fmt(txn.wish) %[var(txn.table)]|{name}|%[req.fhdr({name},1)]| if {wished}\n"
        )
        lines += [
            f"    http-request set-var(txn.arm) var(txn.wish),concat({mark},txn.{variable}),map_str({state.map('overrides')}) "
            f"if {wished} {{ var(txn.{variable}) -m found }}\n"
            for mark, variable in (("n", "network"), ("k", "client"))
        ]
    return "".join(lines) if layout.overrides else ""


def _matches(layout: Layout, state: StateDir) -> str:
    """Count which of a service's headers have their value: the number of all of them leads to the arm.

    A value is looked up by its hash. So none, whatever a spec or a client has in it, is ever a part of a rule or of a map's syntax.
    """
    some, known = "{ var(txn.flags) -m sub h }", state.map("matches")
    lines = [f"    http-request set-var(txn.matched) int(0) if {some}\n"]
    for name in layout.matches:
        given = f"{some} {{ req.fhdr({name},1) -m found }}"
        lines.append(f"""    http-request set-var-fmt(txn.wish) \
%[var(txn.table)]|{name}|%[req.fhdr({name},1),sha2(256),hex,lower] if {given}
    http-request set-var(txn.matched) var(txn.matched),add(1) if {given} {{ var(txn.wish),map_str({known}) -m found }}
""")
    lines.append(
        f"    http-request set-var(txn.arm) var(txn.table),concat(|,txn.matched),map_str({known}) "
        f"if {some} !{{ var(txn.arm) -m found }}\n"
    )
    return "".join(lines) if layout.matches else ""


def response_rules() -> str:
    """What a client is told: its arm where the service reveals it, and the cookie that makes it the same unit next time."""
    revealed = "if { var(txn.flags) -m sub r } { var(txn.arm) -m found }"
    cookie = (
        f"%[var(txn.source),field(2,:)]=%[var(txn.issued)]; Path=/; Max-Age={COOKIE_MAX_AGE_S}; HttpOnly; SameSite=Lax"
    )
    issued = "{ var(txn.issued) -m found } { var(txn.arm) -m found }"
    return f"""    http-after-response set-header x-sundog-revision %[var(txn.arm),field(4,!)] {revealed}
    http-after-response set-header x-sundog-arm %[var(txn.arm),field(5,!)] {revealed}
    http-after-response add-header set-cookie "{cookie}" if {issued} !{{ var(txn.secure) -m bool }}
    http-after-response add-header set-cookie "{cookie}; Secure" if {issued} {{ var(txn.secure) -m bool }}
"""
