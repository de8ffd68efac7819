"""Reports of edges about one rollout, as the operator reads them: rows, blocks, documents."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sundog_operator.core.observed import EdgeReport

ENDS = (
    *("ok", "client4xx", "throttled", "server5xx", "edge5xx"),
    *("timeout", "truncated", "invalid", "abortBefore", "abortDuring"),
)
ERRORS = ("server5xx", "edge5xx", "timeout", "truncated", "invalid")
"""Ends of requests without a good answer."""

COLUMNS = ("start", *ENDS, "slow", "firstAttemptFailed", "slow2", "slow3", "inFlight")
GROUP_COLUMNS = ("group", *ENDS, "slow", "firstAttemptFailed", "slow2", "slow3")
BEFORE_SEVERAL_LATENCIES = ("start", *ENDS, "slow", "firstAttemptFailed", "inFlight")
"""Columns of an edge that counts one latency."""

ATTEMPT = "3b9f"


def row(arm: str = "canary", epoch: int = 2, boot: str = "b1", **counts: Any) -> dict[str, Any]:
    """A row of an edge; ends by their names."""
    ends = {end: counts.pop(end, 0) for end in ENDS}
    retries = {"firstAttemptFailed": counts.pop("firstAttemptFailed", 0)}
    assigned = sum(ends.values()) + counts.get("lost", 0) + counts.get("inFlight", 0)
    fields = {"assigned": assigned, "slow": 0, "slow2": 0, "slow3": 0, **counts}
    where = {"boot": boot, "attempt": ATTEMPT, "epoch": epoch, "arm": arm, "origin": "assigned", "unit": "anonymous"}
    return {**where, "ends": ends, "retries": retries, **fields}


def block(start: int, **counts: int) -> list[int]:
    """Ten seconds of a row."""
    return [start, *(counts.get(name, 0) for name in COLUMNS[1:])]


def evenly(arm: str, epoch: int, start: int, blocks: int, /, **counts: int) -> dict[str, Any]:
    """A row that has the same counts in each of so many blocks, which the epoch had been in force before."""
    blocks_of_row = [block(start - 10), *(block(start + 10 * number, **counts) for number in range(blocks))]
    whole: dict[str, Any] = {name: count * blocks for name, count in counts.items()}
    return row(arm, epoch, blocks=blocks_of_row, **whole)


def sticky(told: dict[str, Any], groups: int = 100, spread: int = 1) -> dict[str, Any]:
    """A row of units that stay with an arm, its counts spread evenly over so many groups, of which each `spread`-th has any."""
    known = {**told, **told["ends"], **told["retries"]}
    counts = [known.get(name, 0) for name in GROUP_COLUMNS[1:]]
    own = range(0, groups, spread)
    rows = [[group, *(_part(count, place, len(own)) for count in counts)] for place, group in enumerate(own)]
    return {**told, "unit": "sticky", "groups": rows}


def _part(count: int, place: int, parts: int) -> int:
    return count // parts + (place < count % parts)


def by_unit(*rows: dict[str, Any], units: Any = (), pod: str = "edge-0", **changes: Any) -> EdgeReport:
    """Return a ready edge's report with groups and units; `units` are (hash, Unix seconds, epoch, arm) of a sample."""
    made = report(*rows, pod=pod, **changes)
    listed = [[f"{number:016x}", [round(at_s * 1e6), epoch, arm], 1, {}] for number, at_s, epoch, arm in units]
    sample = {"service": "digits", "attempt": ATTEMPT, "tau": f"{1 << 64:x}", "units": listed}
    evidence = {**(made.evidence or {}), "groups": {"columns": GROUP_COLUMNS}, "units": [sample]}
    return replace(made, evidence=evidence)


def report(*rows: dict[str, Any], pod: str = "edge-0", columns: Any = COLUMNS, **changes: Any) -> EdgeReport:
    """Return a ready edge's report."""
    evidence = {"version": 1, "blocks": {"seconds": 10, "columns": columns}, "counters": list(rows)}
    return replace(EdgeReport(pod=pod, ready=True, terminating=False, evidence=evidence), **changes)


def silent(pod: str = "edge-0", **changes: Any) -> EdgeReport:
    """Return a ready edge without a report."""
    return replace(EdgeReport(pod=pod, ready=True, terminating=False, evidence=None, error="TimeoutError"), **changes)


def sum_rows(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """Sum rows: requests assigned, failed, ended without a line, and still running."""
    found: Counter[str] = Counter()
    for each in rows:
        errors = sum(each["ends"][end] for end in ERRORS)
        found.update(assigned=each["assigned"], errors=errors, lost=each["lost"], running=each["inFlight"])
    return found


def rows_in(reports: Sequence[EdgeReport]) -> list[Any]:
    """Return all rows of some documents."""
    return [each for one in reports for each in (one.evidence or {})["counters"]]
