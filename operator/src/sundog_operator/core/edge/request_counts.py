"""Requests and errors of a service in the counters of its edges."""

from collections.abc import Iterable
from typing import Final

from sundog_operator.core.edge.reported_counts import ERRORS
from sundog_operator.core.observed import EdgeReport

ORIGIN_ASSIGNED: Final = "assigned"
ORIGIN_OVERRIDE: Final = "override"
"""Origins of requests: assigned by weight, or sent to an arm by an override or a header."""


def count_requests_and_errors(
    attempt: str, arm: str, reports: Iterable[EdgeReport], first_epoch: int = 0
) -> tuple[int, int]:
    """Return (requests, errors) that were assigned to an arm, over the epochs from `first_epoch` on and boots of the edges that answer.

    `ERRORS` lists the ends that are errors.
    """
    requests = errors = 0
    for row in (row for report in reports for row in (report.evidence or {}).get("counters", ())):
        is_own = (row.get("attempt"), row.get("arm"), row.get("origin")) == (attempt, arm, ORIGIN_ASSIGNED)
        if is_own and int(row.get("epoch", first_epoch)) >= first_epoch:
            ends = row.get("ends", {})
            requests += int(row.get("assigned", 0))
            errors += sum(int(ends.get(end, 0)) for end in ERRORS)
    return requests, errors


def count_poison_requests(attempt: str, arm: str, reports: Iterable[EdgeReport]) -> int:
    """Count an arm's requests, of every origin, that were retried on another replica and got no response from it either."""
    return sum(
        int((row.get("retries") or {}).get("poison", 0))
        for report in reports
        for row in (report.evidence or {}).get("counters", ())
        if (row.get("attempt"), row.get("arm")) == (attempt, arm)
    )
