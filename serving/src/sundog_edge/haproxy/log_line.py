"""The log line that HAProxy writes into the agent's pipe for every request. `sundog_edge.counting.log_lines` parses it."""

from sundog_edge.haproxy.names import BOOT_VARIABLE, LOG_VARIABLE

# Fields that many requests share come first: the agent parses that part only once.
_SHARED = (
    f"${{{BOOT_VARIABLE}}}-%pid",
    "%[var(txn.row)]",
    "%[var(txn.service)]",
    "%[var(txn.refused)]",
    "%ST",
    "%ts",
    "%rc",
    "%s",
    "%[var(txn.outcome)]",
    "%[var(txn.arm),field(6,!)]",
    "%[var(txn.received),div(10000000)]",
)
_PER_REQUEST = (
    "%[var(txn.count)]",
    "%[var(txn.ttfb)]",
    "%[date(0,us),sub(txn.received)]",
    "%[var(txn.size)]",
    "%[var(txn.unit),xxh64]",
    "%[str(g:),concat(,txn.salt),concat(,txn.unit),xxh64,and(9223372036854775807),mod(100)]",
    "%[var(txn.received)]",
)


def render_log_format() -> str:
    """Return the target and the format of log lines."""
    return f"""    log fd@${{{LOG_VARIABLE}}} len 2048 format raw local0
    log-format "{" ".join((*_SHARED, *_PER_REQUEST))}"
"""
