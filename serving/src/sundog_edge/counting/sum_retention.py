"""Drop the sums of revisions and services that no document has named for a day. Pure.

They are dropped, not added to a common series: that one would rise at once by all that an old revision had counted, and each rate would
show it as requests of now. A series that ends and begins again at zero is a restart, which rates leave out.
"""

import itertools

from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.rows import RowKey
from sundog_edge.split.document import SplitDocument

RETAIN_SUMS_S = 24 * 3600.0


def forget_sums(ledger: Ledger, document: SplitDocument, now: float) -> frozenset[str]:
    """Drop sums at `now`, in Unix seconds, and return the services that stay. What has rows stays, so that no series goes down."""
    past = ledger.past, ledger.past_probes, ledger.past_held
    boots = ledger.gone, *ledger.boots.values()
    counts = [counts for boot in boots for counts in (boot.refused, boot.feedback, boot.ofrep)]
    keys = [RowKey.of(key) for boot in ledger.boots.values() for key in boot.rows]
    in_rows = {*map(ledger.sum_name, keys), *(key.service for key in keys)}
    # Requests that reached no service are counted under an empty name.
    for name in {*itertools.chain(in_rows, *past, *counts)} - {""}:
        # Snapshots of older agents have no times.
        ledger.named_at.setdefault(name, now)
    for service in document.services:
        ledger.named_at[service.name] = now
        for arm in service.arms:
            ledger.named_at[f"{service.name}/{arm.revision}/{arm.name}"] = now
    expired = {name for name, at in ledger.named_at.items() if now - at >= RETAIN_SUMS_S} - in_rows
    for name in expired:
        del ledger.named_at[name]
        for sums in past:
            sums.pop(name, None)
    services = frozenset(name.partition("/")[0] for name in ledger.named_at)
    for of_kind in counts:
        for service_name in of_kind.keys() - services - {""}:
            del of_kind[service_name]
    ledger.dirty |= bool(expired)
    return services
