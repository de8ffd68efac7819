"""Lay out the charts of a report. Pure functions."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from sundog_operator.shell.report import experiment_charts, scales
from sundog_operator.shell.report.chart_parts import (
    BOTTOM,
    COLOURED_VERDICTS,
    LEFT,
    RIGHT,
    TOP,
    Chart,
    ChartDot,
    ChartLine,
    IntervalBar,
    format_elapsed,
    format_points,
    horizontal_line,
    make_bar,
    make_interval_row,
    make_line_chart,
    make_ratio_scale,
    round_position,
    time_ticks,
)
from sundog_operator.shell.report.model import (
    OUTSIDE,
    ROLLOUT,
    ExperimentReport,
    MetricPoint,
    ReportMetric,
    ReportPoint,
)
from sundog_operator.shell.report.scales import AxisScale
from sundog_operator.shell.report.traffic_series import (
    TrafficSeries,
    counted_shares,
    format_share,
    make_traffic_series,
    series_cells,
    series_heads,
)

_MIN_TICK_DISTANCE_Y: Final = 20
_LINE_DISTANCE: Final = 3.0
"""Distance between lines of equal weight, including their width."""
_HEADROOM: Final = 1.1
"""Factor of the largest weight that an axis shows, which leaves space for lines beside it."""


def make_charts(report: ExperimentReport) -> list[Chart]:
    """Return the charts of traffic, of requests, and of each metric with data."""
    time = AxisScale(0.0, report.seconds, LEFT, RIGHT)
    found = [*_traffic_charts(report, time), *experiment_charts.make_units_chart(report, time)]
    for number, metric in enumerate(report.metrics):
        if metric.bounds:
            found.append(_metric_chart(metric, number, time))
        found += experiment_charts.make_period_chart(metric, number)
    return [*found, *experiment_charts.make_chance_charts(report, time)]


def _traffic_charts(report: ExperimentReport, time: AxisScale) -> Iterator[Chart]:
    if report.points:
        yield _rollout_share_chart(report.points, time) if report.kind == ROLLOUT else _arm_shares_chart(report, time)
        yield _requests_chart(report, time)


def _rollout_share_chart(points: Sequence[ReportPoint], time: AxisScale) -> Chart:
    """Return the chart of the candidate's share; stable gets the rest."""
    up = scales.make_percent_scale(max(point.weight for point in points), BOTTOM, TOP)
    counted = [None if shares is None else shares[-1] for shares in counted_shares(points)]
    line = format_points(_step_points(points, [up.at(point.weight) for point in points], time))
    return Chart(
        ident="share",
        title="Traffic of the candidate",
        description="The candidate's percent of the traffic over time, as configured and as counted between two evaluations.",
        legend=(("candidate", "configured"), ("observed", "counted")),
        x_ticks=tuple(time_ticks(time)),
        y_ticks=tuple(scales.make_percent_ticks(up)),
        head=("time", "configured", "counted until then"),
        rows=tuple(
            (format_elapsed(point.at_s), f"{point.weight:g} %", format_share(share))
            for point, share in zip(points, counted, strict=True)
        ),
        lines=(ChartLine("candidate", line),),
        dots=tuple(_make_dots("observed", points, counted, time, up)),
        area=f"{round_position(time.at(points[0].at_s))},{BOTTOM} {line} {round_position(time.end)},{BOTTOM}",
    )


def _arm_shares_chart(report: ExperimentReport, time: AxisScale) -> Chart:
    """Return the chart of an Experiment's shares: a line for control and for each arm."""
    points, series = report.points, list(make_traffic_series(report))
    drawn = [each for each in series if each.has_weights]
    largest = max(filter(None, (weight for each in drawn for weight in each.weights)), default=0)
    up = scales.make_percent_scale(min(largest * _HEADROOM, 100), BOTTOM, TOP)
    return Chart(
        ident="share",
        title="Traffic of the arms",
        description=(
            "The percent of the traffic of control and of each arm over time, as configured and as counted between two evaluations;"
            " stable gets the rest, outside of the Experiment. Lines of the same percent lie side by side."
        ),
        legend=(*((each.kind, each.name) for each in series), ("counted", "counted")),
        x_ticks=tuple(time_ticks(time)),
        y_ticks=tuple(scales.make_percent_ticks(up)),
        head=("time", *(name for each in series for name in series_heads(each))),
        rows=tuple(
            (format_elapsed(point.at_s), *(cell for each in series for cell in series_cells(each, number)))
            for number, point in enumerate(points)
        ),
        lines=tuple(
            ChartLine(each.kind, format_points(_step_points(points, heights, time)))
            for each, heights in zip(drawn, _line_heights(drawn, up), strict=True)
        ),
        dots=tuple(dot for each in series for dot in _make_dots(each.kind, points, each.counted, time, up)),
    )


def _make_dots(
    kind: str, points: Sequence[ReportPoint], shares: Sequence[float | None], time: AxisScale, up: AxisScale
) -> Iterator[ChartDot]:
    for point, share in zip(points, shares, strict=True):
        if share is not None:
            yield ChartDot(kind, round_position(time.at(point.at_s)), round_position(up.at(share)))


