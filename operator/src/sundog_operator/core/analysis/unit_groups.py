"""Counts by group of units, where units stay with an arm. A unit is in the same group at every edge and in every epoch. Pure.

Each edge process counts cumulatively, and of each the highest counts that it ever reported are kept, group by group. What is in no group
is not forgotten by that: whoever weighs it takes it for requests of one unit.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from sundog_operator.core.edge.reported_counts import (
    DAMAGED,
    ERRORS,
    EVENTS,
    EVENTS_OF_ONE_LATENCY,
    FIRST_ATTEMPT,
    MOST,
    REJECTIONS,
    SLOW,
    count,
    failed_and_refused,
    first_attempts,
    listed,
    places,
)

GROUPS: Final = 100
ALONE: Final = GROUPS
"""The place of the requests that have no unit, after the groups."""

COLUMNS: Final = ("requests", *EVENTS)
ANONYMOUS: Final = "anonymous"
GONE: Final = "gone"
MOST_SOURCES: Final = 8
"""Whose groups are kept apart: each takes some kilobytes of a status."""

Grouped = tuple[tuple[int, ...], ...]
"""Of each of `COLUMNS`, the counts of each group and of requests without a unit. Of groups requests count once they have ended."""

Key = tuple[int, str]
"""Epoch and arm."""

Sources = Mapping[str, Mapping[Key, Grouped]]
"""By process of an edge."""

NOTHING: Final[Grouped] = ((0,) * (GROUPS + 1),) * len(COLUMNS)


def plus(first: Grouped, second: Grouped) -> Grouped:
    """Both together."""
    return tuple(tuple(map(sum, zip(a, b, strict=True))) for a, b in zip(first, second, strict=True))


def _highest(first: Grouped, second: Grouped) -> Grouped:
    return tuple(tuple(map(max, a, b)) for a, b in zip(first, second, strict=True))


def columns_of(evidence: Mapping[str, Any] | None) -> Mapping[str, int]:
    """The columns of the groups in an edge's document; empty where it has none."""
    try:
        return places((evidence or {})["groups"]["columns"])
    except DAMAGED:
        return {}


def of_row(row: Mapping[str, Any], at: Mapping[str, int]) -> Grouped:
    """The counts in an edge's row; what it raises is `DAMAGED`."""
    if row["unit"] == ANONYMOUS:
        errors, rejections = failed_and_refused(row.get("ends", {}))
        slow, *further = (count(row.get(name, 0), MOST) for name in SLOW)
        told = (count(row["assigned"], MOST), errors, slow, rejections, first_attempts(row), *further)
        return tuple((0,) * GROUPS + (each,) for each in told)
    found = [[0] * (GROUPS + 1) for _ in COLUMNS]
    for counts in listed(row["groups"]):
        group = count(counts[at["group"]], GROUPS)
        errors, rejections = failed_and_refused({name: counts[at[name]] for name in (*ERRORS, *REJECTIONS)})
        requests = count(counts[at["ok"]], MOST) + errors + rejections
        # An edge of a version before does not tell all of them: what it does not is of no group then.
        retried, *further = (count(counts[at[name]], MOST) if name in at else 0 for name in (FIRST_ATTEMPT, *SLOW[1:]))
        told = (requests, errors, count(counts[at["slow"]], MOST), rejections, retried, *further)
        for column, each in zip(found, told, strict=True):
            column[group] = each
    return tuple(map(tuple, found))


def take(known: Sources, told: Sources, present: Collection[str]) -> Sources:
    """The highest of what is known and what is told. `present` are the processes that may be heard of again.

    Those that are gone are kept as one where there are many; those that are too many even so are not kept by group.
    """
    found = {source: dict(rows) for source, rows in known.items()}
    if len({*found, *told}) > MOST_SOURCES:
        for source in sorted(found.keys() - set(present) - {GONE}):
            gone = found.setdefault(GONE, {})
            for key, own in found.pop(source).items():
                gone[key] = plus(gone.get(key, NOTHING), own)
    for source in sorted(told):
        if source in found or len(found) < MOST_SOURCES:
            rows = found.setdefault(source, {})
            rows.update({key: _highest(rows.get(key, NOTHING), own) for key, own in told[source].items()})
    return found


def of(sources: Sources, epoch: int, arm: str) -> Grouped:
    """An arm's counts in an epoch, over all processes."""
    total = NOTHING
    for rows in sources.values():
        total = plus(total, rows.get((epoch, arm), NOTHING))
    return total


def as_json(sources: Sources) -> dict[str, Any]:
    """As plain JSON: columns of further latencies only where something was counted, as operators of before there were any have it."""
    used = (place for rows in sources.values() for own in rows.values() for place, each in enumerate(own) if any(each))
    columns = 1 + max(EVENTS_OF_ONE_LATENCY, max(used, default=0))
    return {
        source: {f"{epoch}/{arm}": list(map(list, own[:columns])) for (epoch, arm), own in sorted(rows.items())}
        for source, rows in sorted(sources.items())
    }


def from_json(stored: Any) -> Sources:
    """What `as_json` gave; nothing where that is missing or damaged."""
    try:
        return {source: dict(_stored(rows.items())) for source, rows in stored.items()}
    except DAMAGED:
        return {}


def _stored(rows: Iterable[tuple[str, Any]]) -> Iterable[tuple[Key, Grouped]]:
    for key, columns in rows:
        epoch, _, arm = key.partition("/")
        own = tuple(tuple(map(count, column)) for column in columns)
        if not EVENTS_OF_ONE_LATENCY < len(own) <= len(COLUMNS) or {*map(len, own)} != {GROUPS + 1}:
            raise ValueError(f"{key} has no {len(COLUMNS)} columns of {GROUPS + 1} counts")
        yield (int(epoch), arm), (*own, *NOTHING[len(own) :])
