"""Which arm a request gets: its unit, the unit's bucket, the bucket's segment of the range table."""

from sundog_edge.document import MAX_SEGMENTS
from sundog_edge.haproxy.maps import FIRST_SEGMENT_FIELD
from sundog_edge.haproxy.problems import problem
from sundog_edge.layout import Layout


def unit(layout: Layout) -> str:
    """Set `txn.unitkind` and `txn.bucket`."""
    units = "\n".join(
        f"    http-request set-var(txn.unit) req.fhdr({name},1) if {{ var(txn.header) -m str {name} }}"
        for name in layout.headers
    )
    return f"""    http-request set-var(txn.salt) var(txn.split),field(1,|)
    http-request set-var(txn.header) var(txn.split),field(2,|)
{units}
    http-request set-var(txn.unitkind) str(anonymous)
    http-request set-var(txn.bucket) rand(10000)
    http-request set-var(txn.unitkind) str(sticky) if {{ var(txn.unit) -m len gt 0 }}
    http-request set-var(txn.bucket) var(txn.salt),concat(:,txn.unit),xxh64,and(9223372036854775807),mod(10000) \
if {{ var(txn.unit) -m len gt 0 }}
"""


def arm() -> str:
    """Set `txn.arm`, or answer 503. `allow` ends the walk over the range table at the first segment whose end is above the bucket."""
    no_arm = problem(503, "Service Unavailable", "the service is not ready yet", " hdr Retry-After 1")
    lines: list[str] = []
    for number in range(MAX_SEGMENTS):
        end = FIRST_SEGMENT_FIELD + 2 * number
        lines += [
            f"    http-request set-var(txn.arm) var(txn.split),field({end + 1},|) "
            f"if {{ var(txn.split),field({end},|),sub(txn.bucket) gt 0 }}",
            "    http-request allow if { var(txn.arm) -m found }",
        ]
    return "\n".join([*lines, f"    http-request return {no_arm}"]) + "\n"
