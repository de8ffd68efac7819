"""Whether edges have put a split in force, and which replicas they know."""

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
        waiting: (pod, why) of each edge that has not confirmed.
    """

    confirmed: bool
    waiting: tuple[tuple[str, str], ...]


def confirm(service: str, split: Split, reports: Sequence[EdgeReport]) -> Confirmation:
    """Read back a split from the edges. No edge at all confirms nothing."""
    asked = [report for report in reports if report.ready or report.terminating]
    if not asked:
        waiting = tuple((report.pod, _not_ready(report)) for report in reports)
        return Confirmation(False, waiting or (("no edge", "not ready"),))
    waiting = tuple(
        (report.pod, why + _problem(report)) for report in asked if (why := _not_in_force(service, split, report))
    )
    return Confirmation(not waiting, waiting)


def _not_ready(report: EdgeReport) -> str:
    return f"not ready: {report.unready}" if report.unready else "not ready"


def _problem(report: EdgeReport) -> str:
    """Why an edge that answers does not have the newest document in force, as it says itself."""
    error = ((report.evidence or {}).get("document") or {}).get("error")
    return f" ({error})" if error else ""


def _not_in_force(service: str, split: Split, report: EdgeReport) -> str:
    found = _service(service, report)
    if found is None:
        return report.error or f"does not know service {service}"
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
    # An edge of before there were headers tells of none, and sends nothing by them.
    if found.get("match") == (make_match(split) if split.headers else None):
        return ""
    asked = " and ".join(each.name for each in split.headers)
    return f"does not send requests by {asked} to {names.CANARY}" if asked else "still sends requests by header"


def find_edge_problems(service: str, reports: Iterable[EdgeReport]) -> list[tuple[str, str]]:
    """(pod, what it lacks) for each thing that an edge cannot do for a service, as with a certificate that cannot be read."""
    return [
        (report.pod, str(problem))
        for report in reports
        for problem in (_service(service, report) or {}).get("problems") or ()
    ]


def healthy_replicas(service: str, revision: int, reports: Iterable[EdgeReport]) -> int:
    """The smallest number of healthy replicas of a revision that all ready edges are sure of: nothing from one that tells nothing.

    For what more traffic may follow from. 0 without a ready edge.
    """
    application = names.application(service, revision)
    counts = [_up(service, application, report) or 0 for report in reports if report.ready and not report.terminating]
    return min(counts, default=0)


def reported_replicas(service: str, revision: int, reports: Sequence[EdgeReport]) -> int | None:
    """The smallest number of healthy replicas of a revision that any ready edge tells; None where there are edges and none tells.

    For what may be taken away because of it: an edge that does not answer, or has just started, knows neither of health nor of death.
    """
    application = names.application(service, revision)
    told = [_up(service, application, report) for report in reports if report.ready and not report.terminating]
    return min((count for count in told if count is not None), default=None if reports else 0)


def _up(service: str, application: str, report: EdgeReport) -> int | None:
    """None of an edge that tells nothing of the application's replicas."""
    arms = (_service(service, report) or {}).get("arms", {}).values()
    # Two arms may have one application, and each tells of all its replicas.
    counts = [
        int(arm["servers"].get("up", 0)) for arm in arms if arm.get("application") == application and "servers" in arm
    ]
    return max(counts, default=None)


def count_in_flight(service: str, revision: int, reports: Iterable[EdgeReport]) -> int:
    """Requests in flight to a revision over all edges that answer, ready or not."""
    application = names.application(service, revision)
    return sum(int((_service(service, report) or {}).get("inFlight", {}).get(application, 0)) for report in reports)


def _service(service: str, report: EdgeReport) -> Mapping[str, Any] | None:
    found = (report.evidence or {}).get("services", {}).get(service)
    return found if isinstance(found, Mapping) else None
