"""The client's address: of the connection, or behind a trusted proxy the one that X-Forwarded-For names.

Rules for limits, rates and overrides read `src`, so these rules set it. HAProxy sets it for one request, not for its connection.
"""

from typing import Final

from sundog_edge import headers
from sundog_edge.state_dir import HaproxyProcessSettings

MAX_HOPS: Final = 8
"""Trusted proxies in a row. HAProxy finds at most ten entries from the end of a header."""


def is_trusted(settings: HaproxyProcessSettings) -> str:
    """Return the condition for the address of a trusted proxy. There has to be one."""
    return f"{{ src {settings.trusted_proxies} }}"


def rules(settings: HaproxyProcessSettings) -> str:
    """Return rules that set `src`. They read X-Forwarded-For from its end, as long as the address so far is a trusted proxy's.

    Each proxy appends the address of its own client, so entries before one that no trusted proxy wrote may be forged. An entry that is
    no address ends the search. A worker whose predecessor forwards a request finds the same address again.
    """
    if not settings.trusted_proxies:
        return ""
    lines = ["    tcp-request content set-var(txn.hops) int(0)\n"]
    for hop in range(1, MAX_HOPS + 1):
        entry = f"req.hdr_ip({headers.X_FORWARDED_FOR},-{hop})"
        is_next = f"{{ var(txn.hops) -m int {hop - 1} }} {is_trusted(settings)} {{ {entry} -m found }}"
        lines.append(f"""    tcp-request content set-var(txn.hops) int({hop}) if {is_next}
    tcp-request content set-src {entry} if {{ var(txn.hops) -m int {hop} }}
""")
    return "".join(lines)


def header_rule() -> str:
    """Return the rule by which replicas see this address alone, whatever the client sent."""
    return f"    http-request set-header {headers.X_FORWARDED_FOR} %[src]\n"
