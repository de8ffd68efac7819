"""Stable's traffic, from the reports of edges, for a new plan."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sundog_operator.core.analysis.blocks import BLOCK_S, BlockCounts, sum_arm_counts
from sundog_operator.core.analysis.counters import collect_blocks
from sundog_operator.core.analysis.edge_reports import assigned_rows, reported_attempts
from sundog_operator.core.kubernetes import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.trial.default_plan import StableTraffic

_HOUR_S: Final = 3600
_MIN_TRAFFIC_S: Final = 60
"""Least time of traffic that its rate needs."""

_REPRESENTATIVE_S: Final = 600
"""Least time of traffic that latencies need: caches are cold in the first minutes, and canaries may be starting beside stable."""


def measure_traffic(
    service: str,
    attempts: Sequence[str],
    reports: Sequence[EdgeReport],
    now_s: float,
    made_s: float = 0.0,
    epoch: int = 0,
) -> StableTraffic:
    """Return a service's traffic, with stable's latencies in these attempts, such as the one without canary and a running rollout.

    Traffic before `made_s` belongs to an earlier service of the same name.

    With an epoch, latencies are those of this epoch, because both arms then have the same load on the same machines. Otherwise they are
    of all the time, if that is long enough to be representative.
    """
    past = _past(service, reports, now_s, made_s)
    known = epoch or past.seconds >= _REPRESENTATIVE_S
    latencies, edges_us = _latencies(attempts, reports, epoch) if known else ([], ())
    if past.seconds < _MIN_TRAFFIC_S:
        return StableTraffic(None, latencies, edges_us)
    error_rate = past.failed / past.of_stable if past.of_stable else None
    return StableTraffic(past.ended / past.seconds, latencies, edges_us, error_rate)


class _Past(NamedTuple):
    """Requests that ended in so many seconds, within the last hour: all, stable's, and stable's failures."""

    seconds: float = 0.0
    ended: int = 0
    of_stable: int = 0
    failed: int = 0


def _past(service: str, reports: Sequence[EdgeReport], now_s: float, made_s: float) -> _Past:
    """Return the past traffic, with that of ended rollouts, or there would be a gap."""
    attempts = reported_attempts(service, reports)
    since = max(int(now_s - _HOUR_S) // BLOCK_S, -(-int(made_s) // BLOCK_S))
    recent = [
        (number, block)
        for attempt in sorted(attempts)
        for blocks in collect_blocks(attempt, reports).values()
        for number, block in blocks.items()
        if number >= since
    ]
    if not recent:
        return _Past()
    of_stable = functools.reduce(
        BlockCounts.plus, (sum_arm_counts(arm, (block for _, block in recent)) for arm in names.STABLE_ARMS)
    )
    ended = sum(counts.ended for _, block in recent for counts in block.arms.values())
    return _Past(now_s - min(number for number, _ in recent) * BLOCK_S, ended, of_stable.ended, of_stable.errors)


def _latencies(attempts: Sequence[str], reports: Sequence[EdgeReport], epoch: int) -> tuple[list[int], tuple[int, ...]]:
    """Return the latencies of stable's answers by bucket, and the edges of the buckets; of all epochs if epoch is 0."""
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
    """Return how many answers of an arm are known to have taken no longer, from edges that report buckets."""
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
    """Return the answers by bucket; zeros if the row does not fit the buckets."""
    try:
        counts = list(row["total"]["ok"])
    except (KeyError, TypeError):
        counts = []
    if len(counts) > buckets or not all(type(count) is int and count >= 0 for count in counts):
        counts = []
    return counts + [0] * (buckets - len(counts))
