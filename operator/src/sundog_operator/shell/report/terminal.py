"""A report for the terminal."""

import itertools
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sundog_operator.shell.report import charts, tables
from sundog_operator.shell.report.build import format_point_interval
from sundog_operator.shell.report.model import ROLLOUT, ExperimentReport, MetricPoint, ReportMetric, ReportPoint
from sundog_operator.shell.report.scales import AxisScale

_STYLES: Final = {"good": "bold green", "bad": "bold red", "open": "bold"}
_VERDICTS: Final = {"Harm": "red", "Passed": "green", "Better": "cyan", "Worse": "magenta"}
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 48
"""Columns of what is drawn over time."""

_ACROSS: Final = 36
"""Columns of an interval."""

_ROWS: Final = 10
"""Of the looks at a metric that are shown."""


def render_report(report: ExperimentReport) -> RenderableType:
    """All of it."""
    parts: list[RenderableType] = [
        Text(f"{report.kind} {report.title}", style="bold"),
        Text(report.heading, style=_STYLES[report.tone]),
        *map(Text, report.why),
        *_section("Plan", _facts(report.facts)),
    ]
    for table in tables.make_tables(report):
        parts += _section(table.title, _table(table))
    parts += _section("Data quality", _facts(report.quality))
    if report.looks:
        parts += _traffic(report) if report.kind == ROLLOUT else _traffic_of_arms(report)
    for metric in report.metrics:
        if metric.bounds:
            drawn = _metric(metric)
            body = drawn if report.kind == ROLLOUT else Group(Text(metric.meaning), drawn)
            parts += _section(f"{metric.name} over time: {metric.limit}", body)
    return Group(*parts)


def _section(title: str, body: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), body]


def _facts(facts: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(name), Text(value))
    return grid


def _table(table: tables.ReportTable) -> RenderableType:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="", padding=(0, 2, 0, 0))
    for index, name in enumerate(table.head):
        grid.add_column(name, no_wrap=True, justify="left" if index < table.words else "right")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid


def _traffic(report: ExperimentReport) -> list[RenderableType]:
    """The candidate's weight as blocks over all of the time, and when it changed."""
    looks = report.looks
    blocks = _blocks(looks, [look.weight for look in looks], report.seconds, 100)
    changes = [
        f"{look.weight} % from {charts.format_elapsed(look.at_s)}"
        for before, look in zip((None, *looks), looks, strict=False)
        if before is None or before.weight != look.weight
    ]
    body = Group(Text(f"▕{blocks}▏ {charts.format_elapsed(report.seconds)}"), Text(", ".join(changes)))
    return _section(f"Traffic of the {report.who} over time", body)


def _traffic_of_arms(report: ExperimentReport) -> list[RenderableType]:
    """The same of control and of each arm, to the greatest weight that any of them had."""
    courses = [course for course in charts.make_traffic_series(report) if course.has_weights]
    most = max(filter(None, (weight for course in courses for weight in course.weights)), default=100)
    grid = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for course in courses:
        blocks = _blocks(report.looks, course.weights, report.seconds, most)
        grid.add_row(Text(course.name), Text(f"▕{blocks}▏"), Text(_from_to(course.weights)))
    title = f"Traffic of the {report.who} over time, to {most:g} %"
    return _section(title, Group(grid, Text(f"in {charts.format_elapsed(report.seconds)}")))


def _from_to(weights: Sequence[float | None]) -> str:
    """Where a weight began and where it is, and how often it moved."""
    known = [weight for weight in weights if weight is not None]
    moved = sum(before != after for before, after in itertools.pairwise(known))
    times = "" if not moved else f" → {known[-1]:g} %, moved {moved} time{'s' if moved > 1 else ''}"
    return f"{known[0]:g} %{times}"


def _blocks(looks: Sequence[ReportPoint], weights: Sequence[float | None], seconds: float, full: float) -> str:
    """Weights as blocks over all of the time."""
    columns = (_in_force(looks, weights, (column + 0.5) / _WIDTH * seconds) for column in range(_WIDTH))
    return "".join(_BLOCKS[int(weight / full * (len(_BLOCKS) - 1) + 0.5)] if weight else " " for weight in columns)


def _in_force(looks: Sequence[ReportPoint], weights: Sequence[float | None], at_s: float) -> float:
    known = list(zip(looks, weights, strict=True))
    return next((weight or 0 for look, weight in reversed(known) if look.at_s <= at_s), 0)


def _metric(metric: ReportMetric) -> RenderableType:
    grid = Table(box=None, header_style="", padding=(0, 2, 0, 0))
    across = charts.make_ratio_scale(metric, 0, _ACROSS - 1)
    for name in ("TIME", "RATIO", "INTERVAL"):
        grid.add_column(name, no_wrap=name != "INTERVAL", justify="right")
    grid.add_column(_axis(across), no_wrap=True)
    grid.add_column("VERDICT", no_wrap=True)
    for bound in _spread(_once(metric.bounds)):
        grid.add_row(*map(Text, _numbers(bound)), _drawn(bound, metric, across), Text(bound.verdict))
    return grid


def _numbers(bound: MetricPoint) -> tuple[str, str, str]:
    """Time, ratio and interval as they are shown."""
    ratio = "–" if bound.ratio is None else f"{bound.ratio:.3g}"
    return charts.format_elapsed(bound.at_s), ratio, format_point_interval(bound) or "–"


def _once(bounds: Sequence[MetricPoint]) -> list[MetricPoint]:
    """Without those that would be shown as the one before: a change of weight and a look fall into one second."""
    pairs = zip((None, *bounds), bounds, strict=False)
    return [each for before, each in pairs if before is None or _shown(before) != _shown(each)]


def _shown(bound: MetricPoint) -> tuple[str, ...]:
    return (*_numbers(bound), bound.verdict, f"{bound.allowed:.3g}")


def _axis(across: AxisScale) -> Text:
    """The ends of the axis, and 1 where there is room for it."""
    low, high = (f"{float(f'{end:.2g}'):g}" for end in (across.low, across.high))
    line = list(low.ljust(_ACROSS - len(high)) + high)
    place = round(across.at(1.0))
    if len(low) < place < _ACROSS - len(high) - 1:
        line[place] = "1"
    return Text("".join(line))


def _spread(bounds: Sequence[MetricPoint]) -> list[MetricPoint]:
    """Some of them, the first and the last among them."""
    if len(bounds) <= _ROWS:
        return list(bounds)
    return [bounds[round(row * (len(bounds) - 1) / (_ROWS - 1))] for row in range(_ROWS)]


def _drawn(bound: MetricPoint, metric: ReportMetric, across: AxisScale) -> Text:
    """The interval as a line, with the ratio on it, before a line at 1 and one at what is allowed."""
    cells = [" "] * _ACROSS
    limit = bound.allowed if metric.judged else metric.margin
    for value, mark in ((1.0, "│"), *([(limit, "┊")] if limit != 1 else [])):
        cells[round(across.at(value))] = mark
    if bound.lower is not None:
        upper = across.high if bound.upper is None else bound.upper
        first, last = round(across.at(max(bound.lower, across.low))), round(across.at(upper))
        cells[first : last + 1] = [
            "┼" if cell == "│" else "╎" if cell == "┊" else "─" for cell in cells[first : last + 1]
        ]
        if bound.lower < across.low:
            cells[first] = "◂"
        if bound.upper is None or bound.upper > across.high:
            cells[last] = "▸"
    if bound.ratio is not None and across.shows(bound.ratio):
        cells[round(across.at(bound.ratio))] = "●"
    return Text("".join(cells), style=_VERDICTS.get(bound.verdict, ""))
