"""Counts by unit group, for sticky units. A unit is in the same group at every edge and in every epoch. Pure.

Each edge process counts cumulatively. For each process, the highest reported counts are kept, group by group. Requests without a known
group are not lost: the evaluation takes them for requests of one unit.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from sundog_operator.core.edge.reported_counts import (
    ERRORS,
    EVENTS,
    FIRST_ATTEMPT_FAILED,
    MAX_COUNT,
    PARSE_ERRORS,
    REJECTIONS,
    SINGLE_LATENCY_EVENT_COUNT,
    SLOW,
    column_indexes,
    count_errors_and_rejections,
    list_or_empty,
    parse_count,
    parse_failed_first_attempts,
)

GROUPS: Final = 100
WITHOUT_UNIT: Final = GROUPS
"""Index of the requests without unit, after the groups."""

COLUMNS: Final = ("requests", *EVENTS)
ANONYMOUS: Final = "anonymous"
DEPARTED_SOURCE: Final = "gone"
MAX_SOURCES: Final = 8
"""Limit of sources whose groups are kept apart: each takes some kilobytes of a status."""

GroupCounts = tuple[tuple[int, ...], ...]
"""For each of `COLUMNS`, the counts of each group and of requests without unit. Requests in groups count once they have ended."""

EpochArm = tuple[int, str]
"""Epoch and arm."""

GroupsBySource = Mapping[str, Mapping[EpochArm, GroupCounts]]
"""Counts by edge process."""

ZERO_GROUPS: Final[GroupCounts] = ((0,) * (GROUPS + 1),) * len(COLUMNS)


def add_groups(first: GroupCounts, second: GroupCounts) -> GroupCounts:
    """Return the sum of both."""
    return tuple(tuple(map(sum, zip(a, b, strict=True))) for a, b in zip(first, second, strict=True))


def _highest(first: GroupCounts, second: GroupCounts) -> GroupCounts:
    return tuple(tuple(map(max, a, b)) for a, b in zip(first, second, strict=True))


def group_columns(evidence: Mapping[str, Any] | None) -> Mapping[str, int]:
    """Return the columns of the groups in an edge's document; {} if it has none."""
    try:
        return column_indexes((evidence or {})["groups"]["columns"])
    except PARSE_ERRORS:
        return {}


def parse_row(row: Mapping[str, Any], at: Mapping[str, int]) -> GroupCounts:
    """Return the counts in an edge's row. Raises `PARSE_ERRORS`."""
    if row["unit"] == ANONYMOUS:
        errors, rejections = count_errors_and_rejections(row.get("ends", {}))
        slow, *further = (parse_count(row.get(name, 0), MAX_COUNT) for name in SLOW)
        counts = (
            parse_count(row["assigned"], MAX_COUNT),
            errors,
            slow,
            rejections,
            parse_failed_first_attempts(row),
            *further,
        )
        return tuple((0,) * GROUPS + (each,) for each in counts)
    found = [[0] * (GROUPS + 1) for _ in COLUMNS]
    for reported in list_or_empty(row["groups"]):
        group = parse_count(reported[at["group"]], GROUPS)
        errors, rejections = count_errors_and_rejections({name: reported[at[name]] for name in (*ERRORS, *REJECTIONS)})
        requests = parse_count(reported[at["ok"]], MAX_COUNT) + errors + rejections
        # An older edge does not report all of them: the missing ones have no group then.
        retried, *further = (
            parse_count(reported[at[name]], MAX_COUNT) if name in at else 0
            for name in (FIRST_ATTEMPT_FAILED, *SLOW[1:])
        )
        counts = (requests, errors, parse_count(reported[at["slow"]], MAX_COUNT), rejections, retried, *further)
        for column, each in zip(found, counts, strict=True):
            column[group] = each
    return tuple(map(tuple, found))


def update_groups(known: GroupsBySource, reported: GroupsBySource, present: Collection[str]) -> GroupsBySource:
    """Merge known and reported counts, taking the highest. `present` are the processes that may report again.

    Departed processes are merged if there are many. Processes beyond the limit are not kept by group.
    """
    found = {source: dict(rows) for source, rows in known.items()}
    if len({*found, *reported}) > MAX_SOURCES:
        for source in sorted(found.keys() - set(present) - {DEPARTED_SOURCE}):
            gone = found.setdefault(DEPARTED_SOURCE, {})
            for key, own in found.pop(source).items():
                gone[key] = add_groups(gone.get(key, ZERO_GROUPS), own)
    for source in sorted(reported):
        if source in found or len(found) < MAX_SOURCES:
            rows = found.setdefault(source, {})
            rows.update({key: _highest(rows.get(key, ZERO_GROUPS), own) for key, own in reported[source].items()})
    return found


def sum_groups(sources: GroupsBySource, epoch: int, arm: str) -> GroupCounts:
    """Return an arm's counts in an epoch, over all processes."""
    total = ZERO_GROUPS
    for rows in sources.values():
        total = add_groups(total, rows.get((epoch, arm), ZERO_GROUPS))
    return total


def as_json(sources: GroupsBySource) -> dict[str, Any]:
    """Return plain JSON. Columns of further latencies are left out if nothing was counted, as older operators expect."""
    used = (place for rows in sources.values() for own in rows.values() for place, each in enumerate(own) if any(each))
    columns = 1 + max(SINGLE_LATENCY_EVENT_COUNT, max(used, default=0))
    return {
        source: {f"{epoch}/{arm}": list(map(list, own[:columns])) for (epoch, arm), own in sorted(rows.items())}
        for source, rows in sorted(sources.items())
    }


def from_json(stored: Any) -> GroupsBySource:
    """Return the counts from `as_json`; {} if it is missing or damaged."""
    try:
        return {source: dict(_stored(rows.items())) for source, rows in stored.items()}
    except PARSE_ERRORS:
        return {}


def _stored(rows: Iterable[tuple[str, Any]]) -> Iterable[tuple[EpochArm, GroupCounts]]:
    for key, columns in rows:
        epoch, _, arm = key.partition("/")
        own = tuple(tuple(map(parse_count, column)) for column in columns)
        if not SINGLE_LATENCY_EVENT_COUNT < len(own) <= len(COLUMNS) or {*map(len, own)} != {GROUPS + 1}:
            raise ValueError(f"{key}: expected {len(COLUMNS)} columns of {GROUPS + 1} counts")
        yield (int(epoch), arm), (*own, *ZERO_GROUPS[len(own) :])
