"""Lay out the charts of a report as lines, bars and dots on 400 × 200 units, without styles. Pure functions."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.shell.report import scales
from sundog_operator.shell.report.metrics import format_point_interval
from sundog_operator.shell.report.model import (
    OUTSIDE,
    ROLLOUT,
    ExperimentReport,
    MetricPoint,
    ReportMetric,
    ReportPoint,
)
from sundog_operator.shell.report.scales import AxisScale, AxisTick
from sundog_operator.shell.report.traffic_series import (
    TrafficSeries,
    counted_shares,
    format_share,
    make_traffic_series,
    series_cells,
    series_heads,
)

WIDTH: Final = 400
HEIGHT: Final = 200
LEFT: Final = 50
RIGHT: Final = 388
TOP: Final = 10
BOTTOM: Final = 172
_MIN_TICK_DISTANCE_X: Final = 58
_MIN_TICK_DISTANCE_Y: Final = 20
_MAX_EARLY_STRETCH: Final = 2.5
"""Largest factor by which early intervals may extend an axis beyond the values that it must show."""
_LINE_DISTANCE: Final = 3.0
"""Distance between lines of equal weight, including their width."""
_HEADROOM: Final = 1.1
"""Factor of the largest weight that an axis shows, which leaves room for lines beside it."""
_COLOURED: Final = {"Better": "better", "Worse": "worse", "Passed": "passed", "Harm": "harm"}
"""Verdicts with a colour of their own."""
_MIN_RATIO: Final = 1e-6
_MAX_STRETCH: Final = 8.0
"""Largest factor by which the last interval may extend an axis beyond the values that it must show."""


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A line as points of SVG. `kind` selects its style."""

    kind: str
    points: str


@dataclass(frozen=True, slots=True)
class IntervalBar:
    """A bar for an interval.

    Attributes:
        cut_top: the interval continues above the drawing; `cut_bottom` likewise below.
        centre: position of the ratio; None if it is unknown or outside of the drawing.
        text: its tooltip.
    """

    kind: str
    x: float
    top: float
    bottom: float
    cut_top: bool
    cut_bottom: bool
    centre: float | None
    text: str


@dataclass(frozen=True, slots=True)
class ChartDot:
    """A dot."""

    kind: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its texts and numbers.

    Attributes:
        ident: id, unique in a document.
        description: explanation for readers of the chart.
        legend: (kind, label) of each line, bar and dot.
        rows: its numbers as a table below `head`.
        note: what a reader of it has to know, shown below.
    """

    ident: str
    title: str
    description: str
    legend: tuple[tuple[str, str], ...]
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[ChartLine, ...] = ()
    bars: tuple[IntervalBar, ...] = ()
    dots: tuple[ChartDot, ...] = ()
    area: str = ""
    note: str = ""


def make_charts(report: ExperimentReport) -> list[Chart]:
    """Return the charts of traffic, of requests, and of each metric with data."""
    # That module uses the parts of this one.
    from sundog_operator.shell.report import experiment_charts

    time = AxisScale(0.0, report.seconds, LEFT, RIGHT)
    found = [*_traffic_charts(report, time), *experiment_charts.make_units_chart(report, time)]
    for number, metric in enumerate(report.metrics):
        if metric.bounds:
            found.append(_metric_chart(metric, number, time))
        found += experiment_charts.make_period_chart(metric, number)
    return [*found, *experiment_charts.make_chance_charts(report, time)]


def format_elapsed(seconds: float) -> str:
    """Format a time since the start, such as 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


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
        x_ticks=tuple(scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)),
        y_ticks=tuple(scales.make_percent_ticks(up)),
        head=("time", "configured", "counted until then"),
        rows=tuple(
            (format_elapsed(point.at_s), f"{point.weight:g} %", format_share(share))
            for point, share in zip(points, counted, strict=True)
        ),
        lines=(ChartLine("candidate", line),),
        dots=tuple(_make_dots("observed", points, counted, time, up)),
        area=f"{_round(time.at(points[0].at_s))},{BOTTOM} {line} {_round(time.end)},{BOTTOM}",
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
        x_ticks=tuple(scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)),
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
            yield ChartDot(kind, _round(time.at(point.at_s)), _round(up.at(share)))


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
    return Chart(
        ident="requests",
        title="Requests by arm since the start",
        description=f"The number of requests to {receivers} since the start.",
        legend=tuple((lane.kind, lane.name) for _, lane in drawn),
        x_ticks=tuple(scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)),
        y_ticks=tuple(scales.make_count_ticks(up)),
        head=("time", *(name for lane in report.lanes for name in (lane.name, "errors"))),
        rows=tuple(
            (
                format_elapsed(point.at_s),
                *(str(each) for pair in zip(point.requests, point.errors, strict=True) for each in pair),
            )
            for point in points
        ),
        lines=tuple(
            ChartLine(
                lane.kind, format_points([(time.at(point.at_s), up.at(point.requests[index])) for point in points])
            )
            for index, lane in drawn
        ),
    )


