"""Check in the edges' reports that a split is in force, and count replicas and requests in flight."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sundog_operator.core.edge.split import Split
from sundog_operator.core.edge.split_document import SLOW_THRESHOLD_FIELDS, make_match
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Whether every ready or terminating edge has a split in force.

    Attributes:
        waiting: (pod, reason) of each edge that has not confirmed.
    """

    confirmed: bool
    waiting: tuple[tuple[str, str], ...]


def confirm(service: str, split: Split, reports: Sequence[EdgeReport], entry_hash: str = "") -> Confirmation:
    """Check that every ready or terminating edge has a split in force. Without such an edge nothing is confirmed.

    With `entry_hash`, edges must have the whole entry with this hash in force. Decisions about traffic need the split alone.
    """
    serving = [report for report in reports if report.ready or report.terminating]
    if not serving:
        waiting = tuple((report.pod, _explain_not_ready(report)) for report in reports)
        return Confirmation(False, waiting or (("no edge", "not ready"),))
    waiting = tuple(
        (report.pod, difference + _document_error(report))
        for report in serving
        if (difference := _find_difference(service, split, report) or _find_other_entry(service, entry_hash, report))
    )
    return Confirmation(not waiting, waiting)


def _explain_not_ready(report: EdgeReport) -> str:
    return f"not ready: {report.unready}" if report.unready else "not ready"


def _document_error(report: EdgeReport) -> str:
    """Return the error that an edge reports about the newest document, in parentheses; empty without one."""
    error = find_document_error(report)
    return f" ({error})" if error else ""


def find_document_error(report: EdgeReport) -> str:
    """Return the error that an edge reports about the newest document; empty without one."""
    return str(((report.evidence or {}).get("document") or {}).get("error") or "")


def _find_other_entry(service: str, entry_hash: str, report: EdgeReport) -> str:
    """Return how an edge's entry differs from the one with this hash; empty where it does not, or where nothing shows that it does."""
    found = (_find_service(service, report) or {}).get("hash")
    if not entry_hash or found == entry_hash:
        return ""
    if found is not None:
        return "has older settings"
    # Edges of earlier releases report no hash.
    return "cannot apply the newest document" if find_document_error(report) else ""


def _find_difference(service: str, split: Split, report: EdgeReport) -> str:
    """Return how an edge's split differs from the wanted one; empty where it does not."""
    found = _find_service(service, report)
    if found is None:
        return report.error or f"does not report service {service}"
    if (found.get("attempt"), found.get("epoch")) != (split.attempt, split.epoch):
        return f"has attempt {found.get('attempt')} epoch {found.get('epoch')}, expected {split.attempt} epoch {split.epoch}"
    arms = {
        name: (arm.get("application"), arm.get("weight"), tuple(arm.get(each) for each in SLOW_THRESHOLD_FIELDS))
        for name, arm in found.get("arms", {}).items()
    }
    none = (None,) * len(SLOW_THRESHOLD_FIELDS)
    wanted = {
        arm.name: (
            names.application(service, arm.revision),
            arm.weight,
            (*arm.slow_us, *none)[: len(SLOW_THRESHOLD_FIELDS)],
        )
        for arm in split.arms
    }
    if arms != wanted:
        return f"has arms {arms}, expected {wanted}"
    # Older edges do not know `match`: they report none and send no requests by header.
    if found.get("match") == (make_match(split) if split.headers else None):
        return ""
    headers = " and ".join(each.name for each in split.headers)
    return f"does not send requests with {headers} to {names.CANARY}" if headers else "still sends requests by header"


def find_edge_problems(service: str, reports: Iterable[EdgeReport]) -> list[tuple[str, str]]:
    """Return (pod, problem) for each problem that an edge reports about a service, such as an unreadable certificate."""
    return [
        (report.pod, str(problem))
        for report in reports
        for problem in (_find_service(service, report) or {}).get("problems") or ()
    ]


def refuses_every_caller(service: str, reports: Iterable[EdgeReport]) -> bool:
    """Return whether every ready edge requires a credential for a service and has none. Edges of earlier releases do not report it."""
    serving = [_find_service(service, report) or {} for report in reports if report.ready and not report.terminating]
    return bool(serving) and all(found.get("hasCredentials") is False for found in serving)


def healthy_replicas(service: str, revision: int, reports: Iterable[EdgeReport]) -> int:
    """Return the smallest number of a revision's healthy replicas over all ready edges. An edge without a count counts as 0.

    Use it before traffic rises. Returns 0 without a ready edge.
    """
    application = names.application(service, revision)
    counts = [
        _count_healthy(service, application, report) or 0
        for report in reports
        if report.ready and not report.terminating
    ]
    return min(counts, default=0)


def reported_replicas(service: str, revision: int, reports: Sequence[EdgeReport]) -> int | None:
    """Return the smallest number of a revision's healthy replicas that a ready edge reports.

    Use it before something is taken away. An edge that does not answer or has just started is no evidence that replicas are unhealthy, so
    edges without a count are ignored. Returns None where there are edges but none reports a count, and 0 where there are no edges.
    """
    application = names.application(service, revision)
    counts = [
        _count_healthy(service, application, report) for report in reports if report.ready and not report.terminating
    ]
    return min((count for count in counts if count is not None), default=None if reports else 0)


def _count_healthy(service: str, application: str, report: EdgeReport) -> int | None:
    """Return an application's healthy replicas as an edge reports them; None where it reports none of its servers."""
    arms = (_find_service(service, report) or {}).get("arms", {}).values()
    # Two arms may share an application, and each reports all of its replicas.
    counts = [
        int(arm["servers"].get("up", 0)) for arm in arms if arm.get("application") == application and "servers" in arm
    ]
    return max(counts, default=None)


def count_in_flight(service: str, revision: int, reports: Iterable[EdgeReport]) -> int | None:
    """Count the requests in flight to a revision over all edges that answer, ready or not; None if one that may have requests cannot know.

    An edge leaves `inFlight` out while its HAProxy cannot be asked. Older edges report 0 then. One that is neither ready nor terminating
    gets no requests, so the others count without it.
    """
    application, total = names.application(service, revision), 0
    for report in reports:
        own = _find_service(service, report)
        in_flight = own.get("inFlight") if own is not None else {}
        if in_flight is None and (report.ready or report.terminating):
            return None
        total += int((in_flight or {}).get(application, 0))
    return total


def _find_service(service: str, report: EdgeReport) -> Mapping[str, Any] | None:
    found = (report.evidence or {}).get("services", {}).get(service)
    return found if isinstance(found, Mapping) else None