def _line_heights(series: Sequence[TrafficSeries], up: AxisScale) -> list[list[float | None]]:
    """Return the height of each line from each evaluation on. Lines that would overlap lie side by side."""
    found: list[list[float | None]] = [[] for _ in series]
    for weights in zip(*(each.weights for each in series), strict=True):
        separated = iter(_separate([up.at(weight) for weight in weights if weight is not None]))
        for heights, weight in zip(found, weights, strict=True):
            heights.append(None if weight is None else next(separated))
    return found


def _separate(heights: Sequence[float]) -> list[float]:
    """Move lines that overlap apart around their middle, and keep their order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        if groups and heights[index] - heights[groups[-1][-1]] < _LINE_DISTANCE:
            groups[-1].append(index)
        else:
            groups.append([index])
    result = [0.0] * len(heights)
    for group in groups:
        extent = _LINE_DISTANCE * (len(group) - 1)
        middle = sum(heights[index] for index in group) / len(group)
        top = min(max(middle - extent / 2, TOP), BOTTOM - extent)
        for number, index in enumerate(group):
            result[index] = top + number * _LINE_DISTANCE
    return result


def _step_points(
    points: Sequence[ReportPoint], heights: Sequence[float | None], time: AxisScale
) -> list[tuple[float, float]]:
    """Return the points of a step line: each height holds until the next evaluation, the last one until the end."""
    ends = [*(time.at(point.at_s) for point in points), time.end]
    known = [(x, after, y) for (x, after), y in zip(itertools.pairwise(ends), heights, strict=True) if y is not None]
    return [point for x, after, y in known for point in ((x, y), (after, y))]


def _requests_chart(report: ExperimentReport, time: AxisScale) -> Chart:
    points = report.points
    drawn = [(index, lane) for index, lane in enumerate(report.lanes) if lane.kind != OUTSIDE]
    up = scales.make_count_scale(max(point.requests[index] for point in points for index, _ in drawn), BOTTOM, TOP)
    receivers = "stable and the candidate" if report.kind == ROLLOUT else "control and each arm"
    return make_line_chart(
        ident="requests",
        title="Requests by arm since the start",
        description=f"The number of requests to {receivers} since the start.",
        series=[
            (lane.kind, lane.name, [(point.at_s, float(point.requests[index])) for point in points])
            for index, lane in drawn
        ],
        up=up,
        y_ticks=scales.make_count_ticks(up),
        time=time,
        head=("time", *(name for lane in report.lanes for name in (lane.name, "errors"))),
        rows=tuple(
            (
                format_elapsed(point.at_s),
                *(str(each) for pair in zip(point.requests, point.errors, strict=True) for each in pair),
            )
            for point in points
        ),
    )


def _metric_chart(metric: ReportMetric, number: int, time: AxisScale) -> Chart:
    up = make_ratio_scale(metric.bounds, metric)
    has_gates = metric.judged and any(point.allowed != metric.margin for point in metric.bounds)
    bars = tuple(make_bar(point, time, up) for point in metric.bounds if point.lower is not None or point.ratio)
    lines = [ChartLine("one", horizontal_line(1.0, time, up))]
    legend = [("interval", "ratio and interval"), *_verdict_legend(bars), ("one", f"{metric.unit} (1)")]
    if metric.margin != 1:
        lines.append(ChartLine("margin", horizontal_line(metric.margin, time, up)))
        legend.append(("margin", f"margin ({metric.margin:.3g})"))
    if metric.effect is not None:
        lines.append(ChartLine("effect", horizontal_line(metric.effect, time, up)))
        legend.append(("effect", f"minimum effect ({metric.effect:.3g})"))
    if has_gates:
        lines.append(ChartLine("gate", format_points(_allowed_points(metric.bounds, time, up))))
        legend.append(("gate", "limit of the next gate"))
    label = "Limit" if metric.type == "event" or metric.judged else "Goal"
    return Chart(
        ident=f"metric-{number}",
        title=metric.name,
        description=(
            f"{metric.meaning}, with its interval, over time, on a log scale. {label}: {metric.limit}."
            " An arrow marks an end outside of the drawing."
        ),
        legend=tuple(legend),
        x_ticks=tuple(time_ticks(time)),
        y_ticks=tuple(scales.make_ratio_ticks(up, _MIN_TICK_DISTANCE_Y)),
        head=("time", "ratio", "interval", "allowed", "verdict"),
        # A change of weight and an evaluation may share a second.
        rows=tuple(dict.fromkeys(make_interval_row(point, has_limit=metric.judged) for point in metric.bounds)),
        lines=tuple(lines),
        bars=bars,
    )


def _verdict_legend(bars: Sequence[IntervalBar]) -> Iterator[tuple[str, str]]:
    """Yield (kind, label) of the coloured verdicts among the bars."""
    kinds = {bar.kind for bar in bars}
    return ((kind, verdict) for verdict, kind in COLOURED_VERDICTS.items() if kind in kinds)


def _allowed_points(points: Sequence[MetricPoint], time: AxisScale, up: AxisScale) -> Iterator[tuple[float, float]]:
    """Yield the points of a step line of allowed ratios."""
    ends = [*(time.at(point.at_s) for point in points), time.end]
    for (x, after), point in zip(itertools.pairwise(ends), points, strict=True):
        yield from ((x, up.at(point.allowed)), (after, up.at(point.allowed)))
