"""Render a report for a terminal."""

import itertools
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.report import chart_parts, tables, traffic_series
from sundog_operator.shell.report.metrics import format_point_interval
from sundog_operator.shell.report.model import ROLLOUT, ExperimentReport, MetricPoint, ReportMetric, ReportPoint
from sundog_operator.shell.report.scales import AxisScale
from sundog_operator.shell.view import palette
from sundog_operator.shell.view.layout import facts_section, make_section, title_line

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_TIME_WIDTH: Final = 48
"""Columns of a drawing over time."""

_INTERVAL_WIDTH: Final = 36
"""Columns of an interval."""

_MAX_ROWS: Final = 10
"""Largest number of rows of a metric."""


def render_report(report: ExperimentReport) -> RenderableType:
    """Render the whole report."""
    parts: list[RenderableType] = [
        title_line(f"{report.kind} {report.title}"),
        Text(report.heading, style=palette.TERMINAL_TONES[report.tone]),
        *map(Text, report.why),
        *make_section("Plan", facts_section(report.facts)),
    ]
    for figures in tables.make_tables(report):
        parts += make_section(figures.title, _table(figures))
    parts += make_section("Data quality", facts_section(report.quality))
    if report.points:
        parts += _traffic(report) if report.kind == ROLLOUT else _traffic_of_arms(report)
    for metric in report.metrics:
        if metric.bounds:
            table = _metric_table(metric)
            body = table if report.kind == ROLLOUT else Group(Text(metric.meaning), table)
            parts += make_section(f"{metric.name} over time: {metric.limit}", body)
    return Group(*parts)


def _table(table: tables.ReportTable) -> RenderableType:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="", padding=(0, 2, 0, 0))
    for index, name in enumerate(table.head):
        grid.add_column(name, no_wrap=True, justify="left" if index < table.words else "right")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid


def _traffic(report: ExperimentReport) -> list[RenderableType]:
    """Draw the candidate's weight over time as blocks, and list its changes."""
    points = report.points
    blocks = _blocks(points, [point.weight for point in points], report.seconds, 100)
    changes = [
        f"{point.weight} % from {chart_parts.format_elapsed(point.at_s)}"
        for before, point in zip((None, *points), points, strict=False)
        if before is None or before.weight != point.weight
    ]
    body = Group(Text(f"▕{blocks}▏ {chart_parts.format_elapsed(report.seconds)}"), Text(", ".join(changes)))
    return make_section(f"Traffic of the {report.who} over time", body)


def _traffic_of_arms(report: ExperimentReport) -> list[RenderableType]:
    """Draw the weights of control and of each arm, scaled to the largest of them."""
    series = [each for each in traffic_series.make_traffic_series(report) if each.has_weights]
    largest = max(filter(None, (weight for each in series for weight in each.weights)), default=100)
    grid = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for each in series:
        blocks = _blocks(report.points, each.weights, report.seconds, largest)
        grid.add_row(Text(each.name), Text(f"▕{blocks}▏"), Text(_summarize_weights(each.weights)))
    title = f"Traffic of the {report.who} over time, to {largest:g} %"
    return make_section(title, Group(grid, Text(f"in {chart_parts.format_elapsed(report.seconds)}")))


def _summarize_weights(weights: Sequence[float | None]) -> str:
    """Format the first and the last weight, and the number of changes."""
    known = [weight for weight in weights if weight is not None]
    moved = sum(before != after for before, after in itertools.pairwise(known))
    times = "" if not moved else f" → {known[-1]:g} %, moved {moved} time{'s' if moved > 1 else ''}"
    return f"{known[0]:g} %{times}"


def _blocks(points: Sequence[ReportPoint], weights: Sequence[float | None], seconds: float, full: float) -> str:
    """Draw weights over time as blocks."""
    columns = (_weight_at(points, weights, (column + 0.5) / _TIME_WIDTH * seconds) for column in range(_TIME_WIDTH))
    return "".join(_BLOCKS[int(weight / full * (len(_BLOCKS) - 1) + 0.5)] if weight else " " for weight in columns)


