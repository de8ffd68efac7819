"""Parts of charts: lines, bars, dots and axes on 400 × 200 units, without styles. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sundog_operator.shell.report import scales
from sundog_operator.shell.report.metrics import format_point_interval
from sundog_operator.shell.report.model import (
    MetricPoint,
    ReportMetric,
)
from sundog_operator.shell.report.scales import AxisScale, AxisTick

WIDTH: Final = 400
HEIGHT: Final = 200
LEFT: Final = 50
RIGHT: Final = 388
TOP: Final = 10
BOTTOM: Final = 172
_MIN_TICK_DISTANCE_X: Final = 58
_MAX_EARLY_STRETCH: Final = 2.5
"""Largest factor by which early intervals may extend an axis beyond the values that it must show."""
COLOURED_VERDICTS: Final = {"Better": "better", "Worse": "worse", "Passed": "passed", "Harm": "harm"}
"""Verdicts with a colour of their own."""
_MIN_RATIO: Final = 1e-6
_MAX_STRETCH: Final = 8.0
"""Largest factor by which the last interval may extend an axis beyond the values that it must show."""
Series = tuple[str, str, Sequence[tuple[float, float]]]
"""Kind, name, and (seconds since the start, value) of a line."""


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


def format_elapsed(seconds: float) -> str:
    """Format a time since the start, such as 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def make_line_chart(
    *,
    ident: str,
    title: str,
    description: str,
    series: Sequence[Series],
    up: AxisScale,
    y_ticks: Sequence[AxisTick],
    time: AxisScale,
    head: tuple[str, ...],
    rows: tuple[tuple[str, ...], ...],
    extra: Sequence[tuple[ChartLine, str]] = (),
    note: str = "",
) -> Chart:
    """Return a chart of one line for each series, and of `extra` lines with their labels."""
    return Chart(
        ident=ident,
        title=title,
        description=description,
        note=note,
        legend=(*((kind, name) for kind, name, _ in series), *((line.kind, text) for line, text in extra)),
        x_ticks=tuple(time_ticks(time)),
        y_ticks=tuple(y_ticks),
        head=head,
        rows=rows,
        lines=(
            *(
                ChartLine(kind, format_points([(time.at(at_s), up.at(value)) for at_s, value in values]))
                for kind, _, values in series
            ),
            *(line for line, _ in extra),
        ),
    )


def time_ticks(time: AxisScale) -> list[AxisTick]:
    """Return the ticks of the axis of time."""
    return scales.make_time_ticks(time, _MIN_TICK_DISTANCE_X)


def horizontal_line(ratio: float, time: AxisScale, up: AxisScale) -> str:
    """Return the points of a line at one value."""
    return format_points([(time.start, up.at(ratio)), (time.end, up.at(ratio))])


def make_interval_row(point: MetricPoint, *, has_limit: bool) -> tuple[str, ...]:
    """Return time, ratio, interval, limit and verdict as cells."""
    return (
        format_elapsed(point.at_s),
        "–" if point.ratio is None else f"{point.ratio:.3g}",
        format_point_interval(point) or "–",
        f"{point.allowed:.3g}" if has_limit else "–",
        point.verdict,
    )


def make_ratio_scale(
    bounds: Sequence[MetricPoint], metric: ReportMetric, start: float = BOTTOM, end: float = TOP
) -> AxisScale:
    """Return an axis that shows limits, ratios and the last interval of a metric's points, and early intervals if they are near."""
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
        kind=COLOURED_VERDICTS.get(point.verdict, "open"),
        x=round_position(time.at(point.at_s)),
        top=round_position(up.at(upper)),
        bottom=round_position(up.at(max(lower, up.low))),
        cut_top=has_interval and (point.upper is None or point.upper > up.high),
        cut_bottom=has_interval and lower < up.low,
        centre=round_position(up.at(point.ratio)) if is_visible and point.ratio is not None else None,
        text=f"{format_elapsed(point.at_s)}: {' '.join(make_interval_row(point, has_limit=False)[1:3])}, {point.verdict}",
    )


def format_points(points: Iterable[tuple[float, float]]) -> str:
    """Return the points of a line as SVG writes them."""
    return " ".join(f"{round_position(x)},{round_position(y)}" for x, y in points)


def round_position(value: float) -> float:
    """Round to a tenth, which is finer than a pixel."""
    return round(value, 1)
