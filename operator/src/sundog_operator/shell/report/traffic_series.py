"""Shares of the traffic over time, planned and counted, as series of numbers."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.shell.report.model import OUTSIDE, ExperimentReport, ReportPoint

_MIN_REQUESTS: Final = 20
"""Requests between two evaluations that a counted share needs."""
_TOGETHER: Final = "together"
"""Kind of the line for the sum of all arms except control."""


@dataclass(frozen=True, slots=True)
class TrafficSeries:
    """Percent of the traffic of one lane at each evaluation: configured from then on, and counted until then; None if unknown."""

    kind: str
    name: str
    weights: Sequence[float | None]
    counted: Sequence[float | None]

    @property
    def has_weights(self) -> bool:
        """Report whether any weight is known."""
        return any(weight is not None for weight in self.weights)


def make_traffic_series(report: ExperimentReport) -> Iterator[TrafficSeries]:
    """Yield the series of control and of each arm; first the sum of all arms if an old history has only that."""
    points, counted = report.points, counted_shares(report.points)
    if any(point.weights is None for point in points):
        sums = [float(point.weight) if point.weights is None else None for point in points]
        yield TrafficSeries(_TOGETHER, "all arms except control, rounded", sums, [None] * len(points))
    for index, lane in enumerate(report.lanes):
        if lane.kind != OUTSIDE:
            yield TrafficSeries(
                lane.kind,
                lane.name,
                [None if point.weights is None else point.weights[index] for point in points],
                [None if shares is None else shares[index] for shares in counted],
            )


def series_heads(series: TrafficSeries) -> Iterator[str]:
    """Yield the heads of a series' columns in a table."""
    if series.has_weights:
        yield series.name
    if series.kind != _TOGETHER:
        yield f"{series.name}, counted"


def series_cells(series: TrafficSeries, number: int) -> Iterator[str]:
    """Yield the cells of a series in the row of an evaluation."""
    weight = series.weights[number]
    if series.has_weights:
        yield "–" if weight is None else f"{weight:g} %"
    if series.kind != _TOGETHER:
        yield format_share(series.counted[number])


def format_share(share: float | None) -> str:
    """Format a percentage; a dash if it is unknown."""
    return "–" if share is None else f"{share:.3g} %"


def counted_shares(points: Sequence[ReportPoint]) -> list[tuple[float, ...] | None]:
    """Return each lane's percent of the requests since the previous evaluation; None if they were too few."""
    found: list[tuple[float, ...] | None] = [None]
    for before, point in itertools.pairwise(points):
        since = [new - old for new, old in zip(point.requests, before.requests, strict=True)]
        is_known = min(since) >= 0 and sum(since) >= _MIN_REQUESTS
        found.append(tuple(100 * each / sum(since) for each in since) if is_known else None)
    return found
