"""The line that HAProxy writes into the agent's pipe for every request; `sundog_edge.loglines` reads it."""

from sundog_edge.haproxy.names import BOOT_VARIABLE, LOG_VARIABLE


def rules() -> str:
    """Where lines go, and what is in them."""
    return f"""    log fd@${{{LOG_VARIABLE}}} len 2048 format raw local0
    log-format "${{{BOOT_VARIABLE}}}-%pid %[var(txn.row)] %[var(txn.number)] %ST %ts %rc %s %[var(txn.received)] \
%[var(txn.first)] %[date(0,us)] %[var(txn.outcome)] %[var(txn.service)]"
"""