def _metric_chart(metric: ReportMetric, number: int, time: AxisScale) -> Chart:
    up = make_ratio_scale(metric, BOTTOM, TOP)
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
        x_ticks=tuple(scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)),
        y_ticks=tuple(scales.make_ratio_ticks(up, _MIN_TICK_DISTANCE_Y)),
        head=("time", "ratio", "interval", "allowed", "verdict"),
        # A change of weight and an evaluation may share a second.
        rows=tuple(dict.fromkeys(_make_row(point, has_limit=metric.judged) for point in metric.bounds)),
        lines=tuple(lines),
        bars=bars,
    )


def _verdict_legend(bars: Sequence[IntervalBar]) -> Iterator[tuple[str, str]]:
    """Yield (kind, label) of the coloured verdicts among the bars."""
    kinds = {bar.kind for bar in bars}
    return ((kind, verdict) for verdict, kind in _COLOURED.items() if kind in kinds)


def time_ticks(time: AxisScale) -> list[AxisTick]:
    """Return the ticks of the axis of time."""
    return scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)


def horizontal_line(ratio: float, time: AxisScale, up: AxisScale) -> str:
    """Return the points of a line at one value."""
    return format_points([(time.start, up.at(ratio)), (time.end, up.at(ratio))])


def _allowed_points(points: Sequence[MetricPoint], time: AxisScale, up: AxisScale) -> Iterator[tuple[float, float]]:
    """Yield the points of a step line of allowed ratios."""
    ends = [*(time.at(point.at_s) for point in points), time.end]
    for (x, after), point in zip(itertools.pairwise(ends), points, strict=True):
        yield from ((x, up.at(point.allowed)), (after, up.at(point.allowed)))


def _make_row(point: MetricPoint, *, has_limit: bool) -> tuple[str, ...]:
    return (
        format_elapsed(point.at_s),
        "–" if point.ratio is None else f"{point.ratio:.3g}",
        format_point_interval(point) or "–",
        f"{point.allowed:.3g}" if has_limit else "–",
        point.verdict,
    )


def make_ratio_scale(metric: ReportMetric, start: float, end: float) -> AxisScale:
    """Return an axis that shows limits, ratios and the last interval, and early intervals if they are near."""
    return _ratio_scale(metric.bounds, metric, start, end)


def make_ratio_scale_of(points: Sequence[MetricPoint], metric: ReportMetric) -> AxisScale:
    """Return an axis for other points of a metric, at least one."""
    return _ratio_scale(points, metric, BOTTOM, TOP)


def _ratio_scale(bounds: Sequence[MetricPoint], metric: ReportMetric, start: float, end: float) -> AxisScale:
    last = bounds[-1]
    ratios = [point.ratio for point in bounds if point.ratio]
    limits = [1.0, metric.margin, metric.effect or 1.0, *(point.allowed for point in bounds if metric.judged)]
    # If stable never had the event, only the lower end is known.
    required = [*limits, *ratios, *([last.lower] if last.ratio is None and last.lower else [])]
    low, high = min(required), max(required)
    low = min(low, max(last.lower or 0.0, low / _MAX_STRETCH))
    high = max(high, min(last.upper or 0.0, high * _MAX_STRETCH))
    lowers = [point.lower for point in bounds if point.lower]
    uppers = [point.upper for point in bounds if point.upper]
    low = min(low, max(min(lowers, default=low), low / _MAX_EARLY_STRETCH))
    high = max(high, min(max(uppers, default=high), high * _MAX_EARLY_STRETCH))
    # A damaged status may hold any number.
    return AxisScale(max(low / 1.1, _MIN_RATIO), min(high * 1.1, 1 / _MIN_RATIO), start, end, "log")


def make_bar(point: MetricPoint, time: AxisScale, up: AxisScale) -> IntervalBar:
    """Return the bar of an interval and its ratio."""
    lower = point.lower if point.lower is not None else point.ratio or up.low
    has_interval = point.lower is not None
    upper = point.upper if point.upper is not None else up.high if has_interval else lower
    is_visible = point.ratio is not None and up.shows(point.ratio)
    return IntervalBar(
        kind=_COLOURED.get(point.verdict, "open"),
        x=_round(time.at(point.at_s)),
        top=_round(up.at(upper)),
        bottom=_round(up.at(max(lower, up.low))),
        cut_top=has_interval and (point.upper is None or point.upper > up.high),
        cut_bottom=has_interval and lower < up.low,
        centre=_round(up.at(point.ratio)) if is_visible and point.ratio is not None else None,
        text=f"{format_elapsed(point.at_s)}: {' '.join(_make_row(point, has_limit=False)[1:3])}, {point.verdict}",
    )


def format_points(points: Iterable[tuple[float, float]]) -> str:
    """Return the points of a line as SVG writes them."""
    return " ".join(f"{_round(x)},{_round(y)}" for x, y in points)


def _round(value: float) -> float:
    """Round to a tenth, which is finer than a pixel."""
    return round(value, 1)