def _weight_at(points: Sequence[ReportPoint], weights: Sequence[float | None], at_s: float) -> float:
    known = list(zip(points, weights, strict=True))
    return next((weight or 0 for point, weight in reversed(known) if point.at_s <= at_s), 0)


def _metric_table(metric: ReportMetric) -> RenderableType:
    grid = Table(box=None, header_style="", padding=(0, 2, 0, 0))
    scale = chart_parts.make_ratio_scale(metric.bounds, metric, 0, _INTERVAL_WIDTH - 1)
    for name in ("TIME", "RATIO", "INTERVAL"):
        grid.add_column(name, no_wrap=name != "INTERVAL", justify="right")
    grid.add_column(_draw_axis(scale), no_wrap=True)
    grid.add_column("VERDICT", no_wrap=True)
    for point in _sample(_drop_repeated(metric.bounds)):
        grid.add_row(*map(Text, _cells(point)), _draw_interval(point, metric, scale), Text(point.verdict))
    return grid


def _cells(point: MetricPoint) -> tuple[str, str, str]:
    """Format time, ratio and interval."""
    ratio = "–" if point.ratio is None else f"{point.ratio:.3g}"
    return chart_parts.format_elapsed(point.at_s), ratio, format_point_interval(point) or "–"


def _drop_repeated(points: Sequence[MetricPoint]) -> list[MetricPoint]:
    """Drop points that look like the previous one: a change of weight and an evaluation may share a second."""
    pairs = zip((None, *points), points, strict=False)
    return [each for before, each in pairs if before is None or _shown_values(before) != _shown_values(each)]


def _shown_values(point: MetricPoint) -> tuple[str, ...]:
    return (*_cells(point), point.verdict, f"{point.allowed:.3g}")


def _draw_axis(scale: AxisScale) -> Text:
    """Draw the ends of the axis, and 1 if there is space for it."""
    low, high = (f"{float(f'{end:.2g}'):g}" for end in (scale.low, scale.high))
    line = list(low.ljust(_INTERVAL_WIDTH - len(high)) + high)
    position = round(scale.at(1.0))
    if len(low) < position < _INTERVAL_WIDTH - len(high) - 1:
        line[position] = "1"
    return Text("".join(line))


def _sample(points: Sequence[MetricPoint]) -> list[MetricPoint]:
    """Return at most `_MAX_ROWS` evenly spread points, including the first and the last."""
    if len(points) <= _MAX_ROWS:
        return list(points)
    return [points[round(row * (len(points) - 1) / (_MAX_ROWS - 1))] for row in range(_MAX_ROWS)]


def _draw_interval(point: MetricPoint, metric: ReportMetric, scale: AxisScale) -> Text:
    """Draw the interval as a line with the ratio on it, and marks at 1 and at the limit or the minimum effect."""
    cells = [" "] * _INTERVAL_WIDTH
    limit = point.allowed if metric.judged else metric.margin
    for value, mark in ((metric.effect or 1.0, "┊"), (1.0, "│"), *([(limit, "┊")] if limit != 1 else [])):
        cells[round(scale.at(value))] = mark
    if point.lower is not None:
        upper = scale.high if point.upper is None else point.upper
        first, last = round(scale.at(max(point.lower, scale.low))), round(scale.at(upper))
        cells[first : last + 1] = [
            "┼" if cell == "│" else "╎" if cell == "┊" else "─" for cell in cells[first : last + 1]
        ]
        if point.lower < scale.low:
            cells[first] = "◂"
        if point.upper is None or point.upper > scale.high:
            cells[last] = "▸"
    if point.ratio is not None and scale.shows(point.ratio):
        cells[round(scale.at(point.ratio))] = "●"
    return Text("".join(cells), style=palette.TERMINAL_VERDICTS.get(point.verdict, ""))
