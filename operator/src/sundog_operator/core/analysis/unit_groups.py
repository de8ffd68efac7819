"""Counts by group of units, where units stay with an arm. A unit is in the same group at every edge and in every epoch. Pure.

Each edge process counts cumulatively, and of each the highest counts that it ever reported are kept, group by group. What is in no group
is not forgotten by that: whoever weighs it takes it for requests of one unit.
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
"""The place of the requests that have no unit, after the groups."""

COLUMNS: Final = ("requests", *EVENTS)
ANONYMOUS: Final = "anonymous"
DEPARTED_SOURCE: Final = "gone"
MAX_SOURCES: Final = 8
"""Whose groups are kept apart: each takes some kilobytes of a status."""

GroupCounts = tuple[tuple[int, ...], ...]
"""Of each of `COLUMNS`, the counts of each group and of requests without a unit. Of groups requests count once they have ended."""

EpochArm = tuple[int, str]
"""Epoch and arm."""

GroupsBySource = Mapping[str, Mapping[EpochArm, GroupCounts]]
"""By process of an edge."""

ZERO_GROUPS: Final[GroupCounts] = ((0,) * (GROUPS + 1),) * len(COLUMNS)


def add_groups(first: GroupCounts, second: GroupCounts) -> GroupCounts:
    """Both together."""
    return tuple(tuple(map(sum, zip(a, b, strict=True))) for a, b in zip(first, second, strict=True))


def _highest(first: GroupCounts, second: GroupCounts) -> GroupCounts:
    return tuple(tuple(map(max, a, b)) for a, b in zip(first, second, strict=True))


def group_columns(evidence: Mapping[str, Any] | None) -> Mapping[str, int]:
    """The columns of the groups in an edge's document; empty where it has none."""
    try:
        return column_indexes((evidence or {})["groups"]["columns"])
    except PARSE_ERRORS:
        return {}


def parse_row(row: Mapping[str, Any], at: Mapping[str, int]) -> GroupCounts:
    """The counts in an edge's row; what it raises is `DAMAGED`."""
    if row["unit"] == ANONYMOUS:
        errors, rejections = count_errors_and_rejections(row.get("ends", {}))
        slow, *further = (parse_count(row.get(name, 0), MAX_COUNT) for name in SLOW)
        told = (
            parse_count(row["assigned"], MAX_COUNT),
            errors,
            slow,
            rejections,
            parse_failed_first_attempts(row),
            *further,
        )
        return tuple((0,) * GROUPS + (each,) for each in told)
    found = [[0] * (GROUPS + 1) for _ in COLUMNS]
    for counts in list_or_empty(row["groups"]):
        group = parse_count(counts[at["group"]], GROUPS)
        errors, rejections = count_errors_and_rejections({name: counts[at[name]] for name in (*ERRORS, *REJECTIONS)})
        requests = parse_count(counts[at["ok"]], MAX_COUNT) + errors + rejections
        # An edge of a version before does not tell all of them: what it does not is of no group then.
        retried, *further = (
            parse_count(counts[at[name]], MAX_COUNT) if name in at else 0 for name in (FIRST_ATTEMPT_FAILED, *SLOW[1:])
        )
        told = (requests, errors, parse_count(counts[at["slow"]], MAX_COUNT), rejections, retried, *further)
        for column, each in zip(found, told, strict=True):
            column[group] = each
    return tuple(map(tuple, found))


def update_groups(known: GroupsBySource, told: GroupsBySource, present: Collection[str]) -> GroupsBySource:
    """The highest of what is known and what is told. `present` are the processes that may be heard of again.

    Those that are gone are kept as one where there are many; those that are too many even so are not kept by group.
    """
    found = {source: dict(rows) for source, rows in known.items()}
    if len({*found, *told}) > MAX_SOURCES:
        for source in sorted(found.keys() - set(present) - {DEPARTED_SOURCE}):
            gone = found.setdefault(DEPARTED_SOURCE, {})
            for key, own in found.pop(source).items():
                gone[key] = add_groups(gone.get(key, ZERO_GROUPS), own)
    for source in sorted(told):
        if source in found or len(found) < MAX_SOURCES:
            rows = found.setdefault(source, {})
            rows.update({key: _highest(rows.get(key, ZERO_GROUPS), own) for key, own in told[source].items()})
    return found


def sum_groups(sources: GroupsBySource, epoch: int, arm: str) -> GroupCounts:
    """An arm's counts in an epoch, over all processes."""
    total = ZERO_GROUPS
    for rows in sources.values():
        total = add_groups(total, rows.get((epoch, arm), ZERO_GROUPS))
    return total


def as_json(sources: GroupsBySource) -> dict[str, Any]:
    """As plain JSON: columns of further latencies only where something was counted, as operators of before there were any have it."""
    used = (place for rows in sources.values() for own in rows.values() for place, each in enumerate(own) if any(each))
    columns = 1 + max(SINGLE_LATENCY_EVENT_COUNT, max(used, default=0))
    return {
        source: {f"{epoch}/{arm}": list(map(list, own[:columns])) for (epoch, arm), own in sorted(rows.items())}
        for source, rows in sorted(sources.items())
    }


def from_json(stored: Any) -> GroupsBySource:
    """What `as_json` gave; nothing where that is missing or damaged."""
    try:
        return {source: dict(_stored(rows.items())) for source, rows in stored.items()}
    except PARSE_ERRORS:
        return {}


def _stored(rows: Iterable[tuple[str, Any]]) -> Iterable[tuple[EpochArm, GroupCounts]]:
    for key, columns in rows:
        epoch, _, arm = key.partition("/")
        own = tuple(tuple(map(parse_count, column)) for column in columns)
        if not SINGLE_LATENCY_EVENT_COUNT < len(own) <= len(COLUMNS) or {*map(len, own)} != {GROUPS + 1}:
            raise ValueError(f"{key} has no {len(COLUMNS)} columns of {GROUPS + 1} counts")
        yield (int(epoch), arm), (*own, *ZERO_GROUPS[len(own) :])
