"""Rows of the edges' reports: assigned requests, counts by unit group, and edges that do not report them. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sundog_operator.core.analysis import unit_groups
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.unit_groups import GroupCounts
from sundog_operator.core.edge.reported_counts import (
    MAX_COUNT,
    PARSE_ERRORS,
    SLOW,
    count_errors_and_rejections,
    list_or_empty,
    parse_count,
    parse_failed_first_attempts,
)
from sundog_operator.core.edge.request_counts import ORIGIN_ASSIGNED
from sundog_operator.core.observed import EdgeReport


def reported_attempts(service: str, reports: Iterable[EdgeReport]) -> set[str]:
    """Return the attempts of a service that the edges report."""
    rows = (row for report in reports for row in list_or_empty((report.evidence or {}).get("counters")))
    return {str(row.get("attempt")) for row in rows if isinstance(row, Mapping) and row.get("service") == service}


def find_silent_sources(sources: Iterable[str], reports: Iterable[EdgeReport]) -> set[str]:
    """Return the sources of edges that do not answer now, and may report again."""
    silent = {report.pod for report in reports if report.evidence is None}
    return {source for source in sources if source.partition("/")[0] in silent}


def assigned_rows(attempt: str, reports: Iterable[EdgeReport]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (source, row) of each row of assigned requests of an attempt; skip entries that are not rows."""
    return rows_of_origin(attempt, reports, ORIGIN_ASSIGNED)


def rows_of_origin(attempt: str, reports: Iterable[EdgeReport], origin: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (source, row) of each row of an attempt and an origin; skip entries that are not rows."""
    for report in reports:
        for row in list_or_empty((report.evidence or {}).get("counters")):
            if isinstance(row, Mapping) and row.get("attempt") == attempt and row.get("origin") == origin:
                yield f"{report.pod}/{row.get('boot')}", row


def parse_key(row: Mapping[str, Any]) -> tuple[int, str]:
    """Return (epoch, arm) of a row. Raises `PARSE_ERRORS`."""
    arm = row["arm"]
    if not isinstance(arm, str):
        raise TypeError(f"{arm!r} is not an arm name")
    return parse_count(row["epoch"]), arm


def parse_arm_counts(row: Mapping[str, Any]) -> ArmCounts:
    """Return the counts in a row. Raises `PARSE_ERRORS`."""

    def of(name: str) -> int:
        return parse_count(row.get(name, 0), MAX_COUNT)

    errors, rejections = count_errors_and_rejections(row.get("ends", {}))
    return ArmCounts(
        assigned=of("assigned"),
        errors=errors,
        slow=of("slow"),
        rejections=rejections,
        retried=parse_failed_first_attempts(row),
        lost=of("lost"),
        running=of("inFlight"),
        **{name: of(name) for name in SLOW[1:]},
    )


def collect_groups(attempt: str, reports: Iterable[EdgeReport]) -> unit_groups.GroupsBySource:
    """Return the counts by unit group in the reports. Skip rows that cannot be parsed."""
    found: dict[str, dict[tuple[int, str], GroupCounts]] = {}
    for report in reports:
        at = unit_groups.group_columns(report.evidence)
        for source, row in assigned_rows(attempt, (report,) if at else ()):
            try:
                key, own = parse_key(row), unit_groups.parse_row(row, at)
            except PARSE_ERRORS:
                continue
            rows = found.setdefault(source, {})
            rows[key] = unit_groups.add_groups(rows.get(key, unit_groups.ZERO_GROUPS), own)
    return found


def find_edges_without_groups(attempt: str, reports: Iterable[EdgeReport]) -> list[str]:
    """Return the pods of edges that count requests of an attempt, but not by unit group."""
    return sorted(
        {
            source.partition("/")[0]
            for report in reports
            if not unit_groups.group_columns(report.evidence)
            for source, _ in assigned_rows(attempt, (report,))
        }
    )


def find_edges_without_latencies(attempt: str, reports: Iterable[EdgeReport], latencies: int) -> list[str]:
    """Return the pods of edges that count requests of an attempt, but not the slow answers of so many latencies."""
    wanted = SLOW[:latencies]
    return sorted(
        {
            source.partition("/")[0]
            for source, row in assigned_rows(attempt, reports)
            if any(name not in row for name in wanted[1:])
        }
    )
