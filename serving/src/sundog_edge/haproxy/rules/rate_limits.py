"""How often a service may be called: by one client, and by all. Counted are requests that are let in; a limit holds per edge."""

from sundog_edge.haproxy.names import CLIENT_ADDRESS
from sundog_edge.haproxy.problems import render_refusal

PERIODS_S = (1, 60, 3600)
_CLIENTS = 100_000
_POLICY = "{ var(txn.policy) -m found }"


def tables() -> str:
    """One table for each length of time: HAProxy knows a rate over one fixed period of a table."""
    return "\n".join(
        f"backend rate{seconds} from base\n"
        f"    stick-table type string len 160 size {_CLIENTS} expire {2 * seconds}s store gpc0,gpc0_rate({seconds}s)\n"
        for seconds in PERIODS_S
    )


def rules() -> str:
    """Refuse what comes too often. A client is its API key, its token's subject, or else its address (of IPv6 the first 64 bits)."""
    return f"""    http-request set-var(txn.caller) {CLIENT_ADDRESS},concat() if {_POLICY} !{{ var(txn.caller) -m found }}
    http-request set-var(txn.ratekey) var(txn.name),concat(/,txn.caller) if {_POLICY}
{_limit(3, "txn.ratekey", "client", 5)}\
{_limit(4, "txn.name", "total", 8)}\
    http-request sc-inc-gpc0(3) if {_POLICY}
    http-request sc-inc-gpc0(4) if {_POLICY}
"""


def _limit(counter: int, key: str, what: str, field: int) -> str:
    slow = render_refusal(
        429,
        "Too Many Requests",
        "this client calls too often" if what == "client" else "this service is called too often",
        f"{_POLICY} {{ var(txn.{what}limit) -m len gt 0 }} {{ sc_gpc0_rate({counter}),sub(txn.{what}limit) ge 0 }}",
        f' hdr Retry-After "%[var(txn.policy),field({field + 2},|)]"',
    )
    tracks = "".join(
        f"    http-request track-sc{counter} var({key}) table rate{seconds} "
        f"if {_POLICY} {{ var(txn.policy),field({field + 1},|) -m str {seconds} }}\n"
        for seconds in PERIODS_S
    )
    return f"""{tracks}\
    http-request set-var(txn.{what}limit) var(txn.policy),field({field},|) if {_POLICY}
{slow}"""
