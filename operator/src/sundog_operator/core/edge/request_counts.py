"""Requests and errors of a service, as edges count them."""

from collections.abc import Iterable
from typing import Final

from sundog_operator.core.edge.reported_counts import ERRORS
from sundog_operator.core.observed import EdgeReport

ORIGIN_ASSIGNED: Final = "assigned"
ORIGIN_OVERRIDE: Final = "override"
"""The origins of requests: by the weights, or by what the request itself has."""


def count_requests_and_errors(
    attempt: str, arm: str, reports: Iterable[EdgeReport], *, forced: bool = False
) -> tuple[int, int]:
    """(requests, errors) of an arm over all epochs and boots of the edges that answer.

    Those that were assigned to it, or, with `forced`, those that its headers sent there. Errors are the ends of `ERRORS`.
    """
    origin = ORIGIN_OVERRIDE if forced else ORIGIN_ASSIGNED
    requests = errors = 0
    for row in (row for report in reports for row in (report.evidence or {}).get("counters", ())):
        if (row.get("attempt"), row.get("arm"), row.get("origin")) == (attempt, arm, origin):
            ends = row.get("ends", {})
            requests += int(row.get("assigned", 0))
            errors += sum(int(ends.get(end, 0)) for end in ERRORS)
    return requests, errors


def count_poison_requests(attempt: str, arm: str, reports: Iterable[EdgeReport]) -> int:
    """Requests of an arm, whatever led them there, that were retried and then got no answer of that replica either."""
    return sum(
        int((row.get("retries") or {}).get("poison", 0))
        for report in reports
        for row in (report.evidence or {}).get("counters", ())
        if (row.get("attempt"), row.get("arm")) == (attempt, arm)
    )
