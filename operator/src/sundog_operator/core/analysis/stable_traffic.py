"""Stable's traffic out of what the edges report, for a plan that is about to be frozen."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sundog_operator.core.analysis.blocks import BLOCK_S, BlockCounts, sum_arm_counts
from sundog_operator.core.analysis.counters import collect_blocks
from sundog_operator.core.analysis.edge_reports import assigned_rows, reported_attempts
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout.resolve import StableTraffic

_HOUR_S: Final = 3600
_LEAST_S: Final = 60
"""Of traffic, before it is known how much there is."""

_REPRESENTATIVE_S: Final = 600
"""Of traffic, before it is known how long stable takes: in its first minutes caches are cold, and candidates may be starting beside it."""


def measure_traffic(
    service: str,
    attempts: Sequence[str],
    reports: Sequence[EdgeReport],
    now_s: float,
    made_s: float = 0.0,
    epoch: int = 0,
) -> StableTraffic:
    """A service's traffic, with how long stable takes under these attempts: as the only arm, say, and in a rollout that goes on.

    What came before `made_s` was another's, of the same name.

    Latencies are those of an epoch if one is given, for that is what both arms have in common: the same load, on the same machines. Else
    they are of all the time, if that was long enough to stand for what comes.
    """
    past = _past(service, reports, now_s, made_s)
    known = epoch or past.seconds >= _REPRESENTATIVE_S
    latencies, edges_us = _latencies(attempts, reports, epoch) if known else ([], ())
    if past.seconds < _LEAST_S:
        return StableTraffic(None, latencies, edges_us)
    error_rate = past.failed / past.of_stable if past.of_stable else None
    return StableTraffic(past.ended / past.seconds, latencies, edges_us, error_rate)


class _Past(NamedTuple):
    """Requests that ended in so many seconds, of the last hour at most: all, stable's, and those of stable's that failed."""

    seconds: float = 0.0
    ended: int = 0
    of_stable: int = 0
    failed: int = 0


def _past(service: str, reports: Sequence[EdgeReport], now_s: float, made_s: float) -> _Past:
    """Those of rollouts that have ended count as well, or there would be a gap."""
    attempts = reported_attempts(service, reports)
    since = max(int(now_s - _HOUR_S) // BLOCK_S, -(-int(made_s) // BLOCK_S))
    seen = [
        (number, block)
        for attempt in sorted(attempts)
        for blocks in collect_blocks(attempt, reports).values()
        for number, block in blocks.items()
        if number >= since
    ]
    if not seen:
        return _Past()
    of_stable = functools.reduce(
        BlockCounts.plus, (sum_arm_counts(arm, (block for _, block in seen)) for arm in names.STABLE_ARMS)
    )
    ended = sum(counts.ended for _, block in seen for counts in block.arms.values())
    return _Past(now_s - min(number for number, _ in seen) * BLOCK_S, ended, of_stable.ended, of_stable.errors)


def _latencies(attempts: Sequence[str], reports: Sequence[EdgeReport], epoch: int) -> tuple[list[int], tuple[int, ...]]:
    """How long stable's answers took, by bucket, and the edges of the buckets; of all epochs for 0."""
    edges = next(filter(None, map(_edges, reports)), ())
    total = [0] * (len(edges) + 1) if edges else []
    for report in reports:
        if not edges or _edges(report) != edges:
            continue
        for attempt in attempts:
            for _, row in assigned_rows(attempt, (report,)):
                if row.get("arm") in names.STABLE_ARMS and epoch in (0, row.get("epoch")):
                    total = [before + more for before, more in zip(total, _answers(row, len(total)), strict=True)]
    return total, edges


def count_answers_within(attempt: str, arm: str, epoch: int, reports: Sequence[EdgeReport], microseconds: int) -> int:
    """How many answers of an arm are known to have taken no longer, as far as edges that are there tell it by bucket."""
    found = 0
    for report in reports:
        edges = _edges(report)
        within = sum(edge <= microseconds for edge in edges)
        for _, row in assigned_rows(attempt, (report,)):
            if edges and row.get("arm") == arm and row.get("epoch") == epoch:
                found += sum(_answers(row, len(edges) + 1)[:within])
    return found


def _edges(report: EdgeReport) -> tuple[int, ...]:
    try:
        found = tuple((report.evidence or {})["histogram"]["edgesUs"])
    except (KeyError, TypeError):
        return ()
    return found if all(type(edge) is int and edge > 0 for edge in found) else ()


def _answers(row: Mapping[str, Any], buckets: int) -> list[int]:
    """How many answers took how long; none where a row does not fit the buckets."""
    try:
        told = list(row["total"]["ok"])
    except (KeyError, TypeError):
        told = []
    if len(told) > buckets or not all(type(count) is int and count >= 0 for count in told):
        told = []
    return told + [0] * (buckets - len(told))
