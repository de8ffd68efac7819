"""Stable's traffic out of what the edges report, for a plan that is about to be frozen."""

from collections.abc import Sequence
from typing import Any, Final

from sundog_operator.core import names
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout.resolve import Traffic
from sundog_operator.core.rollout.tallies import BLOCK_S, blocks_of, rows_of

_HOUR_S: Final = 3600
_LEAST_S: Final = 60
"""Of traffic, before it is known how much there is."""


def of_attempts(service: str, attempts: Sequence[str], reports: Sequence[EdgeReport], now_s: float) -> Traffic:
    """A service's traffic, with how long stable takes under these attempts: as the only arm, say, and in a rollout that goes on."""
    return Traffic(_rate(service, reports, now_s), *_latencies(attempts, reports))


def _rate(service: str, reports: Sequence[EdgeReport], now_s: float) -> float | None:
    """Requests per second that ended, over the blocks of the last hour: of rollouts that have ended as well, or there would be a gap."""
    rows = (row for report in reports for row in (report.evidence or {}).get("counters", ()))
    attempts = {str(row.get("attempt")) for row in rows if row.get("service") == service}
    since = int(now_s - _HOUR_S) // BLOCK_S
    ended = [
        (number, sum(counts[3] for counts in block.arms.values()))
        for attempt in sorted(attempts)
        for blocks in blocks_of(attempt, reports).values()
        for number, block in blocks.items()
        if number >= since
    ]
    if not ended:
        return None
    seconds = now_s - min(number for number, _ in ended) * BLOCK_S
    return sum(count for _, count in ended) / seconds if seconds >= _LEAST_S else None


def _latencies(attempts: Sequence[str], reports: Sequence[EdgeReport]) -> tuple[list[int], tuple[int, ...]]:
    """How long stable's answers took, by bucket, and the edges of the buckets."""
    edges = next((tuple(told["edgesUs"]) for report in reports if (told := _histogram(report))), ())
    total = [0] * (len(edges) + 1)
    for report in reports:
        if tuple(_histogram(report).get("edgesUs", ())) != edges:
            continue
        for attempt in attempts:
            for _, row in rows_of(attempt, (report,)):
                if row.get("arm") == names.STABLE:
                    for bucket, count in enumerate((row.get("total") or {}).get("ok", ())):
                        total[bucket] += int(count)
    return total, edges


def _histogram(report: EdgeReport) -> dict[str, Any]:
    return (report.evidence or {}).get("histogram") or {}
