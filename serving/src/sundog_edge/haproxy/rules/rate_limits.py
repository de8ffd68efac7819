"""Rate limits of a service: per client, and over all clients. Only admitted requests count; a limit applies per edge."""

from sundog_edge import headers
from sundog_edge.haproxy.names import CLIENT_ADDRESS, HAS_POLICY
from sundog_edge.haproxy.problems import render_refusal

PERIODS_S = (1, 60, 3600)
_CLIENTS = 100_000


def tables() -> str:
    """Return one table for each period: a table of HAProxy has one fixed period."""
    return "\n".join(
        f"backend rate{seconds} from base\n"
        f"    stick-table type string len 160 size {_CLIENTS} expire {2 * seconds}s store gpc0,gpc0_rate({seconds}s)\n"
        for seconds in PERIODS_S
    )


def rules() -> str:
    """Return rules that refuse requests above a rate.

    A client is an API key, a token's subject, or an address (IPv6: the first 64 bits).
    """
    return f"""    http-request set-var(txn.caller) {CLIENT_ADDRESS},concat() if {HAS_POLICY} !{{ var(txn.caller) -m found }}
    http-request set-var(txn.ratekey) var(txn.name),concat(/,txn.caller) if {HAS_POLICY}
{_limit(3, "txn.ratekey", "client", 5)}\
{_limit(4, "txn.name", "total", 8)}\
    http-request sc-inc-gpc0(3) if {HAS_POLICY}
    http-request sc-inc-gpc0(4) if {HAS_POLICY}
"""


def _limit(counter: int, key: str, what: str, field: int) -> str:
    too_often = render_refusal(
        429,
        "Too Many Requests",
        "this client calls too often" if what == "client" else "this service is called too often",
        f"{HAS_POLICY} {{ var(txn.{what}limit) -m len gt 0 }} {{ sc_gpc0_rate({counter}),sub(txn.{what}limit) ge 0 }}",
        f' hdr {headers.RETRY_AFTER} "%[var(txn.policy),field({field + 2},|)]"',
    )
    tracks = "".join(
        f"    http-request track-sc{counter} var({key}) table rate{seconds} "
        f"if {HAS_POLICY} {{ var(txn.policy),field({field + 1},|) -m str {seconds} }}\n"
        for seconds in PERIODS_S
    )
    return f"""{tracks}\
    http-request set-var(txn.{what}limit) var(txn.policy),field({field},|) if {HAS_POLICY}
{too_often}"""
